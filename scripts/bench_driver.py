"""Seconds of a driver for each trial that does nothing, beside Ray Tune's own `OptunaSearch`, in one run.

``driver``: the same number of trials on the same Ray cluster, each of which reports once and ends, so that what is
left is what drivers do: propose, claim, hear, tell. Both reuse their actors and take turns. Here everything is in a
SQLite file, flushed at each claim and tell; `OptunaSearch` keeps its study in memory, as it does where nobody says
otherwise, and loses it with the process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_study
import machine
import optuna
from fake_study import METHODS, NAME, OBJECTIVES

from autoprune.config import Progressed
from autoprune.distributed import Slots, drive, open_cluster
from autoprune.search.dispatch import Dispatcher, FailureCaps, Goals, WindDown
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, new_owner


def scored(point: dict[str, Any]) -> dict[str, float]:
    """A result that takes no time."""
    return {"accuracy": 0.5 + 0.4 * point["macs_target"] ** 0.5, "macs_ratio": point["macs_target"]}


def ours(folder: Path, n_trials: int, concurrency: int) -> None:
    """A study of autoprune, driven as a launch does it."""
    db = Database.open(f"sqlite:///{folder}/study.db", create=True)
    record = StudyHandle.create_or_join(
        db, name=NAME, identity={}, config={}, directions=["maximize", "minimize"], objectives=OBJECTIVES
    )
    lifecycle = Lifecycle(record, owner=new_owner(), n_trials=n_trials)
    dispatcher = Dispatcher(
        lifecycle,
        fake_study.proposer(n_trials, inherit=False),
        wind_down=WindDown(lifecycle, caps=FailureCaps(3, 20)),
        goals=Goals(OBJECTIVES),
        concurrency=concurrency,
    )

    def execute(config: dict[str, Any], report: Callable[[Progressed], None]) -> dict[str, Any]:
        return scored(config["point"])

    def make_config(claim: Claim) -> dict[str, Any]:
        return {"point": claim.attrs["point"]}

    slots = Slots(concurrency=concurrency, cpu=1, gpu=0, threads=1)
    with dispatcher:
        drive(dispatcher, execute=execute, make_config=make_config, slots=slots, scratch=folder / "ray")
    n_finished = dispatcher.counts().finished
    db.close()
    if n_finished != n_trials:
        raise RuntimeError(f"{n_finished} trials have finished instead of {n_trials}")


def define(trial: optuna.Trial) -> None:
    """The same space for Optuna; at the top of a module, since Tune pickles it."""
    trial.suggest_float("macs_target", 0.1, 0.9)
    if trial.suggest_categorical("method", sorted(METHODS)) == "slimming":
        trial.suggest_float("strength", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("width_rule", ["uniform", "global"])


def report_once(config: dict[str, Any]) -> None:
    """A trial of Tune that takes no time."""
    from ray import tune

    tune.report(scored(config))


def theirs(folder: Path, n_trials: int, concurrency: int) -> None:
    """The same with what Ray Tune has."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    tuner = tune.Tuner(
        tune.with_resources(report_once, {"CPU": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(define, metric=list(OBJECTIVES), mode=["max", "min"], seed=0),
            num_samples=n_trials,
            max_concurrent_trials=concurrency,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="theirs", storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    if len(results) != n_trials or results.num_errors:
        raise RuntimeError(f"{len(results)} trials and {results.num_errors} errors instead of {n_trials} trials")


def measured(side: Callable[[Path, int, int], None], n_trials: int, concurrency: int) -> tuple[float, float]:
    """Seconds of wall and of this process's processor for each trial."""
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        side(Path(folder), n_trials, concurrency)
        return (time.perf_counter() - wall) / n_trials, (time.process_time() - cpu) / n_trials


def main() -> None:
    """Measure both sides in turn and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("driver",))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"autoprune": [], "OptunaSearch": []}
    with open_cluster():
        for side in (ours, theirs):
            measured(side, 2 * args.concurrency, args.concurrency)  # Imports and the first workers are nobody's.
        for _ in range(args.rounds):
            for name, side in (("OptunaSearch", theirs), ("autoprune", ours)):
                found[name].append(measured(side, args.trials, args.concurrency))
                print(
                    f"{name}: {found[name][-1][0]:.3f} s, {found[name][-1][1]:.3f} s of processor a trial", flush=True
                )
    middle = {name: [statistics.median(each) for each in zip(*rounds, strict=True)] for name, rounds in found.items()}
    print(f"\n{args.trials} trials, {args.concurrency} at once, median of {args.rounds} rounds.\n{machine.summary()}\n")
    print("| a trial | wall | processor of the driver |\n|---|---:|---:|")
    for name, (wall, cpu) in middle.items():
        print(f"| {name} | {wall * 1e3:.0f} ms | {cpu * 1e3:.0f} ms |")
    wall, cpu = (a / b for a, b in zip(middle["autoprune"], middle["OptunaSearch"], strict=True))
    print(f"| **ratio** | **{wall:.2f}** | **{cpu:.2f}** |")


if __name__ == "__main__":
    main()
