"""Time and memory of the commands that people type, and of a launch, on a study of many trials.

Each command runs in a process of its own; its time is that after its imports, its memory the most that the process ever
held, imports included. A launch is timed from its start to its first proposal in the database, beside the same launch
of a study of two trials: what is between them is the history.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa
from large_study import N_PARAMS, NAME, write_study

from autoprune.search.storage import Database, schema

_MEASURED = """
import json, re, resource, sys, time
from pathlib import Path
import optuna, pandas, sqlalchemy
import autoprune.api._fronts, autoprune.api._status, autoprune.cli.tables
from autoprune.cli.main import main

wall, cpu = time.perf_counter(), time.process_time()
code = main(sys.argv[1:])
took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
status = Path("/proc/self/status")
if status.exists():  # Linux counts what the parent held to a child's maximum, but not there.
    most = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) / 2**10
else:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
print(json.dumps({"code": code, **took, "rss_mb": most}), file=sys.stderr)
"""
_LAUNCH_S, _END_S = 600.0, 120.0

QUESTIONS: Sequence[tuple[str, ...]] = (
    ("pareto",), ("pareto", "--where", "macs_target < 0.5 and params <= 200000"), ("pareto", "--top", "5"),
    ("pareto", "--under", "macs_ratio <= 0.5"), ("status",), ("show", "47"),
)  # fmt: skip


def measure(storage: str, *command: str) -> dict[str, float]:
    """Exit code, seconds of wall and processor after the imports, and memory of a command on the study."""
    name, *rest = command
    call = [sys.executable, "-c", _MEASURED, name, NAME, *rest, "--storage", storage]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stderr.splitlines()[-1])
    return found


def seconds_to_first_proposal(study: Path, storage: str) -> float:
    """Seconds from the start of `autoprune launch` to a new trial in the database; the launch is then interrupted."""
    db = Database.open_readonly(storage)
    before, started = _newest(db), time.monotonic()
    call = [sys.executable, "-m", "autoprune", "launch", str(study), "--storage", storage, "--concurrency", "1"]
    with tempfile.TemporaryFile("w+") as log:
        launch = subprocess.Popen(call, stdout=log, stderr=log)
        try:
            while _newest(db) == before:
                if launch.poll() is not None or time.monotonic() > started + _LAUNCH_S:
                    log.seek(0)
                    raise RuntimeError(f"the launch ended without a proposal:\n{log.read()}")
                time.sleep(0.1)
            return time.monotonic() - started
        finally:
            launch.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                launch.wait(_END_S)
            launch.kill()
            launch.wait()
            db.close()


def _newest(db: Database) -> int | None:
    with db.reading() as connection:
        found: int | None = connection.execute(sa.select(sa.func.max(schema.optuna_trials.c.number))).scalar_one()
    return found


@contextlib.contextmanager
def _large_study(n: int, storage: str | None) -> Iterator[tuple[Path, str]]:
    """A study of ``n`` trials in a folder of its own, in a SQLite file there unless a database is named."""
    folder = Path(tempfile.mkdtemp(prefix="autoprune-bench-"))
    try:
        url = storage or f"sqlite:///{folder / 'bench.db'}"
        yield write_study(folder, n, storage=url), url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["front"])
    parser.add_argument("--trials", type=int, default=50_000)
    parser.add_argument("--storage", help="an empty PostgreSQL database; without it SQLite files are made")
    parser.add_argument("--without-launch", action="store_true")
    args = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    with _large_study(args.trials, args.storage) as (study, storage):
        print(f"{args.trials:,} trials of {N_PARAMS} parameters")
        for command in QUESTIONS:
            found = min((measure(storage, *command) for _ in range(3)), key=lambda each: each["wall_s"])
            told = f"{found['wall_s']:.2f} s ({found['cpu_s']:.2f} s of processor), {found['rss_mb']:.0f} MB"
            name, *rest = command
            print(f"{told}: autoprune {' '.join([name, NAME, *rest])}", flush=True)
        if args.without_launch:
            return
        with _large_study(2, None) as (small, other):
            without = seconds_to_first_proposal(small, other)
        seconds = seconds_to_first_proposal(study, storage)
        print(f"{seconds:.1f} s: autoprune launch to the first proposal, {without:.1f} s in a study of 2 trials")


if __name__ == "__main__":
    main()
