"""Networks drawn at random: what is traced is exact, what is not is refused with a reason, and none is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.tracing.test_own_forwards import (
    Attention,
    ChannelsFirst,
    FrozenNorm,
    LayerScale,
    NormAct,
    assert_exact,
    conv,
)

torch.set_num_threads(1)

SIZE = 6


class Step(nn.Module):
    """One operator between earlier results; ``use`` names which."""

    def __init__(self, act: Callable[..., Tensor], use: list[int], layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers, self.use, self.act = nn.ModuleList(layers), use, act

    def forward(self, results: list[Tensor]) -> Tensor:
        return self.act(self.layers, *(results[i] for i in self.use))


class Drawn(nn.Module):
    """A stem, steps that read any results before them, and a head on the last one."""

    def __init__(self, steps: list[Step], width: int) -> None:
        super().__init__()
        self.stem, self.steps, self.head = conv(3, 8), nn.ModuleList(steps), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        results = [self.stem(x)]
        for step in self.steps:
            results.append(step(results))
        return self.head(results[-1].mean((2, 3)))


def _tokens(layers: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return (tokens + layers[0](tokens)).transpose(1, 2).unflatten(2, x.shape[2:])


def _shuffle(layers: Any, x: Tensor) -> Tensor:
    n, _, h, w = x.shape
    return x.view(n, 2, -1, h, w).transpose(1, 2).reshape(n, -1, h, w)


def _split(layers: Any, x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    return torch.cat([layers[0](left), right], dim=1)


def _excite(layers: Any, x: Tensor) -> Tensor:
    return x * layers[0](x.mean((2, 3), keepdim=True)).sigmoid()


def _spatial(layers: Any, x: Tensor) -> Tensor:
    return x * layers[0](x).sigmoid()


def _stacked(layers: Any, x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y], dim=1).amax(1)


def _one(act: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda layers, x: act(x)


def _layer(layers: Any, x: Tensor) -> Tensor:
    return layers[0](x)


Made = tuple[Callable[..., Tensor], list[nn.Module], int]
ONE: dict[str, Callable[[int], Made]] = {
    "conv": lambda c: (_layer, [conv(c, 8)], 8),
    "wide": lambda c: (_layer, [conv(c, 12, 1, bias=False)], 12),
    "depthwise": lambda c: (_layer, [conv(c, c, groups=c)], c),
    "grouped": lambda c: (_layer, [conv(c, 8, groups=2)], 8),
    "norm": lambda c: (_layer, [nn.BatchNorm2d(c)], c),
    "norm_act": lambda c: (_layer, [NormAct(c)], c),
    "frozen": lambda c: (_layer, [FrozenNorm(c)], c),
    "scale": lambda c: (_layer, [LayerScale(c)], c),
    "instance": lambda c: (_layer, [nn.InstanceNorm2d(c, affine=True)], c),
    "group_norm": lambda c: (_layer, [nn.GroupNorm(2, c)], c),
    "layer_norm": lambda c: (_layer, [ChannelsFirst(c)], c),
    "prelu": lambda c: (_layer, [nn.PReLU(c)], c),
    "up": lambda c: (_layer, [nn.ConvTranspose2d(c, 8, 3, padding=1)], 8),
    "relu": lambda c: (_one(torch.relu), [], c),
    "pool": lambda c: (_one(lambda x: F.max_pool2d(x, 3, 1, 1)), [], c),
    "glu": lambda c: (_one(lambda x: F.glu(x, dim=1)), [], c // 2),
    "roll": lambda c: (_one(lambda x: x.roll(1, 2)), [], c),
    "flipped": lambda c: (_one(lambda x: x.flip(3)), [], c),
    "shuffle": lambda c: (_shuffle, [], c),
    "split": lambda c: (_split, [conv(c // 2, c // 2)], c),
    "excite": lambda c: (_excite, [conv(c, c, 1)], c),
    "spatial": lambda c: (_spatial, [conv(c, 1)], c),
    "attend": lambda c: (_tokens, [Attention(c, 2, fused=c != 12)], c),
    "softmax": lambda c: (_one(lambda x: x.softmax(1)), [], c),
    "mean": lambda c: (_one(lambda x: x - x.mean(1, keepdim=True)), [], c),
    "half": lambda c: (_one(lambda x: x[:, : x.shape[1] // 2]), [], c // 2),
    "odd": lambda c: (_one(lambda x: x[:, ::2]), [], c // 2),
}
TWO: dict[str, Callable[[int, int], Made | None]] = {
    "add": lambda a, b: (lambda layers, x, y: x + y, [], a) if a == b else None,
    "multiply": lambda a, b: (lambda layers, x, y: x * y, [], a) if a == b else None,
    "cat": lambda a, b: (lambda layers, x, y: torch.cat([x, y], 1), [], a + b),
    "stack": lambda a, b: (_stacked, [], a) if a == b else None,
}


@st.composite
def networks(draw: st.DrawFn) -> Drawn:
    widths, steps = [8], []
    for _ in range(draw(st.integers(2, 9))):
        if draw(st.integers(0, 3)) == 0:
            i, j = draw(st.integers(0, len(widths) - 1)), draw(st.integers(0, len(widths) - 1))
            made, use = TWO[draw(st.sampled_from(sorted(TWO)))](widths[i], widths[j]), [i, j]
        else:
            i = draw(st.integers(max(0, len(widths) - 2), len(widths) - 1))
            even = widths[i] % 4 == 0
            names = [name for name in sorted(ONE) if even or name in ("conv", "wide", "norm", "relu", "pool", "scale")]
            made, use = ONE[draw(st.sampled_from(names))](widths[i]), [i]
        if made is not None and made[2] <= 48:
            act, layers, width = made
            steps.append(Step(act, use, layers))
            widths.append(width)
    return Drawn(steps, widths[-1])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(networks(), st.integers(0, 2**31 - 1))
def test_none_is_wrong(model: Drawn, seed: int) -> None:
    torch.manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    traced = assert_exact(model, (3, SIZE, SIZE), seeds=2)
    for refusal in traced.refused:
        assert refusal.reason
        assert refusal.layers


@pytest.mark.slow
@settings(max_examples=2_000, suppress_health_check=[HealthCheck.too_slow], derandomize=False)
@given(networks())
def test_none_of_very_many_is_wrong(model: Drawn) -> None:
    assert_exact(model, (3, SIZE, SIZE), seeds=1)
