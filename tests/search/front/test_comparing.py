"""Who is ahead where: step functions by hand and against a fine grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from autoprune.config import ACCURACY, Metric, SearchConfig
from autoprune.search.front import Stretch, n_beaten, stretches

RMSE = Metric("rmse", "minimize", 2.0)


def held(one: list[tuple[float, float]], other: list[tuple[float, float]], metric: Metric = ACCURACY) -> list[Stretch]:
    frames = [pd.DataFrame(front, columns=["macs_ratio", metric.name], dtype=float) for front in (one, other)]
    return stretches(*frames, cost="macs_ratio", metric=metric)


def test_leads_by_hand() -> None:
    assert held([(0.1, 0.5), (0.4, 0.8)], [(0.2, 0.6), (0.3, 0.75), (0.6, 0.8)]) == [
        Stretch(0.1, 0.2, 0, (0.5, None), 0.1),
        Stretch(0.2, 0.4, 1, (0.5, 0.75), 0.3),
        Stretch(0.4, 0.6, 0, (0.8, 0.75), 0.4),
        Stretch(0.6, None, None, (0.8, 0.8), 0.6),
    ]
    assert held([], []) == []
    assert held([(0.5, 0.1)], []) == [Stretch(0.5, None, 0, (0.1, None), 0.5)]
    assert held([(0.5, 1.0)], [(0.5, 1.5)], RMSE) == [Stretch(0.5, None, 0, (1.0, 1.5), 0.5)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("metric", [ACCURACY, RMSE])
def test_leads_against_a_grid(seed: int, metric: Metric) -> None:
    rng = np.random.default_rng(seed)
    fronts = [[(float(c), float(s)) for c, s in rng.integers(1, 9, (rng.integers(1, 7), 2)) / 10] for _ in range(2)]
    found = held(fronts[0], fronts[1], metric)
    for cost in np.arange(0.05, 1.2, 0.05) + 0.001:
        best = [[score for c, score in front if c <= cost] for front in fronts]
        stretch = [each for each in found if each.low <= cost and (each.high is None or cost < each.high)]
        if not any(best):
            assert stretch == []
            continue
        if not all(best):
            ahead = 0 if best[0] else 1
        else:
            tops = [metric.best(scores) for scores in best]
            ahead = None if tops[0] == tops[1] else tops.index(metric.best(tops))
            gap, told = abs(tops[0] - tops[1]), stretch[0].scores
            if None not in told:
                assert abs(told[0] - told[1]) >= gap - 1e-12
        assert [each.ahead for each in stretch] == [ahead]


def test_how_many_are_beaten() -> None:
    search = SearchConfig(name="s")

    def front(*points: tuple[float, float]) -> pd.DataFrame:
        return pd.DataFrame(points, columns=list(search.objectives), dtype=float)

    points = front((0.1, 0.1), (0.5, 0.5), (0.9, 0.9))
    assert n_beaten(points, points, search) == 0
    assert n_beaten(points, front((0.5, 0.4), (0.95, 1.0)), search) == 1
    assert n_beaten(points, front((1.0, 0.0)), search) == 3
    assert n_beaten(points, front(), search) == 0
