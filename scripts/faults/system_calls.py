"""System calls of a live process that fail, by `strace -e inject`; its log tells which did."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from faults.arena import Arena, Missed

__all__ = ["failing", "has_strace"]


def has_strace(arena: Arena) -> bool:
    """Whether we may trace; the same for every study."""
    return _may_trace()


@functools.cache
def _may_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0


def _end(tracer: subprocess.Popen[bytes]) -> None:
    """End strace, which may wait for a process that dies while it is traced, as that waits for strace."""
    tracer.terminate()
    try:
        tracer.wait(5)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()


def failing(pid: int, calls: str, error: str, *, for_s: float, paths: Sequence[Path] = (), when: str = "1+") -> str:
    """Let some system calls of a process and its threads fail for a while.

    Args:
        pid: The process.
        calls: Names, joined by commas.
        error: Such as ``EIO``.
        for_s: How long at most; over as soon as one has failed and half a second has gone by since.
        paths: Only calls on these files; none: all.
        when: Which of the calls, as strace counts them in each thread.

    Returns:
        The first of those that failed.

    Raises:
        Missed: None has.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".strace") as log:
        narrowed = [word for path in paths for word in ("-P", str(path))]
        command = ["strace", "-f", "-q", "-p", str(pid), "-o", log.name, *narrowed]
        inject = f"inject={calls}:error={error}:when={when}"
        tracer = subprocess.Popen([*command, "-e", f"trace={calls}", "-e", inject], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + for_s
            while time.monotonic() < deadline and tracer.poll() is None:
                time.sleep(0.2)
                if "INJECTED" in Path(log.name).read_text():
                    time.sleep(0.5)
                    break
        finally:
            _end(tracer)
        hits = [line for line in Path(log.name).read_text().splitlines() if "INJECTED" in line]
    if not hits:
        raise Missed(f"process {pid} made no such call")
    return f"{len(hits)} calls, first: {hits[0][:160]}"
