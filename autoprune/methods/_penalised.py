"""What a penalty acts on: BatchNorm scales, norms of filters, or each where it counts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels import ChannelGroup, Traced
from autoprune.engine.training import wide
from autoprune.errors import NetworkError
from autoprune.methods._sizes import Units, bare_groups, trained

__all__ = ["ACTS_ON", "FilterNorms", "GroupScales", "PenalisedValues", "Scales", "penalised"]

ACTS_ON = ("scales", "group_scales", "norms")


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows of one parameter: ``parameter[places]``, and the channel of each, counted over all groups."""

    name: str
    parameter: nn.Parameter
    places: Tensor  # (R,)
    channels: Tensor  # (R,)


class PenalisedValues(ABC):
    """Numbers that training should drive to zero, and the way back to the parameters that they are made of.

    Attributes:
        names: The parameters; none where all that it could be made of is frozen.
        scales: Those of them that are BatchNorm scales.
        channels: Which channel each of the n numbers belongs to, counted over all groups in order, shape (n,).
        n_channels: Channels of all groups together.
        units: What must be saved with the phase to tell afterwards what is left of the numbers, or None.
    """

    names: tuple[str, ...]
    scales: tuple[str, ...] = ()
    channels: Tensor
    n_channels: int
    units: Units | None = None

    @abstractmethod
    def values(self) -> Tensor:
        """The numbers, shape (n,), in float32 or wider."""

    @abstractmethod
    def add_gradient(self, slope: Tensor) -> None:
        """Add to the gradients of the parameters what a loss with these slopes by the numbers, shape (n,), would."""

    @abstractmethod
    def assign(self, values: Tensor) -> None:
        """Change the parameters so that the numbers are ``values``, shape (n,)."""


def penalised(model: nn.Module, traced: Traced, *, acts_on: str) -> PenalisedValues:
    """What there is to act on.

    Args:
        model: The network as the phase begins.
        traced: Its channel groups.
        acts_on: ``"scales"`` of BatchNorms, or ``"group_scales"``, the norms of all scales of a channel, and in groups
            that have none norms of filters in the unit of scales; or ``"norms"`` of filters, as they are, everywhere.
            Filters before a BatchNorm that has no scales are left alone but for the last, since their size changes
            nothing.

    Raises:
        NetworkError: There is nothing that trains.
    """
    if acts_on == "norms":
        norms = FilterNorms(model, traced)
        if not norms.names:
            raise NetworkError(
                f"some prunable channel must have filters that train, but {_frozen(_filters(model, traced.groups))}. "
                "Let some of them train, or use a method that ranks the network as it is, such as magnitude."
            )
        return norms
    bare = bare_groups(model, traced)
    scales = (Scales if acts_on == "scales" else GroupScales)(model, traced)
    if not bare and scales.names:
        return scales
    sized = [group.name for group in traced.groups if group.name in bare and not _norms(model, group)]
    units = Units(model, traced)
    parts = [part for part in (scales, FilterNorms(model, traced, groups=sized, units=units)) if part.names]
    if not parts:
        raise NetworkError(_refusal(model, traced, bare=bare, sized=sized))
    return _Joined(parts, units)


