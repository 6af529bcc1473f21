"""`scripts/bench front` on a small study, and what is promised of a large one."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_front import measure, seconds_to_first_proposal
from large_study import N_PARAMS, NAME, write_study

import autoprune
from autoprune.search.storage import Database, StudyHandle
from tests.postgres import Postgres


def test_the_study_that_is_measured(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/bench.db"
    write_study(tmp_path, 300, storage=storage)
    with autoprune.open_study(NAME, storage) as study:
        trials, front = study.trials(), study.front()
    assert len(trials) == 300
    assert sum(name.startswith(("method", "width_rule", "macs_target", "per_group.")) for name in trials) >= N_PARAMS
    assert sorted(front["number"]) == trials.loc[trials["is_pareto"], "number"].tolist()
    assert len(front) > 5
    status = autoprune.status(NAME, storage)
    assert len(status.failures) == (trials["state"] == "FAIL").sum() > 10
    assert status.n_front == len(front)


@pytest.mark.ray
@pytest.mark.slow
def test_a_launch_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    storage = f"sqlite:///{tmp_path}/bench.db"
    study = write_study(tmp_path, 300, storage=storage)
    assert seconds_to_first_proposal(study, storage) < 300
    db = Database.open_readonly(storage)
    proposed = StudyHandle.open(db, NAME).trials()[300]
    db.close()
    assert " expected in " in proposed.user_attrs["why"]  # of the history, not of the opening


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_50_000_trials_of_30_parameters(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    storage = f"sqlite:///{tmp_path}/bench.db"
    if kind == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        storage = server.blank()
    write_study(tmp_path, 50_000, storage=storage)
    for command in (("pareto",), ("status",), ("show", "47")):
        found = measure(storage, *command)
        assert found["code"] == 0
        assert found["cpu_s"] < 1.0, command  # of the processor, so that others' work on the machine does not count
        assert found["rss_mb"] < 300, command
