"""What the noise of scores leaves open: which neighbours on a front can't be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoprune.search.front.test_scores import TestSummary, alike

if TYPE_CHECKING:
    import pandas as pd  # half a second to load, so the functions import it

__all__ = ["FEWEST_RACED", "RacedPair", "alike_by_share", "raced", "with_marks"]

FEWEST_RACED = 3
"""Seeds of each member before a race looks at them: a deviation over two says next to nothing."""

_LEVEL = 0.05  # of taking equal ones for different, at each look


def alike_by_share(one: float, other: float, *, n: tuple[int, int]) -> bool:
    """Whether two shares of right answers can't be told apart: within two standard errors of their difference.

    ``|p1 - p2| <= 2 * sqrt(p * (1 - p) * (1 / n1 + 1 / n2))`` with the pooled share p. The answers are taken as
    independent. Networks that are scored on the same examples tend to fail on the same ones, so that their difference
    is known better than this says: what it tells apart is apart.

    Args:
        one: In [0, 1].
        other: In [0, 1].
        n: Examples that each is a share of.

    Example:
        >>> alike_by_share(0.90, 0.91, n=(1000, 1000)), alike_by_share(0.90, 0.95, n=(1000, 1000))
        (True, False)
    """
    pooled = (one * n[0] + other * n[1]) / sum(n)
    return abs(one - other) <= 2 * math.sqrt(max(0.0, pooled * (1 - pooled)) * (1 / n[0] + 1 / n[1]))


def with_marks(
    front: pd.DataFrame, *, metric: str, cost: str, n_validation: npt.NDArray[np.float64] | None
) -> pd.DataFrame:
    """A front with marks at members that can't be told apart from the next costlier one shown.

    ``like_next`` says so, ``like_next_by`` by what: ``"test"`` where both were scored on the test split with several
    seeds (`test_scores.alike`), else ``"validation"`` where the metric is a share of a known number of validation
    examples (`alike_by_share`); both are missing where neither is known. ``score_se`` is the standard error
    ``sqrt(p * (1 - p) / n)`` of a share. Without test scores and numbers of examples the front stays as it is.

    Args:
        front: In any order; test scores as `with_test_scores` gives them. Of ``is_pareto`` rows only, if it has any.
        metric: What it is scored by.
        cost: The column to find neighbours by.
        n_validation: Examples that each score is a share of, NaN where that is not known, shape (T,); None: it is no
            share.
    """
    import pandas as pd

    by_tests = "test_seeds" in front.columns
    is_share = n_validation is not None and bool(np.isfinite(n_validation).any())
    if not by_tests and not is_share:
        return front
    result = front.reset_index(drop=True)
    sizes = n_validation if n_validation is not None else np.full(len(front), np.nan)
    if is_share:
        shares = result[metric].to_numpy(dtype=np.float64)
        result["score_se"] = np.sqrt(np.clip(shares * (1 - shares), 0, None) / sizes)
    members = result[result["is_pareto"]] if "is_pareto" in result.columns else result
    like_next, by = np.full(len(front), None, dtype=object), np.full(len(front), None, dtype=object)
    for here, there in pairwise(members.sort_values([cost, "number"]).index):
        rows = result.loc[here], result.loc[there]
        found = _alike_by_tests(*rows, metric=metric) if by_tests else None
        if found is not None:
            like_next[here], by[here] = found, "test"
        elif np.isfinite(sizes[[here, there]]).all():
            one, other = (float(row[metric]) for row in rows)
            like_next[here] = alike_by_share(one, other, n=(int(sizes[here]), int(sizes[there])))
            by[here] = "validation"
    for name, marks in (("like_next", like_next), ("like_next_by", by)):
        result[name] = pd.Series(marks, dtype=object)  # None where nothing is known, in both
    return result


def _alike_by_tests(one: Mapping[Any, Any], other: Mapping[Any, Any], *, metric: str) -> bool | None:
    found = [TestSummary(each[f"test_{metric}"], each["test_sd"], int(each["test_seeds"])) for each in (one, other)]
    answer = alike(*found)
    return None if answer is None else bool(answer)


@dataclass(frozen=True)
class RacedPair:
    """Two neighbours on a front after a look at their scores on the test split.

    Args:
        cheaper: Number of a trial.
        costlier: Number of the next costlier one.
        told_apart: Whether their means differ by more than chance allows.
        n_seeds: Fine-tunings of the one that has fewer.
    """

    cheaper: int
    costlier: int
    told_apart: bool
    n_seeds: int


def raced(order: list[int], summaries: Mapping[int, TestSummary]) -> list[RacedPair]:
    """A look at every pair of neighbours: told apart are those whose means differ by Welch's test at the 5 % level.

    With few seeds that asks for more than two standard errors, the rule of `alike`: a race looks again and again, and
    whoever stops at the first difference finds too many. Two that deviate by nothing differ if their means do.

    Args:
        order: The members by cost, each with two seeds or more.
        summaries: What is known of each.
    """
    pairs = []
    for here, there in pairwise(order):
        one, other = summaries[here], summaries[there]
        apart = abs(one.mean - other.mean) > _least_difference(one, other)
        pairs.append(RacedPair(here, there, apart, min(one.n_seeds, other.n_seeds)))
    return pairs


def _least_difference(one: TestSummary, other: TestSummary) -> float:
    from scipy.special import stdtrit  # Student's quantiles; nothing else of a front needs scipy

    parts = [each.sd**2 / each.n_seeds for each in (one, other)]
    if not sum(parts):
        return 0.0
    freedom = sum(parts) ** 2 / sum(
        part**2 / (each.n_seeds - 1) for part, each in zip(parts, (one, other), strict=True)
    )
    quantile = max(2.0, float(stdtrit(freedom, 1 - _LEVEL / 2)))
    return quantile * math.sqrt(sum(parts))
