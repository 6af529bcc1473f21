from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.trial import TrialState

from autoprune.config import ACCURACY, Metric
from autoprune.errors import ConfigError
from autoprune.search.front import front, hypervolume_of, thinned, trials_frame
from autoprune.search.front.query import feasible
from autoprune.search.front.where import rows_where
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Claim, Lifecycle, Proposal

OBJECTIVES, DIRECTIONS = ("accuracy", "macs_ratio"), ("maximize", "minimize")
METHODS = CategoricalDistribution(["l1", "mcp", None])
MORE_METHODS = CategoricalDistribution(["l1", "mcp", "resrep"])


def claim(lifecycle: Lifecycle, key: str, params: dict[str, Any], distributions: dict[str, Any], **attrs: Any) -> Claim:
    claimed = lifecycle.claim(Proposal(params, distributions, key, attrs))
    assert isinstance(claimed, Claim)
    return claimed


# The table


def test_the_table_of_a_study(db: Database, study: StudyHandle, clock: Any) -> None:
    lifecycle = Lifecycle(study, owner="me", n_trials=10)
    widths, lam = IntDistribution(1, 64), FloatDistribution(0.0, 1.0)
    a = claim(
        lifecycle,
        "a",
        {"method": "mcp", "mcp.lam": 0.5, "state": 3},
        {"method": METHODS, "mcp.lam": lam, "state": widths},
    )
    b = claim(lifecycle, "b", {"method #2": "resrep", "width": 8}, {"method #2": MORE_METHODS, "width": widths}, macs=1)
    c = claim(lifecycle, "c", {"method": None, "width": 16}, {"method": METHODS, "width": widths})
    lifecycle.complete(
        a.trial_id, [0.9, 0.5], {"macs": 40, "accuracy": 0.1, "method": "x", "widths": {"conv": 3}, "ok": True}
    )
    lifecycle.stopped(b.trial_id, {"partial_accuracy": 0.3, "macs": 2})
    lifecycle.failed(c.trial_id, "out of memory")
    claim(lifecycle, "d", {}, {})
    frame = trials_frame(db, study)
    assert list(frame.columns) == [
        "number", "state", "accuracy", "macs_ratio", "mcp.lam", "method", "param.state", "width",
        "attempt", "claimed_at", "key", "macs", "attr.method", "ok", "owner", "partial_accuracy", "reason", "revision",
        "seed_number",
    ]  # fmt: skip
    assert frame["number"].tolist() == [0, 1, 2, 3]
    assert frame["state"].tolist() == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    np.testing.assert_array_equal(frame["accuracy"], [0.9, math.nan, math.nan, math.nan])
    np.testing.assert_array_equal(frame["macs_ratio"], [0.5, math.nan, math.nan, math.nan])
    np.testing.assert_array_equal(frame["mcp.lam"], [0.5, math.nan, math.nan, math.nan])
    np.testing.assert_array_equal(frame["width"], [math.nan, 8, 16, math.nan])
    np.testing.assert_array_equal(frame["macs"], [40, 2, math.nan, math.nan])
    assert frame["method"].iloc[:2].tolist() == ["mcp", "resrep"]
    assert frame["method"].iloc[2:].isna().all()
    assert frame["ok"].iloc[0] is True
    assert frame["attempt"].dtype == np.int64
    assert frame["key"].tolist() == ["a", "b", "c", "d"]
    assert frame["reason"].iloc[2] == "out of memory"
    assert (frame["claimed_at"] == clock.now).all()


def test_an_empty_study_has_an_empty_table_and_front(db: Database, study: StudyHandle) -> None:
    frame = trials_frame(db, study)
    assert list(frame.columns) == ["number", "state", "accuracy", "macs_ratio"]
    assert len(frame) == 0
    assert len(front_of(frame, where="macs_ratio < 0.5 and state == 'COMPLETE'")) == 0
    assert hypervolume_of(frame, OBJECTIVES, DIRECTIONS, reference_point={"accuracy": 0.0, "macs_ratio": 1.0}) == 0.0


