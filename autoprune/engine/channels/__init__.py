"""Channel groups and what else tracing finds out, as records, and the layers that surgery can cut."""

from autoprune.engine.channels.layers import (
    PER_CONV_GROUP,
    AxisName,
    axis_sizes,
    conv_ties,
    counted_macs,
    is_per_conv_group,
    kind_of,
)
from autoprune.engine.channels.readers import readers_of
from autoprune.engine.channels.records import ChannelGroup, Member, Traced, Unprunable

__all__ = [
    "PER_CONV_GROUP",
    "AxisName",
    "ChannelGroup",
    "Member",
    "Traced",
    "Unprunable",
    "axis_sizes",
    "conv_ties",
    "counted_macs",
    "is_per_conv_group",
    "kind_of",
    "readers_of",
]
