"""How large channels are: by their BatchNorm scales, or by their filters where they have none, in one unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels import ChannelGroup, Traced
from autoprune.importances import FilterNorm, ScaleMagnitude
from autoprune.methods._by_group import by_group
from autoprune.widths import Scores

__all__ = ["Units", "bare_groups", "sizes", "trained"]

_TYPICAL = 0.5  # Where network slimming's scales begin, and what strengths, knees and pivots are meant for.


def trained(model: nn.Module, layer: str) -> nn.Parameter | None:
    """The weight of a layer if training moves it; None where it is frozen, or the layer has none."""
    weight = getattr(model.get_submodule(layer), "weight", None)
    return weight if isinstance(weight, nn.Parameter) and weight.requires_grad else None


def bare_groups(model: nn.Module, traced: Traced) -> frozenset[str]:
    """Names of the groups that no BatchNorm scales, so that their filters alone tell how large their channels are.

    Scales that are frozen are scales; factors that no training ever moves, as those of a normalisation that is no
    BatchNorm, are not.
    """

    def scales(layer: str) -> bool:
        return isinstance(model.get_submodule(layer), _BatchNorm) or trained(model, layer) is not None

    return frozenset(group.name for group in traced.groups if not any(scales(layer) for layer in group.scales))


class Units:
    """What norms of filters are divided by, so that they compare with BatchNorm scales.

    For each bare group that is its mean norm over the mean ``|γ|`` of all channels that have scales, or over 0.5, where
    network slimming's γ begin, if none has. A channel of a bare group is then as large beside ``|γ|`` as its filters
    are beside those of its group, whatever the layer's fan-in and initialisation are. Taken when a phase begins and
    saved with it: what a penalty has made of a whole group shows afterwards.

    Args:
        model: The network as the phase begins; left as it is.
        traced: Its channel groups.

    Attributes:
        by_channel: Shape (all channels,), > 0, in float32; 1 in groups that have scales.
    """

    def __init__(self, model: nn.Module, traced: Traced) -> None:
        bare = bare_groups(model, traced)
        scaled = _within(traced, [group.name for group in traced.groups if group.name not in bare])
        scales = ScaleMagnitude().score(model, scaled, batches=())
        mean = float(np.mean(np.concatenate([*scales.values()]))) if scales else _TYPICAL
        units = {group.name: _mean_norm(model, group) / (mean or _TYPICAL) for group in _within(traced, bare).groups}
        each = [torch.full((group.width,), units.get(group.name, 1.0) or 1.0) for group in traced.groups]
        self.by_channel = torch.cat([torch.ones(0), *each]).to(next(model.parameters()).device)

    def state_dict(self) -> dict[str, Tensor]:
        """The unit of every channel, shape (all channels,)."""
        return {"unit": self.by_channel}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        self.by_channel.copy_(state["unit"])


def sizes(model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor]) -> Scores:
    """How large every channel is, shape (C,) by group: its mean ``|γ|``, or the norm of its filters over its unit.

    Args:
        model: The network.
        traced: Its channel groups.
        state: Of a phase that has `Units`; without them they are those of the network as it is.
    """
    bare = bare_groups(model, traced)
    if not bare:
        return ScaleMagnitude().score(model, traced, batches=())
    unit = state["unit"] if "unit" in state else Units(model, traced).by_channel
    units = by_group(unit.cpu().double().numpy(), traced)
    norms = FilterNorm().score(model, _within(traced, bare), batches=())
    scaled = [group.name for group in traced.groups if group.name not in bare]
    found = {name: norm / units[name] for name, norm in norms.items()}
    found.update(ScaleMagnitude().score(model, _within(traced, scaled), batches=()))
    return {group.name: found[group.name] for group in traced.groups}


def _mean_norm(model: nn.Module, group: ChannelGroup) -> float:
    """Mean over the channels of `FilterNorm`, without copies of weights: the first linear layer of a VGG has 10⁸."""
    squares = torch.zeros(group.width, dtype=torch.float64)
    for member in group.members:
        module = model.get_submodule(member.module)
        if member.axis == "out" and isinstance(module, _ConvNd | nn.Linear):
            rows = module.weight.detach().flatten(1)
            norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(rows.dtype, torch.float32))
            squares += norms.cpu().double().square()[torch.from_numpy(member.index)].sum(1)
    return float(squares.sqrt().mean())


def _within(traced: Traced, names: Collection[str]) -> Traced:
    return dataclasses.replace(traced, groups=tuple(group for group in traced.groups if group.name in names))