def test_studies_do_not_mix(db: Database, study: StudyHandle) -> None:
    other = StudyHandle.create_or_join(db, name="other", identity={}, config={}, directions=DIRECTIONS)
    claim(Lifecycle(study, owner="me", n_trials=9), "a", {"x": 1}, {"x": IntDistribution(0, 9)}, seed=1)
    claim(Lifecycle(other, owner="me", n_trials=9), "b", {"y": 2}, {"y": IntDistribution(0, 9)}, macs=2)
    assert {"x", "seed"} <= set(trials_frame(db, study).columns)
    assert not {"y", "macs"} & set(trials_frame(db, study).columns)
    assert trials_frame(db, other)["y"].tolist() == [2]


def test_the_table_is_read_through_a_readonly_database_while_trials_run(
    db: Database, study: StudyHandle, url: str
) -> None:
    lifecycle = Lifecycle(study, owner="me", n_trials=9)
    reader = Database.open_readonly(url)
    seen = StudyHandle.open(reader, "digits")
    for i in range(3):
        claim(lifecycle, str(i), {"x": i}, {"x": IntDistribution(0, 9)})
        with db.writing():
            pass
        assert trials_frame(reader, seen)["x"].tolist() == list(range(i + 1))
    reader.close()


def fill(db: Database, study: StudyHandle, n: int, *, n_params: int = 30, n_attrs: int = 12, seed: int = 0) -> None:
    """Write trials straight into Optuna's tables: thousands of them would take minutes otherwise."""
    rng = np.random.default_rng(seed)
    mix = [TrialState.COMPLETE] * 8 + [TrialState.PRUNED, TrialState.FAIL]
    states = [mix[i] for i in rng.integers(0, len(mix), n)]
    values = np.round(rng.random((n, 2)), 2)
    numbers = rng.random((n, n_params))
    kinds = [distribution_to_json(METHODS), distribution_to_json(FloatDistribution(0.0, 1.0))]
    with db.reading() as connection:
        tables = sa.MetaData()
        tables.reflect(connection, only=["trials", "trial_values", "trial_params", "trial_user_attributes"])
    rows: dict[str, list[dict[str, Any]]] = {
        "trial_values": [
            {"trial_id": i + 1, "objective": m, "value": float(values[i, m]), "value_type": "FINITE"}
            for i in range(n) if states[i] is TrialState.COMPLETE for m in (0, 1)
        ],
        "trial_params": [
            {"trial_id": i + 1, "param_name": f"p{k:02}", "distribution_json": kinds[k > 0],
             "param_value": float(numbers[i, k]) if k else float(i % 3)}
            for i in range(n) for k in range(n_params)
        ],
        "trial_user_attributes": [
            {"trial_id": i + 1, "key": f"a{k:02}", "value_json": json.dumps(i * k if k else {"w": list(range(30))})}
            for i in range(n) for k in range(n_attrs)
        ],
    }  # fmt: skip
    with db.writing() as connection:
        made = [{"trial_id": i + 1, "number": i, "study_id": study.study_id, "state": states[i]} for i in range(n)]
        connection.execute(sa.insert(schema.optuna_trials), made)
        for name, table_rows in rows.items():
            connection.execute(tables.tables[name].insert(), table_rows)


