from __future__ import annotations

import ast
import itertools
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autoprune.errors import ConfigError
from autoprune.search import pareto
from autoprune.search.pareto import (
    contributions,
    crowding_distance,
    front_mask,
    gains,
    hypervolume,
    non_domination_rank,
    thin,
    within,
)

# Few distinct values, so that ties and duplicates are the rule.
COARSE = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, 0.5])
ROUGH = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf, -math.inf])


def tables(cells: st.SearchStrategy[float], objectives: int | None = None) -> st.SearchStrategy[np.ndarray]:
    n_objectives = st.integers(1, 4) if objectives is None else st.just(objectives)
    return st.tuples(st.integers(0, 12), n_objectives).flatmap(
        lambda shape: hnp.arrays(np.float64, shape, elements=cells)
    )


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def brute_front(points: np.ndarray) -> list[bool]:
    valid = [not np.isnan(row).any() for row in points]
    return [
        ok and not any(other_ok and dominates(other, row) for other, other_ok in zip(points, valid, strict=True))
        for row, ok in zip(points, valid, strict=True)
    ]


@given(tables(ROUGH))
@settings(max_examples=300, deadline=None)
def test_front_against_brute_force(points: np.ndarray) -> None:
    assert front_mask(points).tolist() == brute_front(points)


@given(tables(ROUGH, 3), st.lists(st.booleans(), min_size=3, max_size=3))
@settings(deadline=None)
def test_front_in_mixed_directions(points: np.ndarray, minimise: list[bool]) -> None:
    before = points.copy()
    turned = np.where(minimise, points, -points)
    assert front_mask(points, minimise).tolist() == brute_front(turned)
    assert front_mask(-points, False).tolist() == front_mask(points, True).tolist()
    np.testing.assert_array_equal(points, before)


def test_front_keeps_equal_points_and_negative_zero() -> None:
    assert front_mask([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0]]).tolist() == [True, True, False]
    assert front_mask([[1.0], [1.0], [2.0]]).tolist() == [True, True, False]
    assert front_mask(np.empty((0, 2))).tolist() == []


def test_front_of_many_points_in_a_blink() -> None:
    points = np.random.default_rng(0).random((100_000, 2))
    start = time.perf_counter()
    mask = front_mask(points)
    assert time.perf_counter() - start < 5
    front = points[mask]
    best = points[np.argsort(points[:, 0])]
    assert (front[np.argsort(front[:, 0])] == best[best[:, 1] <= np.minimum.accumulate(best[:, 1])]).all()


# Hypervolume


def brute_hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Count the cells of the grid that the points' coordinates cut."""
    axes = [np.unique(np.append(points[:, m], reference[m])) for m in range(points.shape[1])]
    axes = [axis[axis <= corner] for axis, corner in zip(axes, reference, strict=True)]
    volume = 0.0
    for cell in itertools.product(*[range(len(axis) - 1) for axis in axes]):
        low = np.array([axis[i] for axis, i in zip(axes, cell, strict=True)])
        high = np.array([axis[i + 1] for axis, i in zip(axes, cell, strict=True)])
        if (points <= low).all(axis=1).any():
            volume += float(np.prod(high - low))
    return volume


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_hypervolume_against_counting(objectives: int) -> None:
    @given(tables(COARSE | st.floats(-2, 4), objectives), st.lists(COARSE, min_size=objectives, max_size=objectives))
    @settings(max_examples=150, deadline=None)
    def check(points: np.ndarray, corner: list[float]) -> None:
        reference = np.array(corner)
        assert hypervolume(points, reference) == pytest.approx(brute_hypervolume(points, reference), abs=1e-9)

    check()


@given(tables(COARSE, 3), st.integers(0, 11))
@settings(deadline=None)
def test_hypervolume_grows_with_every_point_and_ignores_dominated_ones(points: np.ndarray, left_out: int) -> None:
    reference = np.array([2.5, 2.5, 2.5])
    whole = hypervolume(points, reference)
    assert hypervolume(points[front_mask(points)], reference) == pytest.approx(whole)
    if len(points):
        assert hypervolume(np.delete(points, left_out % len(points), axis=0), reference) <= whole + 1e-12


