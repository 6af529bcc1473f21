"""The machine that a bench or a study ran on, in words."""

import os
import platform
import subprocess
import time
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def cpu() -> str:
    """Name of the processor."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def described() -> str:
    """Processor, cores and load."""
    return f"{cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 itself; elsewhere that is several times slower than float32."""
    flags = set(_CPUINFO.read_text().split()) if _CPUINFO.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16"})


def now_s() -> float:
    """Seconds, rising, to take differences of: of the accelerator's work where there is one, else of this process.

    On a processor that others use as well, the time that it worked for this process says more than what a clock on the
    wall does.
    """
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
        return time.perf_counter()
    return time.process_time()


def busy(*, over_s: float = 1.0) -> float:
    """Share of all cores' time that anybody uses, measured over a moment; 0 where Linux does not tell."""

    def times() -> list[int]:
        stat = Path("/proc/stat")
        return [int(field) for field in stat.read_text().split("\n")[0].split()[1:9]] if stat.exists() else [0] * 8

    before = times()
    time.sleep(over_s)
    passed = [after - earlier for after, earlier in zip(times(), before, strict=True)]
    return 1 - sum(passed[3:5]) / sum(passed) if sum(passed) else 0.0  # The fourth and fifth are idle and waiting.


def commit() -> str:
    """The commit of this checkout, with a ``+`` behind it where files have been changed since."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def summary() -> str:
    """Cores, processor, torch and commit: how the results of a study begin."""
    import torch

    return f"Hardware: {os.cpu_count()} cores, {cpu()}. torch {torch.__version__}. Commit {commit()}."
