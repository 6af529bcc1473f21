"""The composition root: the two wings meet here.

Each name is imported when it is first used, so that a command which only reads a database loads neither torch nor Ray.
"""

from typing import TYPE_CHECKING

from autoprune.importing import lazy_names

if TYPE_CHECKING:
    from autoprune.api._cleaning import Removed, clean
    from autoprune.api._diffing import Difference, diff
    from autoprune.api._doctoring import Complaint, doctor
    from autoprune.api._drafting import write_space
    from autoprune.api._evaluating import Evaluated, evaluate
    from autoprune.api._exporting import Exported, best_trial, export_front, export_trial, load_model
    from autoprune.api._fronts import FrontAnswer, ask_front
    from autoprune.api._initialising import Initialised, init
    from autoprune.api._listing import list_names
    from autoprune.api._measuring import MeasuredBatch, measure_latency
    from autoprune.api._planning import ExistingStudy, GroupRow, Inspection, Plan, inspect, load_study, plan
    from autoprune.api._progress import Progress, RunningTrial, Snapshot
    from autoprune.api._reading import Study, open_study, storage_url
    from autoprune.api._reporting import LiveReport, optuna_storage, report_page
    from autoprune.api._running import Outcome, launch, resume
    from autoprune.api._searching import search
    from autoprune.api._status import DriverStatus, FrontTrial, RunningStatus, Status, status, stop
    from autoprune.engine.conv_groups import group_convolutions
    from autoprune.engine.tasks import Task
    from autoprune.pipeline import Pruned, prune

__all__ = [
    "Complaint",
    "Difference",
    "DriverStatus",
    "Evaluated",
    "ExistingStudy",
    "Exported",
    "FrontAnswer",
    "FrontTrial",
    "GroupRow",
    "Initialised",
    "Inspection",
    "LiveReport",
    "MeasuredBatch",
    "Outcome",
    "Plan",
    "Progress",
    "Pruned",
    "Removed",
    "RunningStatus",
    "RunningTrial",
    "Snapshot",
    "Status",
    "Study",
    "Task",
    "ask_front",
    "best_trial",
    "clean",
    "diff",
    "doctor",
    "evaluate",
    "export_front",
    "export_trial",
    "group_convolutions",
    "init",
    "inspect",
    "launch",
    "list_names",
    "load_model",
    "load_study",
    "measure_latency",
    "open_study",
    "optuna_storage",
    "plan",
    "prune",
    "report_page",
    "resume",
    "search",
    "status",
    "stop",
    "storage_url",
    "write_space",
]

_HOMES = {
    "_cleaning": ("Removed", "clean"),
    "_diffing": ("Difference", "diff"),
    "_doctoring": ("Complaint", "doctor"),
    "_drafting": ("write_space",),
    "_evaluating": ("Evaluated", "evaluate"),
    "_exporting": ("Exported", "best_trial", "export_front", "export_trial", "load_model"),
    "_fronts": ("FrontAnswer", "ask_front"),
    "_initialising": ("Initialised", "init"),
    "_listing": ("list_names",),
    "_measuring": ("MeasuredBatch", "measure_latency"),
    "_planning": ("ExistingStudy", "GroupRow", "Inspection", "Plan", "inspect", "load_study", "plan"),
    "_progress": ("Progress", "RunningTrial", "Snapshot"),
    "_reading": ("Study", "open_study", "storage_url"),
    "_reporting": ("LiveReport", "optuna_storage", "report_page"),
    "_running": ("Outcome", "launch", "resume"),
    "_searching": ("search",),
    "_status": ("FrontTrial", "DriverStatus", "RunningStatus", "Status", "status", "stop"),
}
_BELOW = {
    "Pruned": "autoprune.pipeline",
    "Task": "autoprune.engine.tasks",
    "group_convolutions": "autoprune.engine.conv_groups",
    "prune": "autoprune.pipeline",
}
__getattr__ = lazy_names(
    __name__, _BELOW | {name: f"{__name__}.{home}" for home, names in _HOMES.items() for name in names}
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