def test_hypervolume_by_hand() -> None:
    assert hypervolume([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [2.0, 1.0]], [3.0, 3.0]) == 3.0
    assert hypervolume([[1.0, 1.0, 1.0], [0.0, 2.0, 2.0]], [3.0, 3.0, 3.0]) == 8.0 + 1.0
    assert hypervolume([[4.0, 0.0], [3.0, 0.0], [math.nan, 0.0]], [3.0, 3.0]) == 0.0
    assert hypervolume(np.empty((0, 2)), [1.0, 1.0]) == 0.0


@pytest.mark.parametrize(
    ("points", "reference"),
    [
        (np.zeros((1, 4)), [1.0] * 4),
        (np.zeros((1, 2)), [1.0]),
        (np.zeros((1, 2)), [1.0, math.inf]),
        (np.zeros((1, 2)), [1.0, math.nan]),
    ],
)
def test_hypervolume_refuses(points: np.ndarray, reference: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"needs one to three objectives and a finite reference for each, but got"):
        hypervolume(points, reference)


def test_points_must_be_a_table() -> None:
    with pytest.raises(ConfigError, match=r"must have the shape \(trials, objectives\), but got the shape \(3,\)"):
        front_mask([1.0, 2.0, 3.0])


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_contributions_are_what_the_front_loses_without_a_member(objectives: int) -> None:
    @given(tables(COARSE | st.floats(-2, 4), objectives), st.lists(COARSE, min_size=objectives, max_size=objectives))
    @settings(max_examples=150, deadline=None)
    def check(points: np.ndarray, corner: list[float]) -> None:
        reference, on_front = np.array(corner), np.array(brute_front(points), dtype=bool)
        members = points[on_front]
        whole = brute_hypervolume(members, reference)
        lost = [whole - brute_hypervolume(np.delete(members, i, axis=0), reference) for i in range(len(members))]
        found = contributions(points, reference)
        np.testing.assert_allclose(found[on_front], lost, atol=1e-9)
        assert (found[~on_front] == 0).all()
        assert (found >= 0).all()

    check()


@given(tables(COARSE, 2), tables(COARSE, 2))
@settings(deadline=None)
def test_gains_are_what_the_hypervolume_grows_by(front: np.ndarray, points: np.ndarray) -> None:
    corner = [3.0, 3.5]
    before = hypervolume(front, corner)
    grown = [hypervolume(np.vstack([front, point]), corner) - before for point in points]
    assert gains(points, front, corner) == pytest.approx(grown, abs=1e-9)


def test_gains_by_hand() -> None:
    # Between (0.1, 0.8) and (0.3, 0.2) up to (0.5, 1): (0.2, 0.5) alone dominates 0.1 x 0.3.
    assert gains([[0.2, 0.5]], [[0.1, 0.8], [0.3, 0.2]], [0.5, 1.0]).tolist() == pytest.approx([0.1 * 0.3])
    points = [[0.2, 0.9], [0.1, 0.8], [math.nan, 0.1], [0.5, 0.1]]
    assert gains(points, [[0.1, 0.8]], [0.5, 1.0]).tolist() == [0, 0, 0, 0]
    assert gains([[0.25, 0.5]], np.empty((0, 2)), [0.5, 1.0]).tolist() == [0.125]
    with pytest.raises(ConfigError, match="two objectives"):
        gains([[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]], [1.0, 1.0, 1.0])


def test_contributions_refuse_what_a_hypervolume_refuses() -> None:
    with pytest.raises(ConfigError, match=r"needs one to three objectives and a finite reference for each, but got"):
        contributions(np.zeros((1, 4)), [1.0] * 4)


# Orders


@pytest.mark.parametrize("objectives", [2, 3])
def test_many_trials_are_ranked_in_a_blink(objectives: int) -> None:
    points = np.random.default_rng(0).random((20_000, objectives)).round(3)
    start = time.perf_counter()
    ranks = non_domination_rank(points)
    assert time.perf_counter() - start < 5  # 0.05 s and 0.3 s on an idle core; peeling takes minutes
    assert (front_mask(points) == (ranks == 0)).all()
    left = ranks > 0
    assert (front_mask(points[left]) == (ranks[left] == 1)).all()


