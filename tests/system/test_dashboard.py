"""Optuna and its dashboard read our database, after a revision that changed a parameter's choices, too."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle
from tests.postgres import Postgres
from tests.search import fakes

NEWER = {**fakes.METHODS, "newer": {}}
STATES = {"COMPLETE": 8, "PRUNED": 1, "FAIL": 1, "WAITING": 1, "RUNNING": 1}


def open_study(db: Database, *, revision: int) -> StudyHandle:
    return StudyHandle.create_or_join(
        db, name="s", identity={}, config={"revision": revision}, directions=("maximize", "minimize"),
        objectives=fakes.OBJECTIVES,
    )  # fmt: skip


def work(db: Database, *, revision: int, methods: dict[str, Any], n: int) -> tuple[Lifecycle, Claim]:
    """Finish ``n`` trials, the first of which breaks a constraint, and claim one more."""
    study = open_study(db, revision=revision)
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=100, grace_s=10**9)
    proposer = fakes.proposer(fakes.space(methods=methods), n_trials=100, sampler="random")

    def claim() -> Claim:
        claimed = lifecycle.claim(proposer.propose(study.trials()))
        assert isinstance(claimed, Claim)
        return claimed

    for i in range(n):
        claimed = claim()
        result = fakes.run_trial(claimed.attrs["point"])
        values = [result[objective] for objective in fakes.OBJECTIVES]
        lifecycle.complete(claimed.trial_id, values, result, constraints={"params": 0.5 if i == 0 else -0.5})
    return lifecycle, claim()


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's own view of a database with a study of two revisions, whose trials are in every state."""
    server: Postgres | None = request.getfixturevalue("postgres") if request.param == "postgres" else None
    url = f"sqlite:///{tmp_path}/study.db" if server is None else server.blank()
    db = Database.open(url, create=True)
    lifecycle, last = work(db, revision=1, methods=fakes.METHODS, n=4)
    lifecycle.stopped(last.trial_id, {"partial_accuracy": 0.4, "stop_reason": "the time limit is reached"})
    lifecycle, last = work(db, revision=2, methods=NEWER, n=4)
    lifecycle.failed(last.trial_id, "the worker died", retry=True)
    work(db, revision=2, methods=NEWER, n=0)
    db.close()
    opened = optuna.storages.RDBStorage(url)
    yield opened
    opened.remove_session()
    opened.engine.dispose()


def states(trials: list[Any]) -> dict[str, int]:
    names = [trial["state"].upper() if isinstance(trial, dict) else trial.state.name for trial in trials]
    return {name: names.count(name) for name in names}


def of_revisions(names: set[str]) -> bool:
    """Whether the list of methods is there as it was, and, under a name of its own, as it became."""
    return {"method", "method #2", "macs_target", "width_rule"} <= names


@pytest.mark.filterwarnings("ignore:Some regimes for parameter")  # Of eight trials, little can be said.
def test_the_dashboard_shows_every_trial(storage: optuna.storages.RDBStorage) -> None:
    # The development tools include it; a person may do without.
    app = pytest.importorskip("optuna_dashboard").wsgi(storage)

    def get(path: str) -> dict[str, Any]:
        environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "wsgi.errors": io.StringIO()}
        setup_testing_defaults(environ)
        answer: list[str] = []
        body = b"".join(app(environ, lambda status, headers, error=None: answer.append(status)))
        assert answer == ["200 OK"], (answer, body, environ["wsgi.errors"].getvalue())
        found: dict[str, Any] = json.loads(body)
        return found

    (listed,) = get("/api/studies")["study_summaries"]
    assert (listed["study_name"], listed["directions"]) == ("s", ["maximize", "minimize"])
    detail = get(f"/api/studies/{listed['study_id']}")
    assert states(detail["trials"]) == STATES
    assert [trial["number"] for trial in detail["trials"]] == list(range(12))
    assert of_revisions({parameter["name"] for parameter in detail["union_search_space"]})
    assert detail["objective_names"] == list(fakes.OBJECTIVES)
    assert set(states(detail["best_trials"])) == {"COMPLETE"}  # Its front does not look at constraints.
    assert set(get(f"/api/studies/{listed['study_id']}/param_importances")) == {"param_importances"}


def test_plain_optuna_reads_it(storage: optuna.storages.RDBStorage) -> None:
    study = optuna.load_study(study_name="s", storage=storage)
    assert states(study.trials) == STATES
    frame = study.trials_dataframe()
    assert len(frame) == 12
    assert of_revisions({column.removeprefix("params_") for column in frame.columns})
    assert frame["values_accuracy"].notna().sum() == 8
    best = study.best_trials
    assert 1 <= len(best) <= 7
    assert all(trial.number != 0 and trial.state.name == "COMPLETE" for trial in best)
