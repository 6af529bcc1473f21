"""The knee of a front, and a few members for all of it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from autoprune.search.front.choosing import knee, spread
from autoprune.search.pareto import front_mask, hypervolume


def random_front(seed: int, objectives: int, n: int = 40) -> np.ndarray:
    points = np.random.default_rng(seed).random((n, objectives))
    return points[front_mask(points)]


def test_a_knee_by_hand() -> None:
    # Of the chord from (0, 10) to (4, 0), whose points have x / 4 + y / 10 = 1.
    assert knee(np.array([[0.0, 10.0], [1.0, 6.0], [2.0, 1.0], [4.0, 0.0]])) == 2
    assert knee(np.array([[0.0, 10.0], [2.0, 8.0], [4.0, 0.0]])) is None  # bulges the other way
    assert knee(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])) is None  # lies on the chord
    assert knee(np.array([[0.0, 2.0], [2.0, 0.0]])) is None
    assert knee(np.array([[3.0, 2.0]])) == 0
    assert knee(np.empty((0, 2))) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_knee_is_the_farthest_from_the_line_through_the_ends(seed: int) -> None:
    points = random_front(seed, 2)
    (ax, ay), (bx, by) = points[np.argmin(points[:, 0])], points[np.argmin(points[:, 1])]
    below = [(bx - x) * (ay - y) - (x - ax) * (y - by) for x, y in points]  # twice the triangle's area; > 0 below
    found = knee(points)
    if max(below) > 1e-9:
        assert found is not None
        assert below[found] == pytest.approx(max(below))
    # No unit matters.
    assert knee(points * [1e-3, 1e3] + [5.0, 0.0]) == found


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_a_few_members_keep_what_greed_keeps_and_most_of_what_can_be_kept(seed: int, objectives: int) -> None:
    points, corner = random_front(seed, objectives, 25), np.full(objectives, 0.9)
    for n in range(1, min(3, len(points)) + 1):
        greedy: list[int] = []
        for _ in range(n):
            greedy.append(max(range(len(points)), key=lambda i: hypervolume(points[[*greedy, i]], corner)))
        found, kept = spread(points, corner, n), hypervolume(points[sorted(set(greedy))], corner)
        assert hypervolume(points[found], corner) == pytest.approx(kept)
        best = max(hypervolume(points[list(some)], corner) for some in itertools.combinations(range(len(points)), n))
        assert kept >= (1 - 1 / math.e) * best


def test_members_that_add_nothing_are_left_out() -> None:
    points = np.array([[0.1, 0.5], [0.1, 0.5], [0.5, 0.1], [0.0, 2.0]])
    assert spread(points, np.array([1.0, 1.0]), 4) == [0, 2]
    assert spread(points[3:], np.array([1.0, 1.0]), 4) == []
    assert spread(np.empty((0, 2)), np.array([1.0, 1.0]), 4) == []