@given(tables(ROUGH))
@settings(max_examples=300, deadline=None)
def test_ranks_peel_fronts(points: np.ndarray) -> None:
    ranks = non_domination_rank(points)
    valid = ~np.isnan(points).any(axis=1)
    last = ranks[valid].max() if valid.any() else -1
    assert (ranks[~valid] == last + 1).all()
    for rank in range(last + 1):
        rest = np.flatnonzero(valid & (ranks >= rank))
        assert (front_mask(points[rest]) == (ranks[rest] == rank)).all()


def test_crowding_by_hand() -> None:
    points = [[0.0, 10.0], [1.0, 6.0], [2.0, 4.0], [4.0, 0.0]]
    expected = [math.inf, 2 / 4 + 6 / 10, 3 / 4 + 6 / 10, math.inf]
    assert crowding_distance(points).tolist() == pytest.approx(expected)
    assert crowding_distance([[1.0, 1.0], [1.0, 1.0]]).tolist() == [0.0, 0.0]
    assert crowding_distance([[1.0, 2.0]]).tolist() == [0.0]
    assert crowding_distance(np.empty((0, 2))).tolist() == []


@given(tables(COARSE, 2))
@settings(deadline=None)
def test_crowding_ignores_order(points: np.ndarray) -> None:
    points = np.unique(points + 0.0, axis=0)
    shuffled = np.random.default_rng(0).permutation(len(points))
    if len(np.unique(points[:, 0])) == len(np.unique(points[:, 1])) == len(points):
        np.testing.assert_allclose(crowding_distance(points[shuffled]), crowding_distance(points)[shuffled])


@given(tables(COARSE | st.floats(0, 4), 2), st.sampled_from([0.0, 0.3, 1.0, 2.5, 100.0]), st.integers(0, 1))
@settings(max_examples=150, deadline=None)
def test_thin_keeps_the_ends_and_the_gap(points: np.ndarray, gap: float, axis: int) -> None:
    kept = thin(points, axis, gap)
    front = np.flatnonzero(front_mask(points))
    assert set(kept) <= set(front)
    along = points[kept, axis]
    assert (np.diff(along) >= gap).all()
    if gap == 0:
        assert sorted(kept) == sorted(front)
    if len(front):
        low, high = points[front, axis].min(), points[front, axis].max()
        assert along[-1] == high
        if high - low >= gap:
            assert along[0] == low
        # Nothing more would fit.
        for index in set(front) - set(kept):
            if gap > 0 and len(kept) > 2:
                assert np.abs(along - points[index, axis]).min() < 2 * gap


def test_thin_refuses_a_negative_gap() -> None:
    with pytest.raises(ConfigError, match=r"`gap` must be >= 0, but got gap=-1"):
        thin([[0.0, 0.0]], axis=0, gap=-1)


def test_it_imports_nothing_of_ours_but_errors() -> None:
    tree = ast.parse(Path(pareto.__file__).read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in found if name.startswith("autoprune")} == {"autoprune.errors"}


# Limits


@given(tables(ROUGH, 2), st.tuples(COARSE, COARSE))
def test_within_against_brute_force(points: np.ndarray, limits: tuple[float, float]) -> None:
    expected = [all(value <= limit for value, limit in zip(row, limits, strict=True)) for row in points]
    assert within(points, limits).tolist() == expected


@pytest.mark.parametrize("target", [0.1, 0.3, 0.35, 0.7])
def test_a_ratio_that_was_asked_for_is_within(target: float) -> None:
    # The widths fit `target * dense` MACs; their own ratio can be rounded to just above the target.
    dense = np.arange(10, 40_000, 10, dtype=np.float64)
    ratios = np.round(target * dense) / dense
    asked = ratios[np.round(target * dense) <= target * dense]
    assert within(asked[:, None], [target]).all()
    assert not within([[target + 1e-9]], [target]).any()
