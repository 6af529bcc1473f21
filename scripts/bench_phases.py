"""What sharing the sparsify phase saves: the same trials with and without it, one at a time, in turn in one process.

``phases``: trials of `studies/digits` with slimming, over its three strengths. *With*: a phase that is in the cache is
taken from there. *Without*: each trial has a cache of its own, in which there is the dense network alone. Either way a
trial must give the same bits. *Predicted* is the ratio that follows from the times that the trials with the cache give
for their own phases: what they would have taken had each of them trained for as long as the first of its strength did.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import machine
import torch

from autoprune import methods
from autoprune.config import TrialResult, TrialSpec, load_study
from autoprune.engine.files import PhaseStore
from autoprune.pipeline import open_workbench, run_trial

STUDY = Path(__file__).parents[1] / "studies" / "digits" / "study.toml"
LEAST_TARGET = 0.05
Timed = tuple[float, TrialResult]


def specs_of(folder: Path, n_trials: int) -> list[TrialSpec]:
    """Trials that go through the strengths in turn, then through rules and targets."""
    config = load_study(STUDY, methods.ranges())
    setting = dataclasses.replace(config.setting, artifacts=str(folder))
    strengths = config.space.methods["slimming"]["strength"].grid or ()
    targets = [float(target) for target in config.space.macs_target.grid or () if float(target) >= LEAST_TARGET]
    points = itertools.product(targets, ("uniform", "global"), strengths)
    return [
        TrialSpec(
            setting=setting, study="bench", number=number, method="slimming",
            hyper={"strength": strength}, width_rule=rule, macs_target=target,
        )
        for number, (target, rule, strength) in enumerate(itertools.islice(points, n_trials))
    ]  # fmt: skip


def copies(folder: Path) -> Iterator[PhaseStore]:
    """One cache after another with the content of ``folder``; each is gone when the next one is asked for."""
    for number in itertools.count():
        copy = folder.with_name(f"{folder.name}-{number}")
        yield PhaseStore(shutil.copytree(folder, copy))
        shutil.rmtree(copy)


def timed(spec: TrialSpec, store: PhaseStore) -> Timed:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = run_trial(spec, lambda report: None, store)
    return time.perf_counter() - start, result


def predicted(specs: list[TrialSpec], found: list[Timed]) -> float:
    """Seconds that the trials with the cache would have taken without it, by their own times."""
    total, trained = 0.0, dict[float, float]()
    for spec, (seconds, result) in zip(specs, found, strict=True):
        own = trained.setdefault(spec.hyper["strength"], result.wall_s["sparsify"])
        total += seconds + own - result.wall_s["sparsify"]
    return total


def compare(n_trials: int, folder: Path) -> None:
    """Run everything and print the figures."""
    specs = specs_of(folder, n_trials)
    dense = folder / "dense"
    open_workbench(specs[0].setting).dense(PhaseStore(dense))
    shared, own = PhaseStore(shutil.copytree(dense, folder / "shared")), copies(dense)
    timed(dataclasses.replace(specs[0], number=n_trials), next(own))  # What only the first trial of a process pays.
    with_cache: list[Timed] = []
    without: list[Timed] = []
    for spec in specs:
        pair = [(with_cache, shared), (without, next(own))]
        for results, store in pair if spec.number % 2 == 0 else reversed(pair):  # Neither is always the first.
            results.append(timed(spec, store))
    seconds = [sum(taken for taken, _ in results) for results in (with_cache, without)]
    n_strengths = len({spec.hyper["strength"] for spec in specs})
    expected = predicted(specs, with_cache) / seconds[0]
    measured = seconds[1] / seconds[0]
    pairs = [(a, b) for (_, a), (_, b) in zip(with_cache, without, strict=True)]
    print(
        f"{n_trials} trials over {n_strengths} strengths, one at a time: with the cache {seconds[0]:.1f} s, "
        f"without {seconds[1]:.1f} s\n"
        f"ratio measured {measured:.3f}, predicted {expected:.3f}, measured / predicted {measured / expected:.3f}\n"
        f"equal to the last bit: accuracy {sum(a.score == b.score for a, b in pairs)} of {n_trials}, "
        f"weights {sum(a.sha256 == b.sha256 for a, b in pairs)} of {n_trials}"
    )


def main() -> None:
    """Measure in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("phases",))
    parser.add_argument("--trials", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(
        f"{machine.described()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="autoprune-bench-") as folder:
        compare(args.trials, Path(folder))


if __name__ == "__main__":
    main()
