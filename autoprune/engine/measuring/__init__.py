"""Measures networks: damage at the next layer, and latency."""

from autoprune.engine.measuring.damage import measure_damages
from autoprune.engine.measuring.latency import Latency, find_device, measure, warning

__all__ = ["Latency", "find_device", "measure", "measure_damages", "warning"]
