"""Proves channel groups on the network itself: cut some channels at random and compare with the silenced network.

Index maps say which channels belong together, but not what `forward` does with a smaller network: a split in two
halves, or a flattened size written as a number, may depend on the widths that were there. So every trace ends with
this proof, and groups that fail it are refused.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.engine.channels import ChannelGroup
from autoprune.engine.surgery import cut, masked
from autoprune.engine.tracing.labels import first_line

__all__ = ["find_broken"]

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # of the largest output; a wrong map is off by far more


def find_broken(model: nn.Module, example: Tensor, groups: Sequence[ChannelGroup]) -> dict[str, str]:
    """Groups whose surgery does not answer like the silenced network, with the reason.

    Args:
        model: The dense network, left as it is.
        example: Its input, shape (N, ...); only its shape matters.
        groups: Groups to prove, all at once and, if that fails, one by one.
    """
    if not groups:
        return {}
    probe, x = _probe(model, example)
    if _fault(probe, x, groups, groups) is None:
        return {}
    broken = {group.name: fault for group in groups if (fault := _fault(probe, x, groups, [group]))}
    sound = [group for group in groups if group.name not in broken]
    if _fault(probe, x, groups, sound) is None:
        return broken
    together: list[ChannelGroup] = []
    for group in sound:
        fault = _fault(probe, x, groups, [*together, group])
        if fault is None:
            together.append(group)
        else:
            broken[group.name] = fault
    return broken


def _fault(probe: nn.Module, x: Tensor, groups: Sequence[ChannelGroup], tried: Sequence[ChannelGroup]) -> str | None:
    for kept in _draws(tried):
        expected = _run(masked(probe, groups, kept), x)
        try:
            got = _run(cut(probe, groups, kept), x)
        except Exception as error:  # whatever a user's `forward` raises on a smaller network
            return f"the network fails when channels of it are removed ({first_line(error)})"
        for one, other in zip(expected, got, strict=False):
            limit = _TOLERANCE[one.dtype] * float(one.abs().max())
            if one.shape != other.shape or not bool(((one - other).abs() <= limit).all()):
                return "the network answers differently when channels of it are removed than when they are silenced"
    return None


def _draws(tried: Sequence[ChannelGroup]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """One channel less in every other group, so that neighbours become unequal; then any number less in each."""
    generator = np.random.default_rng(0)
    yield {group.name: np.delete(np.arange(group.width), generator.integers(group.width)) for group in tried[::2]}
    for _ in range(2):
        yield {
            group.name: np.sort(
                generator.choice(group.width, size=generator.integers(1, group.width), replace=False)
            ).astype(np.int64)
            for group in tried
        }


def _run(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        output = model(x)
    plain = vars(output) if hasattr(output, "__dataclass_fields__") else output
    return [leaf for leaf in tree_leaves(plain) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _probe(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy in double precision, with normalisations and zero weights shaken so that no two channels are alike."""
    probe = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    with torch.no_grad():
        for module in probe.modules():
            running = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(running[0], Tensor) and isinstance(running[1], Tensor):
                running[0].add_(0.3 * running[1].sqrt() * draw(running[0]))
                running[1].mul_(torch.exp(0.3 * draw(running[1])))
        for parameter in probe.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * draw(parameter))
            elif bool((parameter == 0).all()):
                parameter.add_(0.02 * draw(parameter))
        x = draw(example[:1].float())
        try:
            double = copy.deepcopy(probe).double()
            _run(double, x.double())
        except (RuntimeError, TypeError):  # `forward` or the device insists on single precision
            return probe.float(), x
    return double, x.double()
