"""Charts of a report: one file each, from a study's facts to a figure, or None where there is nothing to draw."""

from autoprune.report.charts._front import front_chart
from autoprune.report.charts._hypervolume import hypervolume_chart
from autoprune.report.charts._importance import importance_chart
from autoprune.report.charts._latency import latency_chart
from autoprune.report.charts._lineage import lineage_chart
from autoprune.report.charts._marks import trial_link
from autoprune.report.charts._parallel import parallel_chart, trials_table
from autoprune.report.charts._rungs import rungs_chart
from autoprune.report.charts._timeline import timeline_chart
from autoprune.report.charts._widths import widths_chart

__all__ = [
    "front_chart",
    "hypervolume_chart",
    "importance_chart",
    "latency_chart",
    "lineage_chart",
    "parallel_chart",
    "rungs_chart",
    "timeline_chart",
    "trial_link",
    "trials_table",
    "widths_chart",
]
