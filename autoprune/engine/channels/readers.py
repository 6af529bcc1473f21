"""The layers that combine the channels of a group."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels.layers import is_per_conv_group
from autoprune.engine.channels.records import ChannelGroup, Member

__all__ = ["readers_of"]


def readers_of(model: nn.Module, group: ChannelGroup) -> list[Member]:
    """The layers that combine the channels of a group; depthwise ones hand them on."""

    def combines(member: Member) -> bool:
        module = model.get_submodule(member.module)
        return not (isinstance(module, _ConvNd) and is_per_conv_group(module))

    return [member for member in group.members if member.axis == "in" and combines(member)]
