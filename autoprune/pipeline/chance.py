"""What a useless network scores: the point that a front of a minimised metric is measured from."""

from __future__ import annotations

import copy

import torch
from torch import nn

from autoprune.config import SettingSpec, seed_of
from autoprune.pipeline.workbench import open_workbench

__all__ = ["score_by_chance"]


def score_by_chance(setting: SettingSpec) -> float:
    """The validation score of the study's network with weights of chance.

    Args:
        setting: Of the study.
    """
    workbench = open_workbench(setting)
    network = copy.deepcopy(workbench.network)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of("chance", setting.seed))
        for module in network.modules():
            _draw_anew(module)
    return workbench.work.score(network)


def _draw_anew(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
