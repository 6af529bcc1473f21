"""The layers that combine the channels of a group, and what they slide over."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels.layers import is_atomic, is_per_conv_group
from autoprune.engine.channels.records import ChannelGroup, Member
from autoprune.engine.watching import OperatorMode

__all__ = ["padded", "readers_of"]


def readers_of(model: nn.Module, group: ChannelGroup) -> list[Member]:
    """The layers that combine the channels of a group; depthwise ones hand them on."""

    def combines(member: Member) -> bool:
        module = model.get_submodule(member.module)
        return not (isinstance(module, _ConvNd) and is_per_conv_group(module))

    return [member for member in group.members if member.axis == "in" and combines(member)]


def padded(conv: _ConvNd, x: Tensor) -> Tensor:
    """What a convolution's kernel slides over: its input with all that its `forward` puts around it.

    Args:
        conv: Not a transposed one.
        x: Its input, shape (N, I, ...).
    """
    if is_atomic(conv):
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        return F.pad(x, conv._reversed_padding_repeated_twice, mode=mode)
    with torch.no_grad(), _Listening() as listening:
        conv(x)
    assert listening.given is not None, "a convolution must convolve"
    given, around = listening.given
    return F.pad(given, [size for size in reversed(around) for _ in range(2)])


class _Listening(OperatorMode):
    """Hears what a convolution is given, and the zeros that go around it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: tuple[Tensor, list[int]] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func._schema.name) == "aten::convolution":
            self.given = args[0].clone(), list(args[4])
        return func(*args, **(kwargs or {}))
