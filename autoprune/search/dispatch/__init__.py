"""The driver's desk: hands out claimed trials, hears their reports, writes how they ended; knows no ray."""

from autoprune.search.dispatch.desk import Dispatcher, SharedPhases
from autoprune.search.dispatch.outage import Outage
from autoprune.search.dispatch.patience import Patience
from autoprune.search.dispatch.records import Nothing, RunningTrial, Snapshot, Stopping
from autoprune.search.dispatch.stopper import Stopper
from autoprune.search.dispatch.verdicts import Complete, Goals, StopEarly, Verdict
from autoprune.search.dispatch.wind_down import FailureCaps, WindDown

__all__ = [
    "Complete",
    "Dispatcher",
    "FailureCaps",
    "Goals",
    "Nothing",
    "Outage",
    "Patience",
    "RunningTrial",
    "SharedPhases",
    "Snapshot",
    "StopEarly",
    "Stopper",
    "Stopping",
    "Verdict",
    "WindDown",
]
