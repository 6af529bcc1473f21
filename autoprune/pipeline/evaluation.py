"""A trial's network made once more with a seed of its own, and its score on the test split."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune import methods
from autoprune.config import Progressed, SettingSpec, TrialSpec, seed_of
from autoprune.engine.files import PhaseStore
from autoprune.engine.tasks import TestData
from autoprune.errors import DataError
from autoprune.pipeline.lineage import as_kept, inherited
from autoprune.pipeline.steps import Choice, Cut, Parent, compensated, cut_from, finetuning, parent_of, recalibrated
from autoprune.pipeline.teacher import teacher_of
from autoprune.pipeline.workbench import open_workbench

__all__ = ["Link", "Repetition", "evaluation_seed", "repeat", "score"]


@dataclass(frozen=True)
class Link:
    """A trial of a lineage.

    Args:
        spec: The trial's; its width rule plays no part, and its limits only for methods that aim at them.
        kept: The channels that it kept, by group, counted in the dense network.
    """

    spec: TrialSpec
    kept: Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Repetition:
    """A trial's network made once more.

    Args:
        pruned: Its network is on the runtime's device, in evaluation mode once scored.
        parent: What it was cut from.
    """

    pruned: Cut
    parent: Parent


def evaluation_seed(setting: SettingSpec, number: int, seed: int) -> int:
    """What seeds the fine-tuning: no trial of the search has it, and no two trials share it."""
    return seed_of("evaluate", setting.seed, number, seed)


def repeat(lineage: Sequence[Link], *, seed_for: Callable[[TrialSpec], int], phases: PhaseStore) -> Repetition:
    """Cut, recalibrate and fine-tune as the trials of a lineage did, one after the other, but with other seeds.

    Args:
        lineage: The trial that started from the dense network or a sparsify phase, ..., the trial that is repeated.
        seed_for: Seeds the fine-tuning of each trial; with the trials' own seeds the result is the trial's network.
        phases: Where the first one's parent lies; it is computed where it is not there.
    """
    workbench = open_workbench(lineage[0].spec.setting)
    dense, before, repetition = workbench.dense(phases), None, None
    for link in lineage:
        method = methods.build(link.spec.method, link.spec.hyper)
        if before is None or repetition is None:
            spec = dataclasses.replace(link.spec, ancestors=())
            parent = parent_of(spec, dense, method=method, workbench=workbench, phases=phases, report=_say_nothing)
        else:
            network, kept = repetition.pruned.network.eval(), as_kept(before.kept)
            made = inherited(network, kept, number=before.spec.number, sha256="", workbench=workbench)
            parent = Parent(method, dense, repetition.parent.phase, made)
        pruned = cut_from(parent, Choice(workbench.traced.cost, as_kept(link.kept)), workbench=workbench)
        compensated(parent, Choice(workbench.traced.cost, as_kept(link.kept)), pruned, workbench=workbench)
        if not pruned.is_untouched:
            recalibrated(pruned.network, workbench=workbench)
            recipe, seed = link.spec.finetune, seed_for(link.spec)
            teacher = teacher_of(recipe, dense, workbench=workbench, phases=phases, report=_say_nothing, seed=seed)
            finetuning(pruned.network, recipe, workbench=workbench, seed=seed, teacher=teacher).run()
        before, repetition = link, Repetition(pruned, parent)
    assert repetition is not None
    return repetition


def _say_nothing(report: Progressed) -> None:
    """Nobody waits for a word of a repetition."""


@functools.lru_cache(maxsize=2)
def _test_data(setting: SettingSpec, fingerprint: str) -> TestData:
    test = open_workbench(setting).work.test()
    if test.fingerprint != fingerprint:
        raise DataError("[data] `test` must not change while it is scored on, but it has. Run the same command again.")
    return test


def score(lineage: Sequence[Link], *, seed: int, fingerprint: str, phases: PhaseStore) -> dict[str, Any]:
    """Score a trial on the test split after fine-tuning it, and all that it started from, once more.

    Args:
        lineage: See `repeat`; its last trial is scored.
        seed: Which repetition, 0, 1, ...
        fingerprint: Hash of the test split that is meant.
        phases: Where the parent lies.

    Returns:
        Plain data: the score under its metric's name, ``n_images``, ``wall_s``, ``is_untouched``, and the parent's
        ``phase_file`` and ``phase_kind`` for the ledger.
    """
    start, spec = time.monotonic(), lineage[-1].spec
    test = _test_data(spec.setting, fingerprint)
    again = repeat(lineage, seed_for=lambda spec: evaluation_seed(spec.setting, spec.number, seed), phases=phases)
    found = test.score(again.pruned.network)
    return {
        spec.setting.task.metric_name: found,
        "n_images": test.n_examples,
        "wall_s": round(time.monotonic() - start, 3),
        "is_untouched": again.pruned.is_untouched,
        "phase_file": again.parent.phase.file,
        "phase_kind": again.parent.phase.record["kind"],
    }
