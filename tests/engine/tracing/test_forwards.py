"""Networks of several inputs, of outputs with structure, and those that are run in another way than by calling them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.engine.asking import Forward, ask
from autoprune.engine.surgery import cut, masked
from autoprune.engine.tracing import trace
from tests.engine.tracing.test_own_forwards import draw, shaken

torch.set_num_threads(1)


class TwoInputs(nn.Module):
    """Image and vector meet; the outputs have names."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.vector = nn.Linear(5, 6)
        self.hidden, self.classes, self.size = nn.Linear(14, 12), nn.Linear(12, 4), nn.Linear(12, 1)

    def forward(self, image: Tensor, vector: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        both = torch.cat([self.image(image).flatten(1), self.vector(vector).relu()], 1)
        hidden = (scale * self.hidden(both)).relu()
        return {"classes": self.classes(hidden), "size": self.size(hidden)}


IMAGE, VECTOR = torch.randn(1, 3, 6, 6), torch.randn(1, 5)
WIDTHS = {"image.0": 8, "vector": 6, "hidden": 12}


@pytest.mark.parametrize(
    "inputs",
    [(IMAGE, VECTOR), {"vector": VECTOR, "image": IMAGE}, (IMAGE.repeat(2, 1, 1, 1), VECTOR.repeat(2, 1), 0.5)],
)
def test_several_inputs_are_followed(inputs: Any) -> None:
    torch.manual_seed(0)
    model = TwoInputs().eval()
    traced = trace(model, inputs)
    assert {group.name: group.width for group in traced.groups} == WIDTHS
    # One input's worth: 3 * 8 * 9 of 36 places, 5 * 6, 14 * 12, 12 * 4, 12.
    assert traced.cost.dense_macs == 3 * 8 * 9 * 36 + 30 + 168 + 48 + 12
    _exact(model, inputs, traced, ask)


class Encoded(nn.Module):
    """What comes behind the encoder leaves torch, so that no trace can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.after = nn.Linear(4, 2)

    def forward(self, image: Tensor) -> Tensor:
        features = self.encoder(image).mean((2, 3))
        return self.after(torch.from_numpy(features.detach().numpy() * 2))


def encoder(model: nn.Module, inputs: Any) -> Any:
    return model.get_submodule("encoder")(inputs)


def test_a_part_is_pruned_where_it_is_run_alone() -> None:
    torch.manual_seed(0)
    model = Encoded().eval()
    traced = trace(model, IMAGE, forward=encoder)
    assert [(group.name, group.width) for group in traced.groups] == [("encoder.0", 8)]
    assert traced.cost.dense_macs == 3 * 8 * 9 * 16 + 8 * 4 * 9 * 4
    _exact(model, IMAGE, traced, encoder)


def _exact(model: nn.Module, inputs: Any, traced: Any, forward: Forward) -> None:
    model, kept = shaken(model), draw(traced)
    double = torch.utils._pytree.tree_map(lambda leaf: leaf.double() if isinstance(leaf, Tensor) else leaf, inputs)
    with torch.no_grad():
        silenced = tree_leaves(forward(masked(model, traced.groups, kept), double))
        small = tree_leaves(forward(cut(model, traced.groups, kept), double))
    assert len(silenced) == len(small) >= 1
    for one, other in zip(silenced, small, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-10)
