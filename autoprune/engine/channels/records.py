"""Channel groups and what else tracing finds out, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.cost import CostModel
from autoprune.engine.asking import Forward, ask
from autoprune.engine.channels.layers import AxisName, side_of
from autoprune.errors import ConfigError, unknown_name

__all__ = ["ChannelGroup", "Member", "Traced", "Unprunable"]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one layer that channels of a group live on.

    Args:
        module: Qualified name of the layer.
        axis: ``"out"`` for written channels and the vectors of a batch normalisation, ``"in"`` for read ones.
        index: Shape (C, k): the k positions on that axis of each of the C channels of the group. k > 1 where a
            channel is spread: flattened before a linear layer, or once in each conv group.
    """

    module: str
    axis: AxisName
    index: NDArray[np.int64]

    @property
    def weight(self) -> str | None:
        """The matrix that the axis is a side of, as a qualified name; None for other axes."""
        if self.axis in ("in", "out"):
            return f"{self.module}.weight".lstrip(".")
        side = side_of(self.axis)
        return None if side is None else f"{self.module}.{side[0]}".lstrip(".")

    @property
    def writes(self) -> bool:
        """Whether the axis is that of what a matrix writes, or of the vectors of a normalisation."""
        return self.axis == "out" or self.axis.endswith("[0]")

    @property
    def reads(self) -> bool:
        """Whether the axis is that of what a matrix reads."""
        return self.axis == "in" or self.axis.endswith("[1]")


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of several layers that must go together; any subset of the C channels may be kept.

    Channels at the same offset of each conv group of a grouped convolution are one channel here, so that equal counts
    per conv group hold by construction.

    Args:
        name: The first layer, in module order, that writes the channels, such as ``layer2.0.conv1``. Where several
            groups share that layer, ``@`` and the first position tell them apart.
        width: C, the dense width.
        members: Every axis that surgery cuts.
        scales: Batch normalisations that scale all of the channels: where ``|gamma|`` is read and penalised.
    """

    name: str
    width: int
    members: tuple[Member, ...]
    scales: tuple[str, ...]

    def member(self, module: str, axis: AxisName = "out") -> Member:
        """The member of that layer and axis.

        Raises:
            ConfigError: The group has no such member.
        """
        for member in self.members:
            if (member.module, member.axis) == (module, axis):
                return member
        raise ConfigError(
            unknown_name(f"{axis!r} layer of group {self.name!r}", module, {m.module for m in self.members})
        )


@dataclass(frozen=True)
class Unprunable:
    """Channels that can't be pruned.

    Args:
        layers: The layers that write them, in module order.
        reason: Why, as a clause.
        advice: What would make them prunable, or what to exclude.
    """

    layers: tuple[str, ...]
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{', '.join(self.layers)}: {self.reason}; {self.advice}."


@dataclass(frozen=True, eq=False)
class Traced:
    """All that tracing finds out about a network.

    Args:
        groups: Prunable channel groups, in module order.
        refused: What can't be pruned; the image's channels and the logits go without saying.
        cost: MACs and parameters as functions of the groups' widths.
        norms: The BatchNorm that is alone right behind a convolution or linear layer, by the layer's name.
        example: What the network was traced on, a batch of one, on the CPU; None where that is not known.
        forward: How it was run on it, and is to be run by whoever measures it.
    """

    groups: tuple[ChannelGroup, ...]
    refused: tuple[Unprunable, ...]
    cost: CostModel
    norms: Mapping[str, str] = field(default_factory=dict)
    example: Any = None
    forward: Forward = ask

    def group(self, name: str) -> ChannelGroup:
        """The group of that name.

        Raises:
            ConfigError: There is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise ConfigError(unknown_name("channel group", name, [group.name for group in self.groups]))
