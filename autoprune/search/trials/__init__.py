"""The life of a trial in the database: proposed, claimed with a lease, told once, healed when its driver dies."""

from autoprune.search.trials.attributes import Attr
from autoprune.search.trials.counting import counted
from autoprune.search.trials.growing import Growing
from autoprune.search.trials.lifecycle import Lifecycle
from autoprune.search.trials.orphans import drop_unknown_leases, orphans
from autoprune.search.trials.owners import expire_dead_leases, is_gone, new_owner
from autoprune.search.trials.point import Point, Value
from autoprune.search.trials.records import Claim, EarlierResult, Failures, NotClaimed, Proposal, Room
from autoprune.search.trials.standing import failures, last_end, retries, work_of
from autoprune.search.trials.stored import StoredTrial, dense_score, lineage_of

__all__ = [
    "Attr",
    "Claim",
    "EarlierResult",
    "Failures",
    "Growing",
    "Lifecycle",
    "NotClaimed",
    "Point",
    "Proposal",
    "Room",
    "StoredTrial",
    "Value",
    "counted",
    "dense_score",
    "drop_unknown_leases",
    "expire_dead_leases",
    "failures",
    "is_gone",
    "last_end",
    "lineage_of",
    "new_owner",
    "orphans",
    "retries",
    "work_of",
]
