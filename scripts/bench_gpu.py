"""All that only a GPU can show, in one command of at most eight minutes: one JSON and one Markdown table.

It needs torch and the packages of autoprune, which may lie in a folder of wheels (``--wheels``); nothing is fetched.
Each part of `bench_gpu_parts` runs in a process of its own within its time, and what fails or takes too long leaves the
rest as it is. This file itself needs the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = Path(__file__).with_name("bench_gpu_parts.py")
GRACE_S = 10.0  # A part that plans for its time gets this much more before it is ended.
_TAIL = 2_000  # Letters of what a failed part said that are kept.


@dataclass(frozen=True)
class Part:
    """What is run.

    Args:
        name: Of the part.
        what: It does, for people.
        seconds: It may take; 0: all that the others leave.
    """

    name: str
    what: str
    seconds: float


ALL = (
    Part("device", "what there is", 30),
    Part("tests", "the tests that need an accelerator", 60),
    Part("networks", "every built-in network is traced, cut and trained for a step", 80),
    Part("training", "our loop beside others", 60),
    Part("widths", "images a second over widths", 30),
    Part("study", "40 trials at 0.125 GPU each", 80),
    Part("front", "a front of CIFAR-10", 0),
)


def installed(wheels: Path, folder: Path) -> Path:
    """The wheels, unpacked into a folder; what they need is not looked for.

    Raises:
        SystemExit: pip fails.
    """
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"`--wheels` must name a folder of wheels, but {wheels} holds none.")
    options = ["--no-index", "--no-deps", "--no-compile", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the wheels of {wheels} can't be installed: {done.stderr.strip()[-_TAIL:]}")
    return folder


def environment(site: Path | None) -> dict[str, str]:
    """That parts run in: autoprune from the wheels where it is among them, else from this checkout."""
    own = [str(ROOT), str(PARTS.parent)]
    there = [] if site is None else [str(site)]
    paths = [*there, *own] if site is not None and (site / "autoprune").is_dir() else [*own, *there]
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *([before] if before else [])])}


def run(part: Part, seconds: float, *, arguments: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
    """Run one part; what it found, and why it is no more than that.

    Args:
        part: Which.
        seconds: It may take.
        arguments: Of all parts.
        env: See `environment`.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        found, said = Path(folder) / "found.json", Path(folder) / "said"
        command = [sys.executable, "-W", "ignore", str(PARTS), part.name, "--seconds", f"{seconds:.0f}"]
        with said.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--found", str(found), *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=folder,
                env=env, start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = process.wait(seconds + GRACE_S)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
        told = said.read_text(errors="replace")
    why = None if code == 0 else "it took too long" if code is None else _last_line(told)
    ended = {"seconds": round(time.monotonic() - start, 1), "allowed_s": round(seconds), "why": why, "rows": rows}
    return {"what": part.what, **ended, **({"said": told[-_TAIL:]} if why else {})}


def _last_line(told: str) -> str:
    lines = [line for line in told.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(found: Mapping[str, Any]) -> str:
    """All figures as one Markdown table."""
    lines = ["| part | what | figure |", "|---|---|---|"]
    for name, part in found["parts"].items():
        rows = [(row["what"], row["figure"]) for row in part["rows"]]
        taken = f"{part['seconds']:.0f} s of {part['allowed_s']:.0f}"
        rows.append((f"*{part['what']}*", taken if part["why"] is None else f"{taken}; **ended**: {part['why']}"))
        lines += [f"| {name} | {_cell(what)} | {_cell(figure)} |" for what, figure in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def bench(options: argparse.Namespace, site: Path | None) -> dict[str, Any]:
    """Run all parts, one after another, and write what is known after each."""
    end = time.monotonic() + 60 * options.minutes
    arguments = ["--short"] if options.short else []
    for key in ("data", "weights"):
        if getattr(options, key) is not None:
            arguments += [f"--{key}", str(getattr(options, key).resolve())]
    found: dict[str, Any] = {"short": options.short, "parts": {}}
    options.to.mkdir(parents=True, exist_ok=True)
    for part in ALL:
        if options.parts and part.name not in options.parts:
            continue
        left_s = end - time.monotonic() - GRACE_S
        seconds = left_s if options.short else min(left_s, part.seconds or left_s)  # A CPU is slower at less.
        if seconds < 1:
            found["parts"][part.name] = {
                "what": part.what, "seconds": 0.0, "allowed_s": 0, "why": "there was no time left", "rows": [],
            }  # fmt: skip
            continue
        print(f"{part.name}: {part.what} ({seconds:.0f} s) ...", flush=True)
        found["parts"][part.name] = run(part, seconds, arguments=arguments, env=environment(site))
        (options.to / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.to / "gpu.md").write_text(table(found), encoding="utf-8")
    return found


def main() -> None:
    """Run the parts, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="?", choices=("gpu",))
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use, installed without asking anybody")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 as train.parquet and test.parquet")
    parser.add_argument("--weights", type=Path, help="dense ResNet-20 for the front; else the study trains it")
    parser.add_argument("--to", type=Path, default=ROOT / "studies" / "gpu", help="where gpu.json and gpu.md go")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--short", action="store_true", help="the short form, which a CPU bears")
    parser.add_argument("--parts", nargs="+", choices=[part.name for part in ALL], help="only these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-wheels-") as folder:
        site = None if options.wheels is None else installed(options.wheels, Path(folder))
        found = bench(options, site)
    print(table(found))
    sys.exit(1 if any(part["why"] for part in found["parts"].values()) else 0)


if __name__ == "__main__":
    main()