@pytest.mark.parametrize("n", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_trials_are_read_fast(db: Database, study: StudyHandle, n: int) -> None:
    fill(db, study, n)
    start = time.perf_counter()
    frame = trials_frame(db, study)
    found = front_of(frame, where="macs_ratio <= 0.5 and p00 == 'mcp'")
    assert time.perf_counter() - start < 6  # 10,000 take about 0.6 s on an idle core
    assert frame.shape == (n, 2 + 2 + 30 + 11)
    assert 0 < len(found) < 100
    assert frame["p00"].iloc[:2].tolist() == ["l1", "mcp"]
    assert frame["a03"].tolist() == [3 * i for i in range(n)]


# The front


def front_of(
    frame: pd.DataFrame, *goals: tuple[str, ...], limits: Mapping[str, float] | None = None, where: str | None = None
) -> pd.DataFrame:
    """The front of those that keep the limits and satisfy a condition."""
    kept = feasible(frame, limits or {})
    kept &= True if where is None else rows_where(frame, where)
    return front(frame[kept], *(goals or (OBJECTIVES, DIRECTIONS)))


def brute_front(frame: pd.DataFrame) -> list[int]:
    rows = [
        row
        for row in frame.itertuples()
        if row.state == "COMPLETE" and not np.isnan([row.accuracy, row.macs_ratio]).any()
    ]

    def beaten(row: Any) -> bool:
        return any(
            other.accuracy >= row.accuracy
            and other.macs_ratio <= row.macs_ratio
            and (other.accuracy > row.accuracy or other.macs_ratio < row.macs_ratio)
            for other in rows
        )

    return [row.number for row in rows if not beaten(row)]


def random_frame(seed: int, n: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    coarse = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, math.nan]
    return pd.DataFrame(
        {
            "number": np.arange(n),
            "state": rng.choice(["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"], n),
            "accuracy": rng.choice(coarse, n),
            "macs_ratio": rng.choice(coarse, n),
            "method": rng.choice(np.array(["l1", "mcp", None], dtype=object), n),
            "mcp.lam": rng.choice(coarse, n),
            "macs": rng.integers(0, 5, n),
            "width of conv1": rng.integers(0, 5, n),
        }
    )


@pytest.mark.parametrize("seed", range(30))
def test_front_against_brute_force(seed: int) -> None:
    frame = random_frame(seed)
    found = front(frame, OBJECTIVES, DIRECTIONS)
    assert sorted(found["number"]) == brute_front(frame)
    where = "macs_ratio <= 0.4 and (method == 'mcp' or macs > 1)"
    found = front_of(frame, where=where)
    assert sorted(found["number"]) == brute_front(frame.query(where))


@pytest.mark.parametrize("seed", range(30))
def test_the_front_of_those_that_keep_the_limits_against_brute_force(seed: int) -> None:
    frame = random_frame(seed, n=120)
    frame["latency_ms"] = np.random.default_rng(seed).choice([1.0, 2.0, 3.0, math.nan], len(frame))
    for limits in ({"macs_ratio": 0.3}, {"macs": 2, "latency_ms": 2.0}, {"accuracy": 0.2, "macs": 0}):
        kept = np.array([all(row[name] <= limit for name, limit in limits.items()) for _, row in frame.iterrows()])
        found = front_of(frame, limits=limits)
        assert sorted(found["number"]) == brute_front(frame[kept])
        found = front_of(frame, limits=limits, where="macs > 0")
        assert sorted(found["number"]) == brute_front(frame[kept].query("macs > 0"))
        point = {"accuracy": 0.0, "macs_ratio": 0.5}
        kept_volume = hypervolume_of(
            frame[kept & (frame["state"] == "COMPLETE")], OBJECTIVES, DIRECTIONS, reference_point=point
        )
        found = front_of(frame, limits=limits)
        assert hypervolume_of(found, OBJECTIVES, DIRECTIONS, reference_point=point) == pytest.approx(
            kept_volume, abs=1e-12
        )


def test_what_was_never_measured_keeps_no_limit() -> None:
    frame = random_frame(0)
    assert feasible(frame, {}).all()
    assert not feasible(frame, {"latency_ms": 1e9}).any()
    frame["latency_ms"] = np.full(len(frame), None, dtype=object)
    assert not feasible(frame, {"latency_ms": 1e9}).any()
    assert len(front_of(frame, limits={"latency_ms": 1e9})) == 0


def test_thinned_keeps_both_ends() -> None:
    frame = pd.DataFrame({"accuracy": [0.5, 0.6, 0.7, 0.8], "macs_ratio": [0.1, 0.15, 0.3, 0.9]})
    assert thinned(frame, "macs_ratio", ACCURACY, gap=0.1)["accuracy"].tolist() == [0.5, 0.7, 0.8]
    assert len(thinned(frame, "macs_ratio", ACCURACY, gap=0.0)) == 4


def test_hypervolume_as_a_share_of_the_box() -> None:
    frame = pd.DataFrame({"accuracy": [0.5, 0.9, math.nan], "macs_ratio": [0.25, 0.5, 0.1]})
    origin = {"accuracy": 0.0, "macs_ratio": 1.0}
    assert hypervolume_of(frame, OBJECTIVES, DIRECTIONS, reference_point=origin) == pytest.approx(
        0.5 * 0.25 + 0.9 * 0.5
    )
    nearer = {"accuracy": 0.8, "macs_ratio": 1.0}
    assert hypervolume_of(frame, OBJECTIVES, DIRECTIONS, reference_point=nearer) == pytest.approx(0.1 * 0.5 / 0.2)
    with pytest.raises(
        ConfigError, match=r"`reference_point` must be worse than 1 .* but got {'accuracy': 1.0, 'macs_"
    ):
        hypervolume_of(frame, OBJECTIVES, DIRECTIONS, reference_point={"accuracy": 1.0, "macs_ratio": 1.0})


# Where less of both is better

RMSE = Metric("rmse", "minimize", 4.0)
BY_RMSE, LESS = ("rmse", "macs_ratio"), ("minimize", "minimize")


def rmse_frame(seed: int, n: int = 60) -> pd.DataFrame:
    frame = random_frame(seed, n).rename(columns={"accuracy": "rmse"})
    return frame.assign(rmse=2 * frame["rmse"])


@pytest.mark.parametrize("seed", range(10))
def test_the_front_of_a_minimised_metric_against_brute_force(seed: int) -> None:
    frame = rmse_frame(seed)
    for where in ("rmse < 0.5", "number >= 0"):
        rows = frame.query(where).query("state == 'COMPLETE'").dropna(subset=["rmse", "macs_ratio"]).itertuples()
        points = {row.number: (row.rmse, row.macs_ratio) for row in rows}
        left = {
            number
            for number, (rmse, ratio) in points.items()
            if not any(a <= rmse and b <= ratio and (a, b) != (rmse, ratio) for a, b in points.values())
        }
        assert set(front_of(frame, BY_RMSE, LESS, where=where)["number"]) == left


def test_near_points_leave_the_one_with_the_least_rmse() -> None:
    frame = pd.DataFrame({"rmse": [1.0, 0.9, 0.5, 0.3], "macs_ratio": [0.1, 0.15, 0.3, 0.9]})
    assert thinned(frame, "macs_ratio", RMSE, gap=0.1)["rmse"].tolist() == [1.0, 0.5, 0.3]
    equal = pd.DataFrame({"rmse": [0.9, 0.5], "macs_ratio": [0.3, 0.3]})
    assert thinned(equal, "macs_ratio", RMSE, gap=0.1)["rmse"].tolist() == [0.5]


def test_the_hypervolume_of_a_minimised_metric_is_a_share_of_the_box_down_to_0() -> None:
    frame = pd.DataFrame({"rmse": [1.0, 0.4, 5.0, math.nan], "macs_ratio": [0.25, 0.5, 0.1, 0.1]})
    # 3 x 0.75 and 0.6 x 0.5 of a box of 4 x 1; 5 is worse than a useless network.
    found = hypervolume_of(frame, BY_RMSE, LESS, reference_point={"rmse": 4.0, "macs_ratio": 1.0})
    assert found == pytest.approx((3 * 0.75 + 0.6 * 0.5) / 4)
    with pytest.raises(ConfigError, match=r"`reference_point` must be worse than 1 for maximised and than 0 for min"):
        hypervolume_of(frame, BY_RMSE, LESS, reference_point={"rmse": 0.0, "macs_ratio": 1.0})


def test_the_table_of_a_study_that_minimises_rmse(db: Database) -> None:
    study = StudyHandle.create_or_join(
        db, name="regression", identity={}, config={}, directions=LESS, objectives=BY_RMSE
    )
    lifecycle = Lifecycle(study, owner="me", n_trials=10)
    done, stopped = (claim(lifecycle, key, {}, {}) for key in "ab")
    lifecycle.complete(done.trial_id, [0.75, 0.5], {"rmse": 0.75, "macs_ratio": 0.5, "macs": 7})
    lifecycle.stopped(stopped.trial_id, {"partial_rmse": 1.5})
    frame = trials_frame(db, study)
    assert list(frame.columns[:4]) == ["number", "state", "rmse", "macs_ratio"]
    assert not {"accuracy", "attr.rmse"} & set(frame.columns)
    np.testing.assert_array_equal(frame["rmse"], [0.75, math.nan])
    np.testing.assert_array_equal(frame["partial_rmse"], [math.nan, 1.5])
    assert rows_where(frame, "rmse < 0.8 and macs == 7").tolist() == [True, False]


# Conditions

NUMBERS = st.sampled_from(["accuracy", "macs_ratio", "macs", "number"])
OPERATORS = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
NUMBER_TESTS = st.tuples(NUMBERS, OPERATORS, st.sampled_from(["0.2", "0.3", "-1", "2"]) | NUMBERS).map(" ".join)
TEXT_TESTS = st.tuples(st.just("method"), st.sampled_from(["==", "!="]), st.sampled_from(["'mcp'", '"l1"', "'x'"])).map(
    " ".join
)
CONDITIONS = st.recursive(
    NUMBER_TESTS | TEXT_TESTS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda one: f"not ({one})"),
    ),
    max_leaves=5,
)


