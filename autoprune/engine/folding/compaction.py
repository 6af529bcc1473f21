"""Puts compactors behind the BatchNorms of the convolutions that write a channel group, and folds them in again."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from autoprune.engine.asking import Forward, ask
from autoprune.engine.channels import ChannelGroup, Traced, is_atomic, is_per_conv_group
from autoprune.engine.contracts import Batches, Compactor
from autoprune.engine.folding.merging import attach_norm, measure_moments, merge
from autoprune.errors import NetworkError

__all__ = ["Inserted", "Site", "fold_compactors", "insert", "sites"]

_PLACE = "autoprune_compactor"  # The submodule of a BatchNorm that holds what was put behind it.


@dataclass(frozen=True)
class Site:
    """A place for a compactor: between a BatchNorm and what reads it.

    Args:
        conv: Name of the convolution that writes the channels.
        norm: Name of the BatchNorm right behind it, which nothing else reads around.
    """

    conv: str
    norm: str


def sites(model: nn.Module, traced: Traced) -> dict[str, tuple[Site, ...]]:
    """Where the channels of each group are written: one place for each branch of a residual sum.

    Depthwise convolutions hand channels on, so they count as no writer.

    Args:
        model: The network that ``traced`` was traced on.
        traced: Its channel groups.

    Raises:
        NetworkError: A group is written by something else than whole convolutions with a BatchNorm right behind; the
            message names group and layer.
    """
    norms = traced.norms
    found: dict[str, tuple[Site, ...]] = {}
    for group in traced.groups:
        places = []
        for member in group.members:
            module = model.get_submodule(member.module)
            passes_on = isinstance(module, _BatchNorm | nn.PReLU)
            if not member.writes or passes_on or (isinstance(module, nn.Conv2d) and is_per_conv_group(module)):
                continue
            norm = model.get_submodule(norms[member.module]) if member.module in norms else None
            whole = np.array_equal(member.index, np.arange(group.width)[:, None])
            is_plain = isinstance(module, nn.Conv2d) and module.groups == 1 and module.out_channels == group.width
            # What else a `forward` of its own does, an activation say, could not be folded through.
            is_plain = is_plain and is_atomic(module) and norm is not None and is_atomic(norm)
            if not (whole and is_plain and isinstance(norm, nn.BatchNorm2d) and _is_complete(norm)):
                raise NetworkError(_refusal(group, member.module))
            places.append(Site(member.module, norms[member.module]))
        if not places:
            raise NetworkError(_refusal(group, group.name))
        found[group.name] = tuple(places)
    return found


def _is_complete(norm: nn.BatchNorm2d) -> bool:
    return norm.weight is not None and norm.running_mean is not None


def _refusal(group: ChannelGroup, layer: str) -> str:
    return (
        f"channels of group {group.name!r} must be written by convolutions without conv groups that write no others "
        f"and have a BatchNorm right behind, but {layer!r} is not so. Add {group.name!r} to [network] `exclude`, or "
        "use a method that puts nothing into the network."
    )


class _Behind:
    """Forward hook of a BatchNorm that passes its output through a compactor; copies with its network."""

    def __init__(self, compactor: Compactor) -> None:
        self.compactor = compactor

    def __call__(self, norm: _BatchNorm, args: Any, output: Tensor) -> Tensor:
        answer: Tensor = self.compactor(output, norm)
        return answer


@dataclass(frozen=True, eq=False)
class Inserted:
    """A compactor in its network.

    Args:
        compactor: Also a part of the network, so that its parameters are trained and saved with it.
        sites: Where it stands.
        prefix: Of the names of its parameters in the network, with the dot.
        handles: Of its hooks.
    """

    compactor: Compactor
    sites: tuple[Site, ...]
    prefix: str
    handles: tuple[RemovableHandle, ...]


def insert(model: nn.Module, compactors: Iterable[tuple[Compactor, Sequence[Site]]]) -> list[Inserted]:
    """Put each compactor behind the BatchNorms of its sites; one may serve all branches of a residual sum.

    Args:
        model: Changed in place, on whatever device and in whatever precision it is.
        compactors: Each with its sites.
    """
    like = next(model.parameters())
    inserted = []
    for compactor, places in compactors:
        norms = [model.get_submodule(site.norm) for site in places]
        handles = tuple(norm.register_forward_hook(_Behind(compactor)) for norm in norms)
        # Not under the network itself, which may be a Sequential and would call it.
        norms[0].add_module(_PLACE, compactor.to(like.device, like.dtype))
        inserted.append(Inserted(compactor, tuple(places), f"{places[0].norm}.{_PLACE}.", handles))
    return inserted


@torch.no_grad()
def fold_compactors(
    model: nn.Module, inserted: Sequence[Inserted], batches: Batches, *, forward: Forward = ask
) -> None:
    """Merge all compactors into convolutions and BatchNorms, which keep their shapes; the outputs stay the same.

    Convolution, BatchNorm and matrix become one convolution (`merging.merge`), from which a BatchNorm with measured
    statistics is split off again (`merging.attach_norm`).

    Args:
        model: In evaluation mode; changed in place.
        inserted: What `insert` gave for it.
        batches: To measure the statistics on.
        forward: Runs the network on them.
    """
    plain = copy.deepcopy(model)
    for one in inserted:
        for site in one.sites:
            conv, norm = model.get_submodule(site.conv), model.get_submodule(site.norm)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            plain.set_submodule(site.conv, merge(conv, norm, matrix=one.compactor.matrix()))
            plain.set_submodule(site.norm, nn.Identity())
    places = [site for one in inserted for site in one.sites]
    moments = measure_moments(plain, [site.conv for site in places], (inputs for inputs, _ in batches), forward=forward)
    for site in places:
        norm = model.get_submodule(site.norm)
        merged = plain.get_submodule(site.conv)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(merged, nn.Conv2d)
        conv, split_off = attach_norm(merged, moments[site.conv], eps=norm.eps)
        own = model.get_submodule(site.conv)
        assert isinstance(own, nn.Conv2d)
        own.weight.copy_(conv.weight)
        if own.bias is not None:
            own.bias.zero_()
        norm.load_state_dict({**norm.state_dict(), **_statistics(split_off)})
    for one in inserted:
        for handle in one.handles:
            handle.remove()
        delattr(model.get_submodule(one.sites[0].norm), _PLACE)


def _statistics(norm: nn.BatchNorm2d) -> dict[str, Tensor]:
    """All of a BatchNorm but its count of batches."""
    return {key: tensor for key, tensor in norm.state_dict().items() if key != "num_batches_tracked"}
