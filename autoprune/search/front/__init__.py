"""What is asked of a study: its trials as a table, the Pareto front, test scores."""

from autoprune.search.front.comparing import Stretch, n_beaten, stretches
from autoprune.search.front.fronts import Candidates, Front, Source
from autoprune.search.front.noise import FEWEST_RACED, RacedPair, alike_by_share, raced
from autoprune.search.front.query import corner_of, feasible, front, hypervolume_of, thinned
from autoprune.search.front.ranks import with_ranks
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
    "Candidates",
    "EvaluationRows",
    "Front",
    "RacedPair",
    "Source",
    "Stretch",
    "TestScore",
    "alike_by_share",
    "corner_of",
    "feasible",
    "front",
    "hypervolume_of",
    "latest",
    "n_beaten",
    "raced",
    "scores_frame",
    "source_of",
    "stretches",
    "summary",
    "thinned",
    "trials_frame",
    "with_ranks",
    "with_test_scores",
]
