"""Time and memory of `autoprune pareto` and `status` on many trials, bulk-inserted into a SQLite file.

Every trial has 30 parameters and the attributes that our own trials have. The command runs in a process of its own;
the time is that after its imports, the memory the most that the process ever held, imports included.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution, distribution_to_json

from autoprune import methods
from autoprune.config import load_study
from autoprune.search.storage import Database, StudyHandle

NAME, N_PARAMS = "bench", 30
STUDY = Path(__file__).parents[1] / "studies" / "digits" / "study.toml"
_MEASURED = """
import json, re, resource, sys, time
from pathlib import Path
import optuna, pandas, sqlalchemy
import autoprune.api._fronts, autoprune.cli.tables
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


def write_study(path: Path, n: int) -> None:
    """A study with ``n`` trials on a trade-off with noise, most of them complete, written by SQL."""
    db = Database.open(f"sqlite:///{path}", create=True)
    config = load_study(STUDY, methods.catalogue())
    goals = {"directions": config.study.directions, "objectives": config.study.objectives}
    study = StudyHandle.create_or_join(db, name=NAME, identity={}, config={"config": config.to_dict()}, **goals)
    db.close()
    rng = np.random.default_rng(0)
    ratios = rng.random(n).round(4)
    accuracies = (0.95 * ratios**0.1 - rng.gamma(1.0, 0.05, n)).clip(0).round(4)
    states = rng.choice(["COMPLETE"] * 8 + ["PRUNED", "FAIL"], n).tolist()
    distribution, params = distribution_to_json(FloatDistribution(0.0, 1.0)), rng.random((n, N_PARAMS))
    moment = "2026-01-01 00:00:00.000000"
    with sqlite3.connect(path) as connection:
        insert(connection, "trials", ((i + 1, i, study.study_id, states[i], moment, moment) for i in range(n)))
        points = enumerate(zip(accuracies.tolist(), ratios.tolist(), strict=True))
        insert(connection, "trial_values", (
            (None, i + 1, m, value, "FINITE")
            for i, point in points if states[i] == "COMPLETE" for m, value in enumerate(point)
        ))  # fmt: skip
        insert(connection, "trial_params", (
            (None, i + 1, f"p{k:02}", value, distribution)
            for i, row in enumerate(params.tolist()) for k, value in enumerate(row)
        ))  # fmt: skip
        insert(connection, "trial_user_attributes", (
            (None, i + 1, key, json.dumps(value))
            for i in range(n) for key, value in attributes(i, float(ratios[i])).items()
        ))  # fmt: skip
    connection.close()


def attributes(number: int, ratio: float) -> dict[str, Any]:
    """What a trial of ours leaves beside its values."""
    widths = {f"layer{i}.conv1": 16 for i in range(20)}
    return {
        "point": {"method": "magnitude", "width_rule": "global", "macs_target": ratio, "hyper": {}, "shape": widths},
        "key": f"{number:064}", "owner": "here:1:abc", "revision": 1, "claimed_at": 1.8e9 + number, "attempt": 0,
        "seed_number": number, "hyper": "", "method": "magnitude", "macs": round(4e7 * ratio), "macs_ratio": ratio,
        "params": round(3e5 * ratio), "params_ratio": ratio, "images": 10_000, "widths": widths, "sha256": "0" * 64,
        "rungs": {"0": 0.5}, "wall_s": {"finetune": 30.0}, "weights": f"/artifacts/trials/bench/{number}.safetensors",
    }  # fmt: skip


def insert(connection: sqlite3.Connection, table: str, rows: Iterator[tuple[Any, ...]]) -> None:
    """Add rows, given in the order of the table's columns."""
    first = next(rows)
    query = f"INSERT INTO {table} VALUES ({', '.join('?' * len(first))})"
    connection.execute(query, first)
    connection.executemany(query, rows)


def measure(path: Path, *flags: str, what: str = "pareto") -> dict[str, float]:
    """Exit code, seconds of wall and processor after the imports, and memory of the command ``what``."""
    command = [sys.executable, "-c", _MEASURED, what, NAME, *flags, "--storage", f"sqlite:///{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stderr.splitlines()[-1])
    return found


QUESTIONS: Sequence[tuple[str, ...]] = (
    ("pareto",), ("pareto", "--where", "p03 < 0.5 and params <= 200000"), ("pareto", "--top", "5"),
    ("pareto", "--under", "macs_ratio <= 0.5"), ("status",),
)  # fmt: skip


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["front"])
    parser.add_argument("--trials", type=int, default=50_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        write_study(path, args.trials)
        print(f"{args.trials:,} trials of {N_PARAMS} parameters, {path.stat().st_size / 1e6:.0f} MB")
        for what, *flags in QUESTIONS:
            found = min((measure(path, *flags, what=what) for _ in range(3)), key=lambda each: each["wall_s"])
            told = f"{found['wall_s']:.2f} s ({found['cpu_s']:.2f} s of processor), {found['rss_mb']:.0f} MB"
            print(f"{told}: autoprune {what} {NAME} {' '.join(flags)}")


if __name__ == "__main__":
    main()
