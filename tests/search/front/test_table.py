"""Parts of the table of trials, beside the whole."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from autoprune.search.front import table
from autoprune.search.front.table import column_names, trials_frame
from autoprune.search.storage import Database, StudyHandle
from tests.search.front.bulk import Row, write

WIDTHS, LAM = IntDistribution(1, 64), FloatDistribution(0.0, 1.0)


def kinds(number: int) -> CategoricalDistribution:
    return CategoricalDistribution(["l1", f"kind {number}"])


@pytest.fixture
def trials(db: Database, study: StudyHandle) -> pd.DataFrame:
    """Parameters under six names each, names that are taken twice, and another study beside them."""
    rows = [
        Row(
            values=(0.5 + i / 100, i / 10),
            params={
                "method" if i == 0 else f"method #{i + 1}": (f"kind {i}", kinds(i)),
                "state": (i + 1, WIDTHS), "lam": (i / 10, LAM), "method 7": (i + 2, WIDTHS),
            },
            attrs={"method": f"attribute {i}", "macs": 10 * i, "accuracy": 0.0, "widths": {"conv": i}, "lam_": True},
        )
        for i in range(6)
    ]  # fmt: skip
    rows += [
        Row(TrialState.FAIL, attrs={"reason": "no", "macs": 7}),
        Row(TrialState.RUNNING),
        Row(TrialState.PRUNED, (1, 0)),
    ]
    other = StudyHandle.create_or_join(db, name="other", identity={}, config={}, directions=["maximize", "minimize"])
    write(db, other, [Row(values=(0.1, 0.2), params={"foreign": (3, WIDTHS)}, attrs={"strange": 4})] * 3)
    write(db, study, rows)
    return trials_frame(db, study)


def test_the_names_of_all_columns(db: Database, study: StudyHandle, trials: pd.DataFrame) -> None:
    assert column_names(db, study) == list(trials.columns)
    assert {"param.state", "attr.method", "method 7"} <= set(trials.columns)


@pytest.mark.parametrize(
    "columns",
    [["method"], ["lam", "macs"], ["param.state"], ["attr.method"], ["method 7", "lam_"], ["reason"], ["state"]],
)
def test_columns_that_are_asked_for_are_as_in_the_whole(
    db: Database, study: StudyHandle, trials: pd.DataFrame, columns: list[str]
) -> None:
    found = trials_frame(db, study, columns=columns)
    assert set(columns) <= set(found.columns)
    pd.testing.assert_frame_equal(found, trials[list(found.columns)])
    assert len(found.columns) < len(trials.columns)


def test_a_column_that_is_not_there_is_left_out(db: Database, study: StudyHandle, trials: pd.DataFrame) -> None:
    base = ["number", "state", "accuracy", "macs_ratio"]
    assert list(trials_frame(db, study, columns=["foreign", "strange", "widths", "meth"]).columns) == base
    assert list(trials_frame(db, study, columns=[]).columns) == base


@pytest.mark.parametrize("most", [1, 10_000])
def test_rows_that_are_asked_for(
    db: Database, study: StudyHandle, trials: pd.DataFrame, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "_MOST_IN_QUERY", most)  # above it databases are asked for all of them
    found = trials_frame(db, study, numbers={4, 1})
    assert found["number"].tolist() == [1, 4]
    assert not {"reason", "strange"} & set(found.columns)
    for name in found.columns:
        expected: Any = trials[name].iloc[[1, 4]].tolist()
        assert found[name].tolist() == expected, name
    assert len(trials_frame(db, study, numbers=[])) == 0
