"""Trials on Ray: the only package that names it."""

from autoprune.distributed.cluster import Cluster, Slots, open_cluster, plan_slots
from autoprune.distributed.driver import Execute, drive, run_once

__all__ = ["Cluster", "Execute", "Slots", "drive", "open_cluster", "plan_slots", "run_once"]
