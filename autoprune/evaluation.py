"""A trial's network made once more with a seed of its own, and its score on the test split."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from autoprune import methods
from autoprune.engine.data import ImageSet, load_test
from autoprune.engine.phases import Phase, PhaseStore
from autoprune.engine.surgery import cut
from autoprune.engine.training import accuracy, train
from autoprune.errors import DataError
from autoprune.spec import SettingSpec, TrialSpec, seed_of
from autoprune.trial import folded, is_untouched, recalibrated, sparsified
from autoprune.workbench import Workbench, open_workbench

__all__ = ["Again", "evaluation_seed", "made_again", "open_test", "score"]


@dataclass(frozen=True)
class Again:
    """A network made once more.

    Args:
        network: On the bench's device, in evaluation mode once scored.
        parent: The phase that it was cut from.
        is_untouched: Whether it is the dense network as it was, which has nothing to be fine-tuned for.
    """

    network: nn.Module
    parent: Phase
    is_untouched: bool


def open_test(setting: SettingSpec, workbench: Workbench) -> tuple[ImageSet, str]:
    """The test split of a study's setting, and the hash of its content; see `engine.data.load_test`."""
    return load_test(setting.data, workbench.splits, folder=Path(setting.artifacts) / "data")


def evaluation_seed(setting: SettingSpec, number: int, seed: int) -> int:
    """What seeds the fine-tuning: no trial of the search has it, and no two trials share it."""
    return seed_of("evaluate", setting.seed, number, seed)


def made_again(spec: TrialSpec, kept: Mapping[str, Sequence[int]], *, seed: int, phases: PhaseStore) -> Again:
    """Cut a trial's channels out of its parent, recalibrate and fine-tune as the trial did, but with another seed.

    Args:
        spec: The trial's; its width rule is not looked at, and its target only by methods that aim at one.
        kept: The channels that it kept, by group.
        seed: Seeds the fine-tuning; with the trial's own seed the result is the trial's network.
        phases: Where the parent lies; it is computed where it is not there.
    """
    workbench = open_workbench(spec.setting)
    method = methods.build(spec.method, spec.hyper)
    dense = workbench.dense(phases)
    parent = sparsified(spec, method, dense, workbench=workbench, phases=phases, report=lambda report: None)
    channels = {name: np.asarray(indices, dtype=np.int64) for name, indices in kept.items()}
    whole = folded(workbench.with_weights(parent.weights), method, channels, workbench=workbench)
    network = cut(whole, workbench.traced.groups, channels)
    macs = int(workbench.traced.cost.macs({name: len(indices) for name, indices in channels.items()}))
    untouched = is_untouched(method, macs=macs, workbench=workbench)
    if not untouched:
        recalibrated(network, workbench)
        train(network, workbench.splits.train, spec.setting.finetune, bench=workbench.bench, seed=seed)
    return Again(network, parent, untouched)


@functools.lru_cache(maxsize=2)
def _test_images(setting: SettingSpec, fingerprint: str) -> ImageSet:
    images, found = open_test(setting, open_workbench(setting))
    if found != fingerprint:
        raise DataError("[data] `test` must not change while it is scored on, but it has. Run the same command again.")
    return images


def score(
    spec: TrialSpec, kept: Mapping[str, Sequence[int]], *, seed: int, fingerprint: str, phases: PhaseStore
) -> dict[str, Any]:
    """Score a trial on the test split after fine-tuning it once more.

    Args:
        spec: The trial's.
        kept: The channels that it kept, by group.
        seed: Which repetition, 0, 1, ...
        fingerprint: Hash of the test split that is meant.
        phases: Where the parent lies.

    Returns:
        Plain data: ``accuracy``, ``n_images``, ``wall_s``, ``is_untouched``, and the parent's ``phase_file`` and
        ``phase_kind`` for the ledger.
    """
    start = time.monotonic()
    images = _test_images(spec.setting, fingerprint)
    again = made_again(spec, kept, seed=evaluation_seed(spec.setting, spec.number, seed), phases=phases)
    found = accuracy(again.network, images, bench=open_workbench(spec.setting).bench)
    return {
        "accuracy": found,
        "n_images": len(images),
        "wall_s": round(time.monotonic() - start, 3),
        "is_untouched": again.is_untouched,
        "phase_file": again.parent.file,
        "phase_kind": again.parent.record["kind"],
    }
