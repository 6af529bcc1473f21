"""Proves channel groups on the network itself: cut some channels at random and compare with the silenced network.

Index maps say which channels belong together, but not what `forward` does with a smaller network: a split in two
halves, or a flattened size written as a number, may depend on the widths that were there. So every trace ends with
this proof, and groups that fail it are refused.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.engine.asking import Forward, answers, drawn_like, moved
from autoprune.engine.channels import ChannelGroup
from autoprune.engine.surgery import cut, masked
from autoprune.errors import first_line

__all__ = ["find_broken", "is_repeatable"]

_Run = Callable[[nn.Module], list[Tensor]]
_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}  # of the largest output; a wrong map is off by far more


def find_broken(model: nn.Module, example: Any, groups: Sequence[ChannelGroup], *, forward: Forward) -> dict[str, str]:
    """Groups whose surgery does not answer like the silenced network, with the reason.

    Args:
        model: The dense network, left as it is.
        example: A batch of one, of which the structure matters.
        groups: Groups to prove, all at once and, if that fails, one by one.
        forward: Runs the network.
    """
    if not groups:
        return {}
    probe, run = _probe(model, example, forward)
    if _fault(probe, run, groups, groups) is None:
        return {}
    broken = {group.name: fault for group in groups if (fault := _fault(probe, run, groups, [group], n_draws=1))}
    sound = [group for group in groups if group.name not in broken]
    if _fault(probe, run, groups, sound) is None:
        return broken
    together: list[ChannelGroup] = []
    for group in sound:
        fault = _fault(probe, run, groups, [*together, group])
        if fault is None:
            together.append(group)
        else:
            broken[group.name] = fault
    return broken


def is_repeatable(model: nn.Module, example: Any, *, forward: Forward) -> bool:
    """Whether a network answers the same twice in evaluation mode.

    Args:
        model: Left as it is.
        example: A batch of one, of which the structure matters.
        forward: Runs the network.
    """
    probe, run = _probe(model, example, forward)
    return all(torch.equal(one, other) for one, other in zip(run(probe), run(probe), strict=True))


def _fault(
    probe: nn.Module, run: _Run, groups: Sequence[ChannelGroup], tried: Sequence[ChannelGroup], *, n_draws: int = 4
) -> str | None:
    for kept in itertools.islice(_draws(tried), n_draws):
        expected = run(masked(probe, groups, kept))
        try:
            got = run(cut(probe, groups, kept))
        except Exception as error:  # whatever a user's `forward` raises on a smaller network
            return f"the network fails when channels of it are removed ({first_line(error)})"
        for one, other in zip(expected, got, strict=False):
            limit = _TOLERANCE[one.dtype] * float(one.abs().max())
            if one.shape != other.shape or not bool(((one - other).abs() <= limit).all()):
                return "the network answers differently when channels of it are removed than when they are silenced"
    return None


def _draws(tried: Sequence[ChannelGroup]) -> Iterator[dict[str, NDArray[np.int64]]]:
    """One channel in every other group, then in the others, then in every other pair; then any number in each.

    Neighbours so become as unequal as can be: widths that must be equal, though nothing ties them, show.
    """
    generator = np.random.default_rng(0)

    def kept(group: ChannelGroup, n: int) -> NDArray[np.int64]:
        return np.sort(generator.choice(group.width, size=n, replace=False)).astype(np.int64)

    for period, thin in ((2, {0}), (2, {1}), (4, {0, 1})):
        yield {group.name: kept(group, 1) for place, group in enumerate(tried) if place % period in thin}
    yield {group.name: kept(group, int(generator.integers(1, group.width))) for group in tried}


def _probe(model: nn.Module, example: Any, forward: Forward) -> tuple[nn.Module, _Run]:
    """A copy in double precision, with normalisations and zero weights shaken so that no two channels are alike.

    Returns:
        The copy, and what asks it, or a network like it, and gives its answers.
    """
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
    noise = drawn_like(example, generator)

    def run(model: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            return answers(forward(model, inputs))

    try:
        double, inputs = copy.deepcopy(probe).double(), moved(noise, None, dtype=torch.float64)
        run(double)
    except (RuntimeError, TypeError):  # `forward` or the device insists on single precision
        inputs = noise
        return probe.float(), run
    return double, run