@given(CONDITIONS, st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_conditions_agree_with_pandas(where: str, seed: int) -> None:
    frame = random_frame(seed)
    np.testing.assert_array_equal(rows_where(frame, where), frame.eval(where).to_numpy())


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("0.1 < macs_ratio <= 0.3", lambda f: (f["macs_ratio"] > 0.1) & (f["macs_ratio"] <= 0.3)),
        ("`width of conv1` == 2", lambda f: f["width of conv1"] == 2),
        ("mcp.lam >= 0.2", lambda f: f["mcp.lam"] >= 0.2),
        ("`mcp.lam` >= 0.2 and method == '`'", lambda f: f["number"] < 0),
        (" macs == 2 ", lambda f: f["macs"] == 2),
        ("method > 'l1'", lambda f: f["method"] == "mcp"),
        ("'mcp' == method", lambda f: f["method"] == "mcp"),
    ],
)
def test_conditions(where: str, numbers: Any) -> None:
    frame = random_frame(1)
    np.testing.assert_array_equal(rows_where(frame, where), numbers(frame).to_numpy())


def test_truth_values_and_mixed_cells() -> None:
    frame = pd.DataFrame(
        {"ok": [True, False, None], "all": [True, False, True], "mixed": ["a", 3, None], "blank": [None] * 3}
    )
    assert rows_where(frame, "blank == 1 or blank == 'a' or 1 < blank").tolist() == [False, False, False]
    assert rows_where(frame, "blank != 1").tolist() == [True, True, True]
    assert rows_where(frame, "ok == True").tolist() == [True, False, False]
    assert rows_where(frame, "all != True").tolist() == [False, True, False]
    assert rows_where(frame, "mixed == '3'").tolist() == [False, True, False]


