"""A study whose trials take no time: the real search, storage, phases and files around a made-up `run_trial`.

What proves that nothing is lost (`crash_points.py`, `simulate.py`) drives it in its own process, without Ray. The
trials publish real files, share phases, start from each other's networks, take results over, stop, fail and crash.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from autoprune import methods
from autoprune.api._cleaning import Retention
from autoprune.api._reading import Study
from autoprune.config import Completed, Failed, Progressed, Range, Report, SpaceConfig, Stopped, digest, load_study
from autoprune.cost import CostModel, LayerCost, Limits, LinearForm
from autoprune.engine.files import PhaseStore, publish
from autoprune.search.dispatch import Dispatcher, FailureCaps, Goals, SharedPhases, Verdict, WindDown
from autoprune.search.phases import PhaseCache, PhaseRows
from autoprune.search.proposals import Budget, Planner, Proposer, Space
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Point

NAME, OBJECTIVES, SEED = "s", ("accuracy", "macs_ratio"), 0
CONFIG = Path(__file__).parents[1] / "studies" / "digits" / "study.toml"
METHODS: dict[str, dict[str, Range]] = {
    "magnitude": {},
    "slimming": {"strength": Range(low=1e-4, high=1e-2, scale="log", points=3)},
}


def space() -> Space:
    """Two prunable layers, a method that shares phases and one that does not."""
    layers = (
        LayerCost("a", 9 * 64, 9, 0, LinearForm(3), LinearForm(0, ((0, 1),))),
        LayerCost("b", 9 * 64, 9, 0, LinearForm(0, ((0, 1),)), LinearForm(0, ((1, 1),))),
        LayerCost("fc", 1, 1, 1, LinearForm(0, ((1, 1),)), LinearForm(10)),
    )
    config = SpaceConfig(
        name="fake", methods=METHODS, width_rules=("uniform", "global"), macs_target=Range(low=0.1, high=0.9)
    )
    return Space(config, CostModel(("a", "b"), (16, 32), layers), widths=Limits(multiple=1))


def join(db: Database, folder: Path) -> StudyHandle:
    """Make the study, or join it, with its files in a folder."""
    config = load_study(CONFIG, methods.catalogue())
    setting = dataclasses.replace(config.setting, artifacts=str(folder / "artifacts"))
    stored = dataclasses.replace(config, study=dataclasses.replace(config.study, name=NAME), setting=setting)
    return StudyHandle.create_or_join(
        db, name=NAME, identity={}, config={"config": stored.to_dict()}, directions=["maximize", "minimize"],
        objectives=OBJECTIVES,
    )  # fmt: skip


def proposer(n_trials: int, *, sampler: str = "tpe", inherit: bool = True) -> Proposer:
    """Proposals as a launch makes them, with lineages where trials inherit."""
    planner = Planner(
        (0.7, 0.5, 0.3), within=(0.1, 1.0), worst=(1.0, 1.0), methods=["magnitude"],
        budget=Budget(n_images=1_000, epochs=2.0, least_epochs=1.0),
    )  # fmt: skip
    return Proposer(
        space(), n_trials=n_trials, sampler=sampler, seed=SEED, objectives=OBJECTIVES, context=None,
        planner=planner if inherit else None,
        has_phase=lambda point: phase_of(point) is not None,
    )  # fmt: skip


def phase_of(point: Point) -> str | None:
    """Key of the sparsify phase that a point's trial starts from."""
    return digest(point.method, point.hyper) if point.method == "slimming" else None


def dispatcher(
    record: StudyHandle,
    folder: Path,
    *,
    owner: str,
    n_trials: int,
    concurrency: int,
    proposer: Proposer,
    clock: Callable[[], float] = time.monotonic,
    grace_s: float = 60.0,
    phase_bytes: float = 1e9,
) -> Dispatcher:
    """A driver's desk, put together as a launch does."""
    cache = PhaseCache(PhaseRows(record.db), folder=folder / "artifacts" / "phases", limit_bytes=phase_bytes)
    cache.shrink()
    retention = Retention(Study(record.db, record), clock=clock)
    lifecycle = Lifecycle(record, owner=owner, n_trials=n_trials, grace_s=grace_s, max_retry=10)
    return Dispatcher(
        lifecycle,
        proposer,
        wind_down=WindDown(lifecycle, caps=FailureCaps(10**6, 10**6), clock=clock),
        goals=Goals(OBJECTIVES),
        concurrency=concurrency,
        shared=SharedPhases(phase_of, cache.shrink),
        on_complete=retention.apply,
    )


