"""Trials on Ray: the only package that names it."""

from autoprune.distributed.cluster import Cluster, Node, Slots, open_cluster, plan_alone, plan_slots
from autoprune.distributed.cores import CoresWatch
from autoprune.distributed.driver import drive
from autoprune.distributed.loggers import Destination, require_loggers
from autoprune.distributed.signals import heed_signals
from autoprune.distributed.tasks import run_each, run_once

__all__ = [
    "Cluster",
    "CoresWatch",
    "Destination",
    "Node",
    "Slots",
    "drive",
    "heed_signals",
    "open_cluster",
    "plan_alone",
    "plan_slots",
    "require_loggers",
    "run_each",
    "run_once",
]
