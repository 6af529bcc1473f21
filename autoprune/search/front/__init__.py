"""What is asked of a study: its trials as a table, the Pareto front, test scores."""

from autoprune.search.front.fronts import Candidates, Front, Source
from autoprune.search.front.noise import FEWEST_RACED, RacedPair, raced, with_marks
from autoprune.search.front.query import corner_of, feasible, front, hypervolume_of, losses_of, thinned
from autoprune.search.front.ranks import MOST_MEASURED, with_ranks
from autoprune.search.front.table import trials_frame
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
    "FEWEST_RACED",
    "MOST_MEASURED",
    "Candidates",
    "EvaluationRows",
    "Front",
    "RacedPair",
    "Source",
    "TestScore",
    "corner_of",
    "feasible",
    "front",
    "hypervolume_of",
    "latest",
    "losses_of",
    "raced",
    "scores_frame",
    "source_of",
    "summary",
    "thinned",
    "trials_frame",
    "with_marks",
    "with_ranks",
    "with_test_scores",
]
