"""What the database tells of trials beside what is found by reading all of them."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import StoredTrial, failures, last_end, retries, work_of
from tests.search.front.bulk import Row, write

OWNERS = ("here:1:abc", "there:2:def", 'o\'ne "quoted"')
STATES = [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]


@pytest.fixture
def trials(db: Database, study: StudyHandle) -> list[StoredTrial]:
    """600 trials of every state, by three drivers and by another tool, and some of another study beside them."""
    rng = np.random.default_rng(0)

    def row(i: int) -> Row:
        state = STATES[int(rng.integers(len(STATES)))]
        attrs = {"owner": OWNERS[int(rng.integers(3))], "claimed_at": 1_000 + float(rng.random()), "key": str(i)}
        if rng.random() < 0.1:
            attrs = {}  # of another tool
        if state is TrialState.FAIL and rng.random() < 0.8:
            attrs["reason"] = f"the loss became {i}"
        if rng.random() < 0.1:
            attrs["retry_of"] = int(rng.integers(600))
        params = {"lam": (float(rng.random()), FloatDistribution(0.0, 1.0))}
        params |= {"method": ("ab"[i % 2], CategoricalDistribution(["a", "b"]))} if i % 3 else {}
        attrs |= {"widths": {"conv": i}, "rungs": {"0": 0.5}} if i % 2 else {}
        return Row(state, (0.5, 0.5) if state is TrialState.COMPLETE else (), params, attrs)

    write(db, study, [row(i) for i in range(600)])
    other = StudyHandle.create_or_join(db, name="other", identity={}, config={}, directions=["maximize", "minimize"])
    write(db, other, [Row(TrialState.FAIL, attrs={"owner": OWNERS[0], "claimed_at": 1.0, "retry_of": 3})])
    with db.writing() as connection:
        table = schema.optuna_trials
        for state, year in ((TrialState.COMPLETE, 2020), (TrialState.PRUNED, 2021), (TrialState.FAIL, 2022)):
            ended = sa.update(table).where(table.c.state == state).values(datetime_complete=datetime(year, 5, 6, 7, 8))
            connection.execute(ended)
    return [StoredTrial(trial) for trial in study.trials()]


def test_some_trials_are_those_that_all_of_them_hold(study: StudyHandle, trials: list[StoredTrial]) -> None:
    under_way = (TrialState.RUNNING, TrialState.WAITING)
    assert study.some_trials(states=under_way) == [t.frozen for t in trials if t.state in under_way]
    assert study.some_trials(numbers=[599, 7, 1000]) == [trials[7].frozen, trials[599].frozen]
    assert study.some_trials(numbers=range(600), states=[TrialState.FAIL]) == [
        t.frozen for t in trials if t.state is TrialState.FAIL
    ]
    assert study.some_trials(numbers=[]) == []


def test_the_history_of_a_search_lacks_what_only_people_ask_for(study: StudyHandle, trials: list[StoredTrial]) -> None:
    def brief(trial: FrozenTrial) -> FrozenTrial:
        wanted = copy.deepcopy(trial)
        chosen = {name: d for name, d in trial.distributions.items() if isinstance(d, CategoricalDistribution)}
        wanted._distributions, wanted.params = chosen, {name: trial.params[name] for name in chosen}
        told = ("owner", "claimed_at", "reason", "widths")
        wanted.user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in told}
        return wanted

    assert study.history() == [brief(trial.frozen) for trial in trials]
    assert trials[1].attrs["widths"] == {"conv": 1}


def test_failures_and_retries(study: StudyHandle, trials: list[StoredTrial]) -> None:
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    assert failures(study) == [(trial.number, trial.reason) for trial in failed]
    assert any(trial.reason is None for trial in failed)
    tried_again = {trial.retry_of for trial in trials if trial.retry_of is not None}
    again = {number: [t.number for t in trials if t.retry_of == number] for number in tried_again}
    assert retries(study) == again
    assert max(map(len, again.values())) > 1


@pytest.mark.parametrize("owners", [OWNERS[1:], ("nobody",), ()])
def test_the_work_of_drivers(owners: tuple[str, ...], study: StudyHandle, trials: list[StoredTrial]) -> None:
    own = [trial for trial in trials if trial.owner in owners]
    work = work_of(study, owners)
    assert work.n_finished == sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in own)
    assert work.since == min((trial.claimed_at for trial in own), default=None)


def test_the_last_result(db: Database, study: StudyHandle, trials: list[StoredTrial]) -> None:
    assert last_end(study) == datetime(2021, 5, 6, 7, 8, tzinfo=UTC)
    empty = StudyHandle.create_or_join(
        db, name="empty", identity={}, config={}, directions=["maximize"], objectives=["a"]
    )
    assert last_end(empty) is None
    assert (failures(empty), retries(empty), work_of(empty, OWNERS).n_finished) == ([], {}, 0)
