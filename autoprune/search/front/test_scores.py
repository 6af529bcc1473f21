"""Scores on the test split, kept beside the scores of the search and never mixed with them."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from autoprune.search.storage import Database, schema

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = [
    "EvaluationRows",
    "TestScore",
    "TestSummary",
    "alike",
    "latest",
    "scores_frame",
    "source_of",
    "summary",
    "with_test_scores",
]

_TABLE = schema.evaluations
_STORED_AS = {"number": "trial_number", "score": "accuracy"}  # The columns of fields that go by another name there.


@dataclass(frozen=True)
class TestScore:
    """The study's metric on the test split, of one trial's network, fine-tuned once more.

    Args:
        number: The trial.
        seed: Which repetition of the fine-tuning, 0, 1, ...
        fingerprint: Hash of the test split.
        score: What it reaches there.
        n_images: Images of the test split.
        wall_s: Seconds that it took.
    """

    __test__ = False  # pytest takes what is called Test for one

    number: int
    seed: int
    fingerprint: str
    score: float
    n_images: int
    wall_s: float


class EvaluationRows:
    """The rows of one study's evaluations; one row for each trial, seed and test split.

    Args:
        db: An open database.
        study_id: Optuna's id of the study.
    """

    def __init__(self, db: Database, study_id: int) -> None:
        self._db, self._study_id = db, study_id

    def add(self, score: TestScore) -> None:
        """Store a score; one that is there already stays."""
        row = {"study_id": self._study_id, "created_at": self._db.now()}
        row |= {_STORED_AS.get(field, field): value for field, value in vars(score).items()}
        with self._db.durably(), self._db.writing() as connection:  # Minutes of training.
            self._db.insert_new(connection, _TABLE, row)

    def read(self) -> list[TestScore]:
        """All scores in the order in which they were stored; none in a database of an older version."""
        fields = [_TABLE.c[_STORED_AS.get(field, field)].label(field) for field in TestScore.__dataclass_fields__]
        query = sa.select(*fields).where(_TABLE.c.study_id == self._study_id)
        query = query.order_by(_TABLE.c.created_at, _TABLE.c.trial_number, _TABLE.c.seed)
        with self._db.reading() as connection:
            if not sa.inspect(connection).has_table(_TABLE.name):
                return []
            return [TestScore(**row) for row in connection.execute(query).mappings()]


@dataclass(frozen=True)
class TestSummary:
    """What the repetitions of one trial say together.

    Args:
        mean: Of the scores.
        sd: Their sample standard deviation (n - 1), NaN for a single one. It is the spread over fine-tunings, not that
            over other test images.
        n_seeds: How many there are, >= 1.
    """

    __test__ = False

    mean: float
    sd: float
    n_seeds: int


def summary(scores: Collection[float]) -> TestSummary:
    """Mean and deviation of scores, at least one; equal ones deviate by exactly 0.

    Example:
        >>> summary([0.25, 0.5, 0.75])
        TestSummary(mean=0.5, sd=0.25, n_seeds=3)
    """
    sd = statistics.stdev(scores) if len(scores) > 1 else math.nan
    return TestSummary(statistics.mean(scores), sd, len(scores))


def alike(one: TestSummary, other: TestSummary) -> bool | None:
    """Whether two trials can't be told apart: their means differ by at most two standard errors of the difference.

    ``|m1 - m2| <= 2 * sqrt(sd1**2 / k1 + sd2**2 / k2)``, about 95 % for many seeds and less for few.

    Returns:
        None where one of them has a single seed, since then nothing can be said.

    Example:
        >>> alike(summary([0.7, 0.9]), summary([0.8, 1.0])), alike(summary([0.5, 0.5]), summary([0.6, 0.6]))
        (True, False)
    """
    if min(one.n_seeds, other.n_seeds) < 2:
        return None
    error = math.sqrt(one.sd**2 / one.n_seeds + other.sd**2 / other.n_seeds)
    return abs(one.mean - other.mean) <= 2 * error


def latest(scores: Sequence[TestScore]) -> dict[int, dict[int, float]]:
    """By trial, score by seed, on the test split that was scored on last.

    Args:
        scores: In the order in which they were stored.
    """
    found: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for each in sorted(scores, key=lambda each: each.seed):
        if each.fingerprint == scores[-1].fingerprint:
            found[each.number][each.seed] = each.score
    return dict(found)


def source_of(trial: pd.Series) -> int:
    """The trial whose network this trial has: its own number, unless it took over another one's result."""
    source = trial.get("taken_over_from")
    return int(trial["number"]) if source is None or source != source else int(source)


def scores_frame(scores: Sequence[TestScore], *, metric: str) -> pd.DataFrame:
    """One row for each score, by trial and seed; the column of the scores is called as ``metric`` says."""
    import pandas as pd

    columns = list(TestScore.__dataclass_fields__)
    frame = pd.DataFrame([vars(score) for score in scores], columns=columns)
    frame = frame.rename(columns={"score": metric})
    return frame.sort_values(["number", "fingerprint", "seed"]).reset_index(drop=True)


def with_test_scores(front: pd.DataFrame, scores: Sequence[TestScore], *, metric: str, cost: str) -> pd.DataFrame:
    """A front with what is known of its members on the test split.

    New columns, missing where a trial was not scored: ``test_`` and the metric's name, ``test_sd``, ``test_seeds``, and
    ``like_next``, whether a trial can't be told apart from the next costlier one on this front (`alike`).

    Args:
        front: In any order.
        scores: In the order in which they were stored; without any the front stays as it is.
        metric: The name of what they are.
        cost: The column to find neighbours by.
    """
    if not scores:
        return front
    by_trial = {number: summary(by_seed.values()) for number, by_seed in latest(scores).items()}
    found = [by_trial.get(source_of(trial)) for _, trial in front.iterrows()]
    result = front.copy()
    result[f"test_{metric}"] = np.array([one.mean if one else math.nan for one in found], dtype=np.float64)
    result["test_sd"] = np.array([one.sd if one else math.nan for one in found], dtype=np.float64)
    result["test_seeds"] = np.array([one.n_seeds if one else 0 for one in found], dtype=np.int64)
    order = front.reset_index(drop=True).sort_values([cost, "number"]).index
    like_next = np.full(len(front), None, dtype=object)
    for here, there in pairwise(order):
        one, other = found[here], found[there]
        like_next[here] = alike(one, other) if one and other else None
    result["like_next"] = like_next
    return result
