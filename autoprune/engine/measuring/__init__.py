"""Measures networks: what goes with channels, at the next layer or of the loss, and latency."""

from autoprune.engine.measuring.correlations import ChannelMoments, joint_correlations, measure_channel_moments
from autoprune.engine.measuring.damage import measure_damages
from autoprune.engine.measuring.fisher import measure_fisher
from autoprune.engine.measuring.latency import Latency, find_device, measure, warning
from autoprune.engine.measuring.surgeon import measure_removals

__all__ = [
    "ChannelMoments",
    "Latency",
    "find_device",
    "joint_correlations",
    "measure",
    "measure_channel_moments",
    "measure_damages",
    "measure_fisher",
    "measure_removals",
    "warning",
]
