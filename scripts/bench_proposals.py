"""Time of one proposal beside Optuna used directly, by sampler and length of the history, on the same SQLite file.

``proposals``: 30 parameters (method, width rule, MACs target and a multiplier for each of 27 channel groups), two
objectives. Both sides end with a RUNNING trial in the database that has all its parameters: here a proposal and its
claim, there `ask` and 30 suggestions. *Cold*: from opening the database. *Warm*: the next proposal of the same process,
after one more trial has finished; the median of three, or a single one where it takes long. Every cell is a process of
its own, without the time of its imports.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

from autoprune.config import SAMPLERS, Range, SpaceConfig
from autoprune.cost import CostModel, LayerCost, LinearForm
from autoprune.search.proposals import GP, TPE, Proposer, Space, opening
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Point

N_GROUPS, NAME, OBJECTIVES = 27, "bench", ("accuracy", "macs_ratio")
POPULATION = 50  # Optuna's own
MOST_FOR_PLAIN_GP = 1_000


def space() -> Space:
    """Three stages of nine 3×3 convolutions, of 16, 32 and 64 channels."""
    names, fan_in, layers = tuple(f"conv{i}" for i in range(N_GROUPS)), LinearForm(3), []
    for i, name in enumerate(names):
        fan_out = LinearForm(0, ((i, 1),))
        layers.append(LayerCost(name, 9 * 4 ** (5 - i // 9), 9, 0, fan_in, fan_out))
        fan_in = fan_out
    dense = tuple(16 * 2 ** (i // 9) for i in range(N_GROUPS))
    config = SpaceConfig(name=NAME, methods={"one": {}, "other": {}}, width_rules=("per_group",),
                         macs_target=Range(low=0.1, high=0.9))  # fmt: skip
    cost = CostModel(names, dense, tuple(layers))
    return Space(config, cost, min_widths=dict.fromkeys(names, 1))


def score(point: Point) -> tuple[float, float]:
    """Concave in the target, and better the more alike the multipliers are."""
    spread = np.std(list(point.multipliers.values()))
    return float(0.5 + 0.4 * point.macs_target**0.5 - 0.2 * spread), point.macs_target


def write_history(path: Path, n: int) -> None:
    """A study with ``n`` complete trials, written by SQL."""
    db = Database.open(f"sqlite:///{path}", create=True)
    goals = ["maximize", "minimize"]
    study = StudyHandle.create_or_join(db, name=NAME, identity={}, config={}, directions=goals, objectives=OBJECTIVES)
    db.close()
    of, rng = space(), np.random.default_rng(0)
    points = opening(of, 3)
    while len(points) < n:
        points.append(of.point({name: p.at(rng.random()) for name, p in of.parameters.items()}))
    with sqlite3.connect(path) as connection:
        for number, point in enumerate(points):
            ended = f"2026-01-01 {number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000000"
            insert(connection, "trials", [(number + 1, number, study.study_id, "COMPLETE", ended, ended)])
            insert(connection, "trial_values", [(None, number + 1, i, v, "FINITE") for i, v in enumerate(score(point))])
            distributions = of.distributions(point)
            insert(connection, "trial_params", [
                (None, number + 1, name, d.to_internal_repr(point.params[name]), distribution_to_json(d))
                for name, d in distributions.items()
            ])  # fmt: skip
            attrs = {"point": point.to_dict(), "key": of.key(point, None)}
            insert(
                connection, "trial_user_attributes", [(None, number + 1, k, json.dumps(v)) for k, v in attrs.items()]
            )
            generation = json.dumps(number // POPULATION)
            insert(connection, "trial_system_attributes", [(None, number + 1, "NSGAIISampler:generation", generation)])
        # Optuna's genetic algorithm has chosen the parents of earlier generations when they began.
        last = (n - 1) // POPULATION
        parents = json.dumps([last * POPULATION - i for i in range(POPULATION)])
        insert(connection, "study_system_attributes", [(None, study.study_id, f"NSGAIISampler:parent:{last}", parents)])
    connection.close()


def insert(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Add rows, given in the order of the table's columns."""
    connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came of it."""
    start = time.perf_counter()
    made = work()
    return time.perf_counter() - start, made


def repeats(cold: float) -> int:
    """How often the next proposal is timed."""
    return 3 if cold < 5 else 1


def ours(path: Path, sampler: str) -> dict[str, float]:
    """Cold and warm seconds of autoprune."""

    def first() -> tuple[Lifecycle, Proposer, Claim]:
        db = Database.open(f"sqlite:///{path}", create=False)
        lifecycle = Lifecycle(StudyHandle.open(db, NAME), owner="me", n_trials=10**6)
        proposer = Proposer(space(), n_trials=3, sampler=sampler, seed=0, objectives=OBJECTIVES, context=None)
        return lifecycle, proposer, claim(lifecycle, proposer)

    def claim(lifecycle: Lifecycle, proposer: Proposer) -> Claim:
        claimed = lifecycle.claim(proposer.propose(lifecycle.study.trials()))
        assert isinstance(claimed, Claim)
        return claimed

    cold, (lifecycle, proposer, claimed) = timed(first)
    warm = []
    for _ in range(repeats(cold)):
        values = score(Point.from_dict(claimed.attrs["point"]))
        lifecycle.complete(claimed.trial_id, values, dict(zip(OBJECTIVES, values, strict=True)))
        seconds, claimed = timed(lambda: claim(lifecycle, proposer))
        warm.append(seconds)
    return {"cold": cold, "warm": statistics.median(warm)}


def plain(path: Path, sampler: str) -> dict[str, float]:
    """Cold and warm seconds of Optuna."""
    made: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True),
        "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=0, population_size=POPULATION),
        "gp": lambda: optuna.samplers.GPSampler(seed=0),
        "quasi_random": lambda: optuna.samplers.QMCSampler(seed=0, scramble=True),
        "random": lambda: optuna.samplers.RandomSampler(seed=0),
    }
    of = space()

    def first() -> tuple[optuna.Study, optuna.Trial]:
        study = optuna.load_study(study_name=NAME, storage=f"sqlite:///{path}", sampler=made[sampler]())
        return study, ask(study)

    def ask(study: optuna.Study) -> optuna.Trial:
        trial = study.ask()
        for name, parameter in of.parameters.items():
            distribution = parameter.distribution
            if isinstance(distribution, CategoricalDistribution):
                trial.suggest_categorical(name, distribution.choices)
            else:
                assert isinstance(distribution, FloatDistribution)
                trial.suggest_float(name, distribution.low, distribution.high)
        return trial

    cold, (study, trial) = timed(first)
    warm = []
    for _ in range(repeats(cold)):
        study.tell(trial, score(of.point(trial.params)))
        seconds, trial = timed(lambda: ask(study))
        warm.append(seconds)
    return {"cold": cold, "warm": statistics.median(warm)}


def cell(side: str, history: Path, sampler: str, n: int, limit_s: float) -> str:
    """Cold and warm seconds of one cell in a process of its own, in words."""
    if side == "plain" and sampler == "gp" and n > MOST_FOR_PLAIN_GP:
        return "not run: all trials in one process, 22 GB at 10,000 |"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(history, folder))
        command = [sys.executable, "-W", "ignore", __file__, "proposals", "--cell", side, str(path), sampler]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=True)
        except subprocess.TimeoutExpired:
            return f"over {limit_s:.0f} |"
    found = json.loads(done.stdout.splitlines()[-1])
    return f"{found['cold']:.2f} | {found['warm']:.2f}"


def main() -> None:
    """Measure all cells and print them as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("proposals",))
    parser.add_argument("--trials", nargs="+", type=int, default=(100, 1_000, 2_000, 10_000))
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one cell")
    parser.add_argument("--cell", nargs=3, metavar=("SIDE", "FILE", "SAMPLER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        side, file, sampler = args.cell
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        print(json.dumps((ours if side == "ours" else plain)(Path(file), sampler)))
        return
    print(
        f"{machine.described()}, Python {platform.python_version()}, "
        f"optuna {optuna.__version__}; 30 parameters, 2 objectives, SQLite; seconds. TPE sees at most "
        f"{TPE.most_trials:,} trials here, GP {GP.most_trials:,}.\n"
    )
    print("| sampler | trials | cold | warm | Optuna, cold | Optuna, warm |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for n in args.trials:
            write_history(Path(folder) / f"{n}.db", n)
        for sampler in args.samplers:
            for n in args.trials:
                history = Path(folder) / f"{n}.db"
                sides = [cell(side, history, sampler, n, args.limit) for side in ("ours", "plain")]
                print(f"| {sampler} | {n:,} | {' | '.join(sides)} |", flush=True)


if __name__ == "__main__":
    main()
