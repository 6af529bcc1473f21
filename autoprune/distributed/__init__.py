"""Trials on Ray: the only package that names it."""

from autoprune.distributed.cluster import Cluster, Slots, open_cluster, plan_slots
from autoprune.distributed.driver import Execute, drive, obey_signals, run_once

__all__ = ["Cluster", "Execute", "Slots", "drive", "obey_signals", "open_cluster", "plan_slots", "run_once"]
