"""Trials on Ray: the only package that names it."""

from autoprune.distributed.cluster import Cluster, Node, Slots, open_cluster, plan_alone, plan_slots
from autoprune.distributed.cores import CoresWatch
from autoprune.distributed.driver import OWNER_FILE, drive, obey_signals, run_once
from autoprune.distributed.tasks import run_each

__all__ = [
    "OWNER_FILE",
    "Cluster",
    "CoresWatch",
    "Node",
    "Slots",
    "drive",
    "obey_signals",
    "open_cluster",
    "plan_alone",
    "plan_slots",
    "run_each",
    "run_once",
]
