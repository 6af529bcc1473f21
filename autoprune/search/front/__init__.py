"""What is asked of a study: its trials as a table, the Pareto front, test scores."""

from autoprune.search.front.query import front, hypervolume_of, thinned, trials_frame
from autoprune.search.front.test_scores import (
    EvaluationRows,
    TestScore,
    latest,
    scores_frame,
    source_of,
    summary,
    with_test_scores,
)

__all__ = [
    "EvaluationRows",
    "TestScore",
    "front",
    "hypervolume_of",
    "latest",
    "scores_frame",
    "source_of",
    "summary",
    "thinned",
    "trials_frame",
    "with_test_scores",
]