class Scales(PenalisedValues):
    """Each BatchNorm scale of a prunable channel is one number; frozen ones are left out."""

    def __init__(self, model: nn.Module, traced: Traced) -> None:
        self._rows, self.n_channels = _rows(model, traced, of_scales=True)
        self.names = self.scales = tuple(dict.fromkeys(rows.name for rows in self._rows))
        self._sizes = [len(rows.places) for rows in self._rows]
        self.channels = _joined([rows.channels for rows in self._rows])

    def values(self) -> Tensor:
        """The scales as they are."""
        return torch.cat([wide(rows.parameter.detach()[rows.places]) for rows in self._rows])

    def add_gradient(self, slope: Tensor) -> None:
        """The slopes are the gradient."""
        for rows, part in zip(self._rows, slope.split(self._sizes), strict=True):
            if rows.parameter.grad is not None:
                rows.parameter.grad.index_add_(0, rows.places, part.to(rows.parameter.grad.dtype))

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Overwrite the scales."""
        for rows, part in zip(self._rows, values.split(self._sizes), strict=True):
            rows.parameter[rows.places] = part.to(rows.parameter.dtype)


class _Norms(PenalisedValues):
    """The ℓ2 norm of all that some rows of parameters hold of a channel is one number."""

    _rows: list[_Rows]

    def values(self) -> Tensor:
        """The norms, >= 0, in their units."""
        return (self._norms() / self._unit())[self.channels]

    @torch.no_grad()
    def add_gradient(self, slope: Tensor) -> None:
        """Each row by the slope and its channel's direction, ``u w / ‖w‖``; nothing where the norm is 0."""
        norms = self._norms()
        factors = torch.where(norms > 0, self._of_all(slope, norms) * self._unit() / norms, 0.0)
        for rows in self._rows:
            if rows.parameter.grad is not None:
                part = rows.parameter[rows.places] * _column(factors[rows.channels], rows.parameter)
                rows.parameter.grad.index_add_(0, rows.places, part.to(rows.parameter.grad.dtype))

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Scale the rows of each channel by one factor; where the norm is 0 they stay so."""
        norms = self._norms()
        factors = torch.where(norms > 0, self._of_all(values, norms) * self._unit() / norms, 0.0)
        for rows in self._rows:
            part = rows.parameter[rows.places] * _column(factors[rows.channels], rows.parameter)
            rows.parameter[rows.places] = part.to(rows.parameter.dtype)

    def _norms(self) -> Tensor:
        """‖w‖ of all channels, shape (all channels,)."""
        total = torch.zeros(self.n_channels, device=self.channels.device)
        for rows in self._rows:
            own = wide(rows.parameter.detach()[rows.places])
            total = total.to(own.dtype).index_add_(0, rows.channels, own.reshape(len(own), -1).square().sum(1))
        return total.sqrt()

    def _unit(self) -> Tensor | float:
        return 1.0 if self.units is None else self.units.by_channel

    def _of_all(self, values: Tensor, norms: Tensor) -> Tensor:
        """Shape (n,) → (all channels,)."""
        return torch.zeros_like(norms).index_copy_(0, self.channels, values.to(norms.dtype))


class GroupScales(_Norms):
    """The ℓ2 norm of all BatchNorm scales of a channel is one number; frozen ones are left out of it.

    A channel of a residual sum has a scale for each branch, and goes only when all of them are gone.
    """

    def __init__(self, model: nn.Module, traced: Traced) -> None:
        self._rows, self.n_channels = _rows(model, traced, of_scales=True)
        self.names = self.scales = tuple(dict.fromkeys(rows.name for rows in self._rows))
        self.channels = _joined([rows.channels for rows in self._rows]).unique()


class FilterNorms(_Norms):
    """The ℓ2 norm of all filters that write a channel, whichever layers they are in, is one number.

    Frozen filters are left out of the norm, and channels that have no others have no number.

    With units u, the number is ``x = ‖w‖ / u``, and it counts u² times: a penalty P stands for ``u² P(‖w‖ / u)``. A
    gradient of SGD moves x as far then as it would move a scale, and the proximal step of that is the one of P at x,
    no longer than on scales. So one strength moves both by the same share of their size in a phase.

    Args:
        model: The network.
        traced: Its channel groups.
        groups: Names of those whose channels count; None for all.
        units: What norms are divided by; None leaves them as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        traced: Traced,
        *,
        groups: Collection[str] | None = None,
        units: Units | None = None,
    ) -> None:
        self._rows, self.n_channels = _rows(model, traced, of_scales=False, within=groups)
        self.names = tuple(dict.fromkeys(rows.name for rows in self._rows))
        self.channels = _joined([rows.channels for rows in self._rows]).unique()
        self.units = units


