"""Channel groups and what else tracing finds out, as records, and the layers that surgery can cut."""

from autoprune.engine.channels.layers import (
    PER_CONV_GROUP,
    AxisName,
    Kind,
    axis_size,
    axis_sizes,
    conv_ties,
    is_atomic,
    is_per_conv_group,
    kind_of,
    norm_ties,
    own_vectors,
    reads,
    set_number,
    side_of,
)
from autoprune.engine.channels.readers import padded, readers_of
from autoprune.engine.channels.records import ChannelGroup, Member, Traced, Unprunable

__all__ = [
    "PER_CONV_GROUP",
    "AxisName",
    "ChannelGroup",
    "Kind",
    "Member",
    "Traced",
    "Unprunable",
    "axis_size",
    "axis_sizes",
    "conv_ties",
    "is_atomic",
    "is_per_conv_group",
    "kind_of",
    "norm_ties",
    "own_vectors",
    "padded",
    "readers_of",
    "reads",
    "set_number",
    "side_of",
]
