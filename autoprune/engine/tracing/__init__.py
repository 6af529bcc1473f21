"""Traces a network: which channels go together, what they cost, what can't be pruned and why."""

from autoprune.engine.tracing.grouping import trace

__all__ = ["trace"]
