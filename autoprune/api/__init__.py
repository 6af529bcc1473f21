"""The composition root: the two halves meet here; heavy imports lie inside the functions."""

from autoprune.api._cleaning import Removed, clean
from autoprune.api._drafting import write_space
from autoprune.api._evaluating import Evaluated, evaluate
from autoprune.api._exporting import Exported, export_trial, load_model
from autoprune.api._measuring import MeasuredBatch, measure_latency
from autoprune.api._planning import GroupRow, Inspection, Plan, inspect, plan
from autoprune.api._reading import DriverStatus, Status, Study, list_names, open_study, status, stop, storage_url
from autoprune.api._running import Outcome, Progress, launch, resume

__all__ = [
    "DriverStatus",
    "Evaluated",
    "Exported",
    "GroupRow",
    "Inspection",
    "MeasuredBatch",
    "Outcome",
    "Plan",
    "Progress",
    "Removed",
    "Status",
    "Study",
    "clean",
    "evaluate",
    "export_trial",
    "inspect",
    "launch",
    "list_names",
    "load_model",
    "measure_latency",
    "open_study",
    "plan",
    "resume",
    "status",
    "stop",
    "storage_url",
    "write_space",
]
