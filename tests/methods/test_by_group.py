import numpy as np
import torch

from autoprune.engine.tracing import trace
from autoprune.methods._by_group import by_group, scale_names
from tests.small_networks import SHAPE, make


def test_a_row_of_all_channels_by_group():
    traced = trace(make("residual"), torch.zeros(1, *SHAPE))
    found = by_group(np.arange(26.0), traced)
    assert {name: part.tolist() for name, part in found.items()} == {
        "stem": [0, 1, 2, 3, 4, 5],
        "inner1": [6, 7, 8, 9, 10],
        "inner2": [11, 12, 13, 14, 15, 16, 17, 18],
        "outer2": [19, 20, 21, 22, 23, 24, 25],
    }


def test_each_scale_once():
    names = scale_names(trace(make("concatenated"), torch.zeros(1, *SHAPE)))
    assert names == ["norm.weight", "all_norm.weight"]