@dataclass(frozen=True)
class FakeTrial:
    """What a worker does with a claim: says one thing after another, and ends with a result, an error, or its death.

    Args:
        claim: The trial.
        folder: Where its files go.
        misfortunes: Whether some trials fail, stop or crash, by their seed number.
    """

    claim: Claim
    folder: Path
    misfortunes: bool = True

    def reports(self) -> Iterator[Report | None]:
        """What it says, in order; None: the worker has died."""
        point, number = self.claim.point, self.claim.seed_number
        key = phase_of(point)
        if key is not None:
            store = PhaseStore(self.folder / "artifacts" / "phases")
            phase = store.get("sparsify", key, lambda: (_tensors(key), {}))
            yield Progressed(phase="sparsify", progress=1.0, phase_file=phase.file)
        facts = _facts(point, number)
        rung: dict[str, Any] = {"phase": "finetune", "macs_ratio": facts["macs_ratio"]}
        # Of seven trials the second has the result of the first.
        twin = number if number % 7 not in (0, 1) else f"twins {number // 7}"
        result_key = digest(twin)
        yield Progressed(progress=0.0, rung=0, score=facts["accuracy"] / 2, result_key=result_key, **rung)
        if self.misfortunes and number % 7 == 2 and self.claim.attempt == 0:
            yield None
            return
        if self.misfortunes and number % 7 == 4:
            yield Failed(reason="ValueError: it is made to fail")
        elif self.misfortunes and number % 7 == 5:
            yield Stopped(reason="it is made to stop", found={"macs_ratio": facts["macs_ratio"]})
        else:
            yield Completed(result=facts | self._published(facts, result_key))

    def _published(self, facts: dict[str, Any], result_key: str) -> dict[str, Any]:
        path = self.folder / "artifacts" / "trials" / NAME / f"{self.claim.number}.safetensors"
        parent = self.claim.point.parent
        sha256 = publish(path, _tensors(result_key + str(self.claim.number)), facts)
        return {"weights": str(path), "sha256": sha256} | ({} if parent is None else {"started_from": parent})


def _tensors(text: str) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(list(text.encode()[:64]), dtype=torch.uint8)}


def _facts(point: Point, number: int) -> dict[str, Any]:
    target = point.macs_target
    bonus = 0.0 if point.parent is None else 0.01
    bonus -= 0.3 if number % 7 in (2, 6) else 0.0  # beaten, so that its network may go
    bonus -= 0.1 * (number * 7_919 % 10_007) / 10_007  # Luck, or nearly all trials of a long study were on its front.
    accuracy = 0.5 + 0.4 * target**0.5 + bonus
    return {
        "accuracy": accuracy,
        "macs_ratio": target,
        "macs": round(1e6 * target),
        "images": 2_000,
        "wall_s": {"finetune": 1.0},
    }


@dataclass
class History:
    """What drivers did, each thing as it happens, in a file that outlives them.

    Args:
        path: A line of JSON for each thing.
    """

    path: Path
    _file: int | None = field(default=None, repr=False)

    def add(self, what: str, owner: str, **facts: Any) -> None:
        """Append one line, whole or not at all."""
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(self._file, json.dumps({"what": what, "owner": owner, **facts}).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """All that is in it."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []


def told(verdict: Verdict | None) -> str:
    """A verdict by name, ``Retry`` for a failure that is tried again, or that the trial was no longer the driver's."""
    if verdict is None:
        return "lost"
    return "Retry" if getattr(verdict, "retry", False) else type(verdict).__name__
