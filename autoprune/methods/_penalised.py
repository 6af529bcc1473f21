"""What a penalty acts on: BatchNorm scales, or norms of filters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels import Traced
from autoprune.engine.training import wide
from autoprune.importances import require_scales

__all__ = ["FilterNorms", "PenalisedValues", "Scales"]


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
        names: The parameters.
        channels: Which channel each of the n numbers belongs to, counted over all groups in order, shape (n,).
        n_channels: Channels of all groups together.
    """

    names: tuple[str, ...]
    channels: Tensor
    n_channels: int

    @abstractmethod
    def values(self) -> Tensor:
        """The numbers, shape (n,), in float32 or wider."""

    @abstractmethod
    def add_gradient(self, slope: Tensor) -> None:
        """Add to the gradients of the parameters what a loss with these slopes by the numbers, shape (n,), would."""

    @abstractmethod
    def assign(self, values: Tensor) -> None:
        """Change the parameters so that the numbers are ``values``, shape (n,)."""


class Scales(PenalisedValues):
    """Each BatchNorm scale of a prunable channel is one number.

    Raises:
        NetworkError: The channels of a group pass through no BatchNorm.
    """

    def __init__(self, model: nn.Module, traced: Traced) -> None:
        require_scales(traced)
        self._rows, self.n_channels = _rows(model, traced, of_scales=True)
        self.names = tuple(dict.fromkeys(rows.name for rows in self._rows))
        self._sizes = [len(rows.places) for rows in self._rows]
        self.channels = torch.cat([rows.channels for rows in self._rows])

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


class FilterNorms(PenalisedValues):
    """The ℓ2 norm of all filters that write a channel, whichever layers they are in, is one number."""

    def __init__(self, model: nn.Module, traced: Traced) -> None:
        self._rows, self.n_channels = _rows(model, traced, of_scales=False)
        self.names = tuple(dict.fromkeys(rows.name for rows in self._rows))
        device = self._rows[0].places.device if self._rows else torch.device("cpu")
        self.channels = torch.arange(self.n_channels, device=device)

    def values(self) -> Tensor:
        """The norms, >= 0."""
        total = torch.zeros(self.n_channels, device=self.channels.device)
        for rows in self._rows:
            squares = wide(rows.parameter.detach()[rows.places]).flatten(1).square().sum(1)
            total = total.to(squares.dtype).index_add_(0, rows.channels, squares)
        return total.sqrt()

    @torch.no_grad()
    def add_gradient(self, slope: Tensor) -> None:
        """Each filter by the slope and its channel's direction, ``w / ‖w‖``; nothing where the norm is 0."""
        norms = self.values()
        factors = torch.where(norms > 0, slope / norms, 0.0)
        for rows in self._rows:
            if rows.parameter.grad is not None:
                part = rows.parameter[rows.places] * _column(factors[rows.channels], rows.parameter)
                rows.parameter.grad.index_add_(0, rows.places, part.to(rows.parameter.grad.dtype))

    @torch.no_grad()
    def assign(self, values: Tensor) -> None:
        """Scale the filters of each channel by one factor; where the norm is 0 they stay so."""
        norms = self.values()
        factors = torch.where(norms > 0, values / norms, 0.0)
        for rows in self._rows:
            part = rows.parameter[rows.places] * _column(factors[rows.channels], rows.parameter)
            rows.parameter[rows.places] = part.to(rows.parameter.dtype)


def _column(factors: Tensor, parameter: Tensor) -> Tensor:
    return factors.view(-1, *[1] * (parameter.dim() - 1))


def _rows(model: nn.Module, traced: Traced, *, of_scales: bool) -> tuple[list[_Rows], int]:
    """What is trained of the scales, or else of the filters, of prunable channels; and the number of channels."""
    rows, n_channels = [], 0
    for group in traced.groups:
        for member in group.members:
            module = model.get_submodule(member.module)
            if of_scales:
                belongs = member.module in group.scales
            else:
                belongs = member.axis == "out" and isinstance(module, _ConvNd | nn.Linear)
            if belongs:
                parameter = model.get_parameter(f"{member.module}.weight")
                places = torch.from_numpy(member.index).to(parameter.device)
                channels = torch.arange(group.width, device=parameter.device)[:, None] + n_channels
                if parameter.requires_grad:
                    flat = channels.expand_as(places).flatten()
                    rows.append(_Rows(f"{member.module}.weight", parameter, places.flatten(), flat))
        n_channels += group.width
    return rows, n_channels
