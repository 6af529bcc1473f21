"""The front of a live database beside one that is worked out pair by pair."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from autoprune.config import SearchConfig
from autoprune.errors import ConfigError
from autoprune.search.front import Candidates, EvaluationRows, Source, TestScore
from autoprune.search.front.lineages import lineage_images
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import StoredTrial, lineage_of
from tests.search.front.bulk import Row, write

TWO = SearchConfig(name="s", objectives=("accuracy", "macs_ratio"))
THREE = SearchConfig(
    name="s", metric="rmse", direction="minimize", objectives=("latency_ms", "rmse", "macs_ratio"),
    reference_point={"rmse": 1.0, "macs_ratio": 1.0, "latency_ms": 1.0},
)  # fmt: skip
MIXED = SearchConfig(name="s", objectives=("params_ratio", "accuracy", "macs_ratio"))
STATES = [TrialState.COMPLETE] * 7 + [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]


def opened(db: Database, search: SearchConfig, name: str = "s") -> StudyHandle:
    return StudyHandle.create_or_join(
        db, name=name, identity={}, config={}, directions=search.directions, objectives=search.objectives
    )


class Random:
    """Random trials, kept as arrays for the oracle, and the same ones in the database."""

    def __init__(self, db: Database, search: SearchConfig, n: int, *, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.search, self.study = search, opened(db, search)
        self.states = rng.choice(np.array(STATES, dtype=object), n)
        # A trade-off on a grid, so that the front is long and ties are the rule.
        values = rng.random((n, len(search.objectives))) ** 0.5
        values *= 0.9 / values.sum(axis=1, keepdims=True) ** 0.5
        self.values = np.where([way == "maximize" for way in search.directions], 1 - values, values).round(2)
        self.values[rng.random(n) < 0.02, 0] = math.nan
        self.lam, self.params = rng.random(n).round(1), rng.integers(0, 100, n)
        self.has_params = rng.random(n) < 0.9
        write(db, self.study, [self._row(i) for i in range(n)])

    def _row(self, i: int) -> Row:
        values = [None if math.isnan(value) else float(value) for value in self.values[i]]
        attrs = {"params": int(self.params[i])} if self.has_params[i] else {}
        lam = {"lam": (float(self.lam[i]), FloatDistribution(0.0, 1.0))}
        return Row(self.states[i], values if self.states[i].is_finished() else (), lam, attrs)

    def oracle(self, among: np.ndarray) -> list[int]:
        """The front of some trials, by looking at every pair."""
        candidates = np.flatnonzero(among & (self.states == TrialState.COMPLETE) & ~np.isnan(self.values).any(axis=1))
        losses = np.where([way == "maximize" for way in self.search.directions], -self.values, self.values)[candidates]
        columns = np.ascontiguousarray(losses.T)  # by column the pairs of 10,000 trials take a second
        beaten = np.zeros(len(losses), dtype=bool)
        for i, one in enumerate(losses.tolist()):
            nowhere_worse = np.logical_and.reduce([column <= x for column, x in zip(columns, one, strict=True)])
            somewhere_better = np.logical_or.reduce([column < x for column, x in zip(columns, one, strict=True)])
            beaten[i] = (nowhere_worse & somewhere_better).any()
        return candidates[~beaten].tolist()

    def asked(self, limits: Mapping[str, float], *where: str) -> list[int]:
        found = Candidates([Source(self.study, limits)], self.search, where=where).front().filled()
        assert found["is_pareto"].all()
        return sorted(found["number"])


@pytest.mark.parametrize(
    ("search", "n"),
    [
        (TWO, 2_000), (THREE, 2_000), (MIXED, 10_000),
        pytest.param(TWO, 10_000, marks=pytest.mark.slow), pytest.param(THREE, 10_000, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_front_of_many_trials_against_every_pair(db: Database, search: SearchConfig, n: int, kind: str) -> None:
    trials = Random(db, search, n if kind == "sqlite" else n // 10)
    everybody = np.ones(len(trials.states), dtype=bool)
    small = trials.has_params & (trials.params <= 20)
    found = trials.asked({})
    assert found == trials.oracle(everybody)
    assert len(found) > 5
    cheap = trials.values[:, search.objectives.index("macs_ratio")] <= 0.4
    assert trials.asked({"params": 20}, "lam > 0.55", "macs_ratio <= 0.4") == trials.oracle(
        small & cheap & (trials.lam > 0.55)
    )
    assert trials.asked({"latency": 1.0}) == []


def test_trials_that_are_beaten_are_shown_with_their_ranks(db: Database) -> None:
    trials = Random(db, MIXED, 400)
    candidates = Candidates([Source(trials.study, {"params": 60})], MIXED)
    every, found = candidates.front(dominated=True).filled(), candidates.front().filled()
    left = trials.has_params & (trials.params <= 60)
    n_seen, rank = 0, 0
    while front := trials.oracle(left):
        assert sorted(every[every["rank"] == rank]["number"]) == front
        left[front] = False
        n_seen, rank = n_seen + len(front), rank + 1
    assert n_seen == len(every)
    assert sorted(found["number"]) == sorted(every[every["is_pareto"]]["number"])
    on_front = every[every["is_pareto"]].set_index("number")
    for column in ("crowding", "hv_contribution"):
        np.testing.assert_allclose(found[column], on_front.loc[found["number"], column])
    assert (every[~every["is_pareto"]]["hv_contribution"] == 0).all()


def test_studies_on_one_front_keep_their_own_limits(db: Database) -> None:
    one, other = opened(db, TWO, "one"), opened(db, TWO, "other")
    write(db, one, [Row(values=v, attrs={"params": p}) for v, p in [((0.9, 0.5), 9), ((0.8, 0.2), 5), ((0.3, 0.4), 1)]])
    write(db, other, [Row(values=v) for v in [(0.9, 0.5), (0.85, 0.3), (0.1, 0.9)]])
    candidates = Candidates([Source(one, {"params": 8}), Source(other, {})], TWO)
    found = candidates.front().filled()
    assert list(found.columns[:3]) == ["study", "number", "state"]
    assert found[["study", "number"]].to_numpy().tolist() == [["one", 1], ["other", 1], ["other", 0]]
    assert candidates.hypervolume() == pytest.approx(0.8 * 0.1 + 0.85 * 0.2 + 0.9 * 0.5)
    assert found["params"].isna().tolist() == [False, True, True]
    only = Candidates([Source(one, {}), Source(other, {})], TWO, where=["study == 'other' or params < 9"])
    assert only.front().filled()["number"].tolist() == [1, 1, 0]
    alone = Candidates([Source(one, {"params": 0}), Source(other, {})], TWO).front().filled()
    assert alone["study"].tolist() == ["other", "other"]


def test_scores_of_studies_on_one_front_do_not_mix(db: Database) -> None:
    one, other = opened(db, TWO, "one"), opened(db, TWO, "other")
    for study, ratio in ((one, 0.2), (other, 0.5)):
        write(db, study, [Row(values=(ratio + 0.4, ratio))])
    for seed, score in enumerate((0.7, 0.9)):
        EvaluationRows(db, other.study_id).add(TestScore(0, seed, "t", score, n_images=10, wall_s=1.0))
    found = Candidates([Source(one, {}), Source(other, {}, n_validation=100)], TWO).front().filled()
    assert found["test_seeds"].tolist() == [0, 2]
    np.testing.assert_allclose(found["test_accuracy"], [math.nan, 0.8])
    assert found["like_next"].tolist() == [
        None,
        None,
    ]  # nobody knows how sure the accuracy of the one is


def test_a_front_is_sorted_best_first(db: Database) -> None:
    trials = Random(db, MIXED, 200)
    front = Candidates([Source(trials.study, {})], MIXED, columns={"sort": "lam"}).front()
    assert front.filled()["params_ratio"].is_monotonic_increasing  # the first cost
    assert front.sorted("accuracy").filled()["accuracy"].is_monotonic_decreasing
    assert front.sorted("lam").filled()["lam"].is_monotonic_increasing
    assert front.sorted("number").filled()["number"].is_monotonic_increasing
    with pytest.raises(
        ConfigError, match=r"^in `sort`, there is no column 'acuracy'; did you mean 'accuracy'\? Valid: "
    ):
        Candidates([Source(trials.study, {})], MIXED, columns={"sort": "acuracy"})


def test_the_front_of_a_minimised_metric_is_sorted_by_cost_and_on_demand_by_the_metric(db: Database) -> None:
    search = SearchConfig(
        name="s", metric="rmse", direction="minimize", reference_point={"rmse": 2.0, "macs_ratio": 1.0}
    )
    study = opened(db, search)
    write(db, study, [Row(values=values) for values in [(0.4, 1.0), (1.0, 0.2), (0.5, 0.5)]])
    front = Candidates([Source(study, {})], search).front()
    assert front.filled()["number"].tolist() == [1, 2, 0]
    assert front.sorted("rmse").filled()["number"].tolist() == [0, 2, 1]


def test_whole_numbers_are_whole_on_the_front(db: Database) -> None:
    study = opened(db, TWO)
    write(db, study, [Row(values=(0.5, 0.5), attrs={"macs": 40_813_184}), Row(TrialState.FAIL)])
    found = Candidates([Source(study, {})], TWO).front().filled()
    assert found["macs"].dtype == np.int64
    assert found["macs"].tolist() == [40_813_184]


def test_the_best_of_a_front(db: Database) -> None:
    study = opened(db, TWO)
    values = [(0.9, 0.5), (0.9, 0.5), (0.8, 0.2), (0.1, 0.1)]
    write(
        db, study, [Row(values=v, attrs={"wall": w} if w else {}) for v, w in zip(values, (3, 2, 2, None), strict=True)]
    )
    front = Candidates([Source(study, {})], TWO, columns={"best": "wall"}).front()
    numbers = {column: front.best(column).filled()["number"].tolist() for column in ("accuracy", "macs_ratio", "wall")}
    assert numbers == {"accuracy": [0], "macs_ratio": [3], "wall": [1]}
    assert front.sorted("accuracy").filled()["number"].tolist() == [0, 1, 2, 3]
    assert front.top(2).filled()["number"].tolist() == [2, 0]
    assert front.knee().filled()["number"].tolist() == [2]


@pytest.mark.parametrize(
    ("where", "columns", "told"),
    [
        (
            ["mac < 1"],
            {},
            r"^in `where`, there is no column 'mac'; did you mean 'macs'\? Valid: .*lam, macs, mac",
        ),
        (
            ["macs + 1 > 2"],
            {},
            r"must be made of comparisons, but 'macs \+ 1 > 2' has: .* Columns: accuracy, lam, m",
        ),
        (["lam == 'x'"], {}, r"must compare like with like, but lam is a number and 'x' is text"),
        ([], {"sort": None, "best": "lamb"}, r"^in `best`, there is no column 'lamb'; did you mean 'lam'\? Valid: "),
    ],
)
def test_what_can_t_be_understood_is_told_with_all_columns(
    db: Database, where: list[str], columns: dict[str, Any], told: str
) -> None:
    study, lam = opened(db, TWO), FloatDistribution(0.0, 1.0)
    write(db, study, [Row(values=(0.5, 0.5), params={"lam": (0.5, lam)}, attrs={"macs": 3})])
    with pytest.raises(ConfigError, match=told):
        Candidates([Source(study, {})], TWO, where=where, columns=columns)


def test_an_empty_study(db: Database) -> None:
    candidates = Candidates([Source(opened(db, TWO), {"params": 3})], TWO)
    assert candidates.hypervolume() == 0.0
    for front in (candidates.front(), candidates.front(dominated=True)):
        assert len(front.filled()) == len(front.best("accuracy")) == len(front.top(3)) == len(front.knee()) == 0


def test_images_of_lineages(db: Database) -> None:
    study, rng = opened(db, TWO), np.random.default_rng(0)
    attrs: list[dict[str, Any]] = [{"images": 100}]
    for number in range(1, 40):
        computed = [n for n, each in enumerate(attrs) if "taken_over_from" not in each]
        origin = int(rng.choice(computed))
        kinds: list[dict[str, Any]] = [
            {"images": number, "started_from": int(rng.integers(0, number))},
            {"images": number, "started_from": origin},
            {"images": 10**6, "taken_over_from": origin},
            {},
        ]
        attrs.append(kinds[rng.integers(0, 4)])
    write(db, study, [Row(values=(0.5, 0.5), attrs=each) for each in attrs])
    trials = {trial.number: StoredTrial(trial) for trial in study.trials()}
    expected = {n: sum(each.images for each in lineage_of(trials[n], trials)) for n in trials}
    assert lineage_images(study, list(trials)) == expected
    assert lineage_images(study, [39]) == {39: expected[39]}
    assert 150 < max(expected.values()) < 10**6
