"""The path that features take through a network, from layer to layer: how long it is, and how bent."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.asking import moved
from autoprune.engine.channels import Traced, readers_of
from autoprune.engine.training import wide

__all__ = ["Flow", "aligned", "flow_curvature", "flow_length"]

_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


def aligned(maps: Sequence[Tensor]) -> list[Tensor]:
    """The same features in one shape, so that they can be subtracted.

    Larger maps are averaged down to the smallest, and missing channels are zeros at the end. Where one map has another
    number of spatial axes, all are averaged over their places.

    Args:
        maps: Each of shape (N, C, ...); where one has several rows for an example, these are averaged.
    """
    n = min(len(x) for x in maps)
    maps = [x if len(x) == n else x.unflatten(0, (n, -1)).mean(1) for x in maps]
    if len({x.dim() for x in maps}) > 1:
        maps = [x.flatten(2).mean(2) if x.dim() > 2 else x for x in maps]
    places = tuple(min(sizes) for sizes in zip(*(x.shape[2:] for x in maps), strict=True))
    width, n_axes = max(x.shape[1] for x in maps), len(places)
    maps = [x if tuple(x.shape[2:]) == places else _POOLS[n_axes](x, places) for x in maps]
    return [F.pad(x, (*[0, 0] * n_axes, 0, width - x.shape[1])) for x in maps]


def flow_length(path: Sequence[Tensor]) -> Tensor:
    """``Σ_l mean |x_{l+1} - x_l|``, a scalar.

    Args:
        path: Features of two layers or more, each of shape (N, C, ...).
    """
    steps = [aligned(pair) for pair in itertools.pairwise(path)]
    return torch.stack([(after - before).abs().mean() for before, after in steps]).sum()


def flow_curvature(path: Sequence[Tensor]) -> Tensor:
    """``Σ_l mean |x_{l+1} - 2 x_l + x_{l-1}|``, a scalar; 0 where there are fewer than three layers.

    Args:
        path: Features of one layer or more, each of shape (N, C, ...).
    """
    bends = [aligned(three) for three in zip(path, path[1:], path[2:], strict=False)]
    total = [(after - 2 * here + before).abs().mean() for before, here, after in bends]
    return torch.stack(total).sum() if total else path[0].new_zeros(())


@dataclass(frozen=True, eq=False)
class _Point:
    """What a layer reads, and the channel groups that it is of."""

    groups: frozenset[str]
    features: Tensor


class Flow:
    """Hears the path of every training pass: what the layers that combine prunable channels read, in their order.

    What lies inside a branch is left out: a residual stream is read before and after it. So the path of a residual
    network is that of its blocks' outputs, and that of a chain the one of all its layers.

    Args:
        model: Gets hooks, until `close`.
        traced: Its channel groups.
    """

    def __init__(self, model: nn.Module, traced: Traced) -> None:
        self._model, self._traced, self._heard = model, traced, list[_Point]()
        self._is_on = False
        groups: dict[str, set[str]] = {}
        for group in traced.groups:
            for member in readers_of(model, group):
                groups.setdefault(member.module, set()).add(group.name)
        self._handles = [model.register_forward_pre_hook(self._begin)]
        self._handles += [
            model.get_submodule(name).register_forward_pre_hook(functools.partial(self._hear, groups=frozenset(read)))
            for name, read in groups.items()
        ]

    @torch.no_grad()
    def n_points(self) -> int | None:
        """How many layers the path goes by, found out on the example of the trace; None where it has none."""
        if self._traced.example is None:
            return None
        parameter = next(self._model.parameters())
        inputs = moved(self._traced.example, parameter.device, dtype=parameter.dtype)
        self._is_on = True
        self._traced.forward(self._model, inputs)
        self._is_on = False
        return len(self.take())

    def take(self) -> list[Tensor]:
        """The path of the last pass, in float32 or wider; it is forgotten."""
        heard, self._heard = self._heard, []
        ends: dict[str, tuple[int, int]] = {}
        for place, point in enumerate(heard):
            for name in point.groups:
                ends[name] = ends.get(name, (place, place))[0], place

        def is_within(place: int, point: _Point) -> bool:
            return any(first < place < last for name, (first, last) in ends.items() if name not in point.groups)

        return [wide(point.features) for place, point in enumerate(heard) if not is_within(place, point)]

    def close(self) -> None:
        """Take the hooks out."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._heard = []

    def _hear(self, module: nn.Module, args: tuple[Tensor, ...], *, groups: frozenset[str]) -> None:
        if self._is_on or (self._model.training and torch.is_grad_enabled()):
            x = args[0] if isinstance(module, _ConvNd) else args[0].movedim(-1, 1)
            self._heard.append(_Point(groups, x))