@pytest.mark.parametrize(
    "where",
    ["macs", "macs + 1 > 2", "(macs > 1) & (macs < 3)", "__import__('os').system('true') == 0", "macs in [1, 2]",
     "macs is None", "[macs for macs in (1, 2)] == 1", "lambda: 1", "f'{macs}' == 'a'", "macs[0] > 1", "1", "@macs > 1",
     "macs > 1; macs", "macs = 1", "", "(" * 300, "macs > 1 " + "and macs > 1 " * 400, "not macs", "macs == b'1'",
     "(macs := 1) > 0", "macs > 1j", "macs.__class__ == 1 if macs else 2", "macs > 'unclosed"],
)  # fmt: skip
def test_anything_else_is_refused(where: str) -> None:
    with pytest.raises(
        ConfigError, match=r"`where` must be (a condition|made of comparisons), but .*Compare columns with"
    ):
        rows_where(random_frame(1), where)


def test_a_refusal_names_what_it_met_and_the_columns() -> None:
    said = (
        r"`where` must be made of comparisons, but '`width of conv1` \+ 1 > 2' has: `width of conv1` \+ 1\. Compare .*"
        r" Columns: accuracy, macs, macs_ratio, mcp\.lam, method, number, state, width of conv1\."
    )
    with pytest.raises(ConfigError, match=said):
        rows_where(random_frame(1), "`width of conv1` + 1 > 2")


@pytest.mark.parametrize("name", ["mac", "`mac`", "macs.s"])
def test_an_unknown_column(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"in `where`, there is no column '.*'; did you mean 'macs'\? Valid: accuracy, "
    ):
        rows_where(random_frame(1), f"{name} > 1")


@pytest.mark.parametrize("where", ["method == 1", "macs == 'a'", "method == macs", "'a' == 1"])
def test_text_and_numbers_are_not_compared(where: str) -> None:
    with pytest.raises(
        ConfigError, match=r"`where` must compare like with like, but \S+ is (text|a number) and \S+ is (text|a num)"
    ):
        rows_where(random_frame(1), where)