class _Joined(PenalisedValues):
    """The numbers of several parts, one after the other."""

    def __init__(self, parts: Sequence[PenalisedValues], units: Units) -> None:
        self._parts, self.units = parts, units
        self.names = tuple(name for part in parts for name in part.names)
        self.scales = tuple(name for part in parts for name in part.scales)
        self.channels = torch.cat([part.channels for part in parts])
        self.n_channels = parts[0].n_channels
        self._sizes = [len(part.channels) for part in parts]

    def values(self) -> Tensor:
        """Those of all parts."""
        return torch.cat([part.values() for part in self._parts])

    def add_gradient(self, slope: Tensor) -> None:
        """To each part its slopes."""
        for part, own in zip(self._parts, slope.split(self._sizes), strict=True):
            part.add_gradient(own)

    def assign(self, values: Tensor) -> None:
        """To each part its values."""
        for part, own in zip(self._parts, values.split(self._sizes), strict=True):
            part.assign(own)


def _column(factors: Tensor, parameter: Tensor) -> Tensor:
    return factors.view(-1, *[1] * (parameter.dim() - 1))


def _joined(channels: Sequence[Tensor]) -> Tensor:
    return torch.cat([*channels]) if channels else torch.empty(0, dtype=torch.int64)


def _rows(
    model: nn.Module, traced: Traced, *, of_scales: bool, within: Collection[str] | None = None
) -> tuple[list[_Rows], int]:
    """What is trained of the scales, or else of the filters, of prunable channels; and the number of channels."""
    rows, n_channels = [], 0
    for group in traced.groups:
        for member in group.members if within is None or group.name in within else ():
            if of_scales:
                belongs = member.module in group.scales
            else:
                belongs = member.axis == "out" and isinstance(model.get_submodule(member.module), _ConvNd | nn.Linear)
            parameter = trained(model, member.module) if belongs else None
            if parameter is not None:
                places = torch.from_numpy(member.index).to(parameter.device)
                channels = torch.arange(group.width, device=parameter.device)[:, None] + n_channels
                flat = channels.expand_as(places).flatten()
                rows.append(_Rows(f"{member.module}.weight", parameter, places.flatten(), flat))
        n_channels += group.width
    return rows, n_channels


def _norms(model: nn.Module, group: ChannelGroup) -> list[str]:
    """The BatchNorms that the channels of a group pass, with and without scales."""
    names = dict.fromkeys(member.module for member in group.members)
    return [name for name in names if isinstance(model.get_submodule(name), _BatchNorm)]


def _filters(model: nn.Module, groups: Iterable[ChannelGroup]) -> list[str]:
    """The layers whose filters write the channels of some groups."""
    names = dict.fromkeys(member.module for group in groups for member in group.members if member.axis == "out")
    return [name for name in names if isinstance(model.get_submodule(name), _ConvNd | nn.Linear)]


def _refusal(model: nn.Module, traced: Traced, *, bare: Collection[str], sized: Collection[str]) -> str:
    """Why there is nothing to act on where scales come first."""
    frozen = dict.fromkeys(name for group in traced.groups if group.name not in bare for name in group.scales)
    frozen |= dict.fromkeys(_filters(model, (group for group in traced.groups if group.name in sized)))
    others = [group for group in traced.groups if group.name in bare and group.name not in sized]
    without = dict.fromkeys(name for group in others for name in _norms(model, group))
    found = [_frozen(frozen)] if frozen else []
    found += [f"there are no scales in {_named(without)}"] if without else []
    return (
        "some prunable channel must have a BatchNorm scale that trains or, without a BatchNorm, filters that train, "
        f"but {' and '.join(found) or 'there is no prunable channel'}. "
        f"{'Let some of them train, or use' if frozen else 'Use'} a method that ranks the network as it is, such as "
        "magnitude."
    )


def _frozen(names: Collection[str]) -> str:
    return f"the weights of {_named(names)} are frozen (`requires_grad` is False)"


def _named(names: Collection[str]) -> str:
    """The first three, and how many more there are."""
    first = ", ".join(repr(name) for name in [*names][:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"
