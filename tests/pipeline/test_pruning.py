"""Pruning once, without a study."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune
from autoprune.errors import ConfigError, InfeasibleError, NetworkError
from tests.engine.tracing.counting import count_macs

torch.set_num_threads(1)


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip


X = torch.zeros(1, 1, 8, 8)


def task(**more: Any) -> autoprune.Task:
    """Whether an image is dark on the left or on the right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 2
    images = torch.randn(96, 1, 8, 8, generator=generator)
    images[:, 0, :, :4] += (2.0 * labels - 1)[:, None, None]
    data = TensorDataset(images, labels)
    loaders: list[DataLoader[tuple[Tensor, ...]]] = [DataLoader(data, batch_size=16) for _ in range(2)]
    return autoprune.Task(train=loaders[0], validation=loaders[1], **more)


def test_the_engine_alone() -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = autoprune.prune(model, X, macs_ratio=0.5)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert pruned.dense_macs == count_macs(model.eval(), X) == 64 * (9 * 16 + 9 * 256) + 32
    assert pruned.macs == count_macs(pruned.network, X) <= 0.5 * pruned.dense_macs
    assert pruned.params == sum(p.numel() for p in pruned.network.parameters())
    assert {name: len(kept) for name, kept in pruned.kept.items()} == {
        "0": pruned.network[0].out_channels,  # type: ignore[index]
        "3": pruned.network[3].out_channels,  # type: ignore[index]
    }
    assert (pruned.score, pruned.dense_score) == (None, None)
    assert str(pruned).splitlines()[0] == f"{pruned.macs:,} of {pruned.dense_macs:,} MACs ({pruned.macs_ratio:.3f})"
    assert f"  0: {len(pruned.kept['0'])} of 16" in str(pruned)
    assert not pruned.network.training


def test_with_a_task_it_is_trained_and_scored() -> None:
    model = make()
    recipe = autoprune.TrainSpec(epochs=4, learning_rate=0.05)
    pruned = autoprune.prune(model, task=task(), macs_ratio=0.3, recipe=recipe, method="damage")
    assert pruned.dense_score is not None
    assert pruned.score is not None
    assert pruned.score > 0.9 > 0.7 > pruned.dense_score  # The network given has not been trained.
    again = autoprune.prune(make(), task=task(), macs_ratio=0.3, recipe=recipe, method="damage")
    assert (again.score, again.kept) == (pruned.score, pruned.kept)


def test_several_inputs_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(4, 8), nn.Linear(8, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            answer: Tensor = self.c(self.a(x).relu() + self.b(y).relu())
            return answer

    pruned = autoprune.prune(Two(), {"y": torch.zeros(1, 4), "x": torch.zeros(1, 3)}, macs_ratio=0.5)
    assert {name: len(kept) for name, kept in pruned.kept.items()} == {"a": 4}
    assert pruned.macs == 4 * (3 + 4 + 1)


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ({"macs_ratio": 1.5}, ConfigError, r"`macs_ratio` must be in \(0, 1\], but got 1.5"),
        ({"macs_ratio": 0.0}, ConfigError, r"`macs_ratio` must be in \(0, 1\], but got 0.0"),
        ({"macs_ratio": 1e-4}, InfeasibleError, "MACs"),
        ({"method": "slimming"}, ConfigError, "'slimming' has a phase of training before"),
        ({"method": "magnitud"}, ConfigError, "did you mean 'magnitude'"),
        ({"width_rule": "globl"}, ConfigError, "did you mean 'global'"),
        ({"exclude": ["0", "3"]}, NetworkError, "must have a channel group that can be pruned"),
        ({"example_inputs": None}, ConfigError, "`example_inputs` must say what the network is run on"),
        ({"task": 1, "forward": 2}, ConfigError, "`forward` is the Task's to say"),
    ],
)
def test_what_can_not_be_is_told(given: dict[str, Any], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        autoprune.prune(make(), **{"example_inputs": X, **given})
