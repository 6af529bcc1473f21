"""How fast this worker trains, measured for a few seconds before a launch that ends at a time."""

from __future__ import annotations

import copy
import dataclasses
import time

import numpy as np
import torch
from torch import nn

from autoprune.config import SettingSpec, TrainSpec
from autoprune.engine.surgery import cut
from autoprune.engine.training import Training
from autoprune.pipeline.workbench import Workbench, open_workbench

__all__ = ["calibrate", "now"]

_WARM_STEPS, _TIMED_STEPS = 3, 8
_FORWARD_SHARE = 1 / 3  # Of the time of a trained image.


def calibrate(setting: SettingSpec) -> dict[str, float]:
    """Time training steps of the dense network and of one with half of each group's channels.

    Args:
        setting: Of the study; its fine-tune recipe is timed.

    Returns:
        ``base_s`` and ``macs_s``, seconds of a trained image for all that pruning does not save and for the MACs of the
        dense network; ``overhead_s``, seconds of a trial for all but training, roughly.
    """
    workbench = open_workbench(setting)
    groups = workbench.traced.groups
    kept = {group.name: np.arange(max(1, group.width // 2)) for group in groups}
    dense_s = _image_s(copy.deepcopy(workbench.network), workbench=workbench)
    half_s = _image_s(cut(workbench.network, groups, kept), workbench=workbench)
    ratio = workbench.traced.cost.macs_ratio({name: len(indices) for name, indices in kept.items()})
    macs_s = min(max((dense_s - half_s) / (1 - ratio), 0.0), dense_s)
    scored = 2 * workbench.work.n_validation + setting.recalibration_images
    return {"base_s": dense_s - macs_s, "macs_s": macs_s, "overhead_s": 1.0 + scored * dense_s * _FORWARD_SHARE}


def _image_s(network: nn.Module, *, workbench: Workbench) -> float:
    work, recipe, n_steps = workbench.work, workbench.setting.finetune, _WARM_STEPS + _TIMED_STEPS
    # Slow enough that the untrained network stays finite.
    spec: TrainSpec = dataclasses.replace(
        recipe, epochs=n_steps * work.examples_in(1, recipe) / work.n_examples, learning_rate=1e-6, schedule="constant"
    )
    training = Training(network, work.feed(), spec, runtime=workbench.runtime, seed=0)
    training.run(until=_WARM_STEPS)
    start = now()
    training.run(until=n_steps)
    return (now() - start) / work.examples_in(n_steps - _WARM_STEPS, recipe)


def now() -> float:
    """Seconds, rising, once all that was asked of an accelerator is computed."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.monotonic()
