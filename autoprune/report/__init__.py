"""One study, or two side by side, as an HTML page of its own; knows plain data only, no database."""

from autoprune.report.facts import (
    Axis,
    Group,
    Growth,
    Importance,
    ImportanceTable,
    StudyFacts,
    TestedScore,
    TrialFacts,
)
from autoprune.report.page import page
from autoprune.report.serving import serve

__all__ = [
    "Axis",
    "Group",
    "Growth",
    "Importance",
    "ImportanceTable",
    "StudyFacts",
    "TestedScore",
    "TrialFacts",
    "page",
    "serve",
]
