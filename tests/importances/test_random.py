"""Lots follow their seed, group by group."""

import numpy as np
import pytest
import torch

from autoprune.architectures import build
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError
from autoprune.importances import Random

MODEL = build("resnet_digits", n_classes=10, in_channels=1)
TRACED = trace(MODEL, torch.zeros(1, 1, 8, 8))


def scores(**options):
    return Random(**options).score(MODEL, TRACED, batches=())


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(1)
    np.random.default_rng(1)
    one, same, other = scores(seed=3), scores(seed=3), scores(seed=4)
    for name, score in one.items():
        assert np.array_equal(score, same[name])
        assert not np.array_equal(score, other[name])
        assert ((score >= 0) & (score < 1)).all()


def test_groups_draw_apart():
    found = scores()
    assert not np.array_equal(found["layer2.0.conv1"], found["layer2.0.conv2"])


def test_lots_are_even():
    every = np.concatenate([score for seed in range(40) for score in scores(seed=seed).values()])
    assert np.histogram(every, 4, (0, 1))[0] / len(every) == pytest.approx(0.25, abs=0.02)


def test_a_negative_seed_is_refused():
    with pytest.raises(ConfigError, match="`seed` must be at least 0, but got seed=-1"):
        Random(seed=-1)
