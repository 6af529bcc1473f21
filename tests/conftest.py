"""What several folders of tests share: study files, a database with finished trials, a PostgreSQL server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import Postgres, postgres_server

# Several suites run on few cores: an example may take long without anything being wrong.
settings.register_profile("autoprune", deadline=None, max_examples=50)
settings.load_profile("autoprune")

_TABLES = {
    "study": 'name = "digits"\nn_trials = 10\nlease_s = 600\nreference_point = { accuracy = 0.5, macs_ratio = 1.0 }',
    "space": 'methods = ["magnitude", "slimming"]\nmacs_target = { low = 0.1, high = 0.9, step = 0.1 }',
    "network": 'architecture = "resnet_digits"',
    "data": 'source = "digits"\nvalidation = "random:0.25"',
}

WriteStudy = Callable[..., Path]


@dataclass(frozen=True)
class FinishedStudy:
    """A database in a folder of its own, with the study that it holds.

    Trials: 0 to 3 complete, of which 3 is dominated; 4 stopped early; 5 failed; 6 running.
    """

    file: Path
    database: Path

    @property
    def url(self) -> str:
        return f"sqlite:///{self.database}"


VALUES = ((0.98, 1.0), (0.97, 0.5), (0.9, 0.2), (0.88, 0.3))
"""Accuracy and cost of the complete trials."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; a test that asks for it is skipped where there is none."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where decoded images go, once for all tests."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def write_study(artifacts: Path) -> WriteStudy:
    """Write a study file of small tables; a table given by name replaces the stock one."""

    def write(folder: Path, name: str = "study.toml", **tables: str) -> Path:
        stock = {**_TABLES, "engine": f'artifacts = "{artifacts}"'}
        path = folder / name
        path.write_text("".join(f"[{key}]\n{text}\n" for key, text in {**stock, **tables}.items()), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory, write_study: WriteStudy) -> FinishedStudy:
    """Made once, to be copied."""
    return _finish(write_study(tmp_path_factory.mktemp("finished")))


@pytest.fixture(scope="session")
def finished_by_params(tmp_path_factory: pytest.TempPathFactory, write_study: WriteStudy) -> FinishedStudy:
    """The same with parameters in place of MACs as the objective; tests only read it."""
    study = 'name = "digits"\nn_trials = 10\nobjectives = ["accuracy", "params_ratio"]'
    return _finish(write_study(tmp_path_factory.mktemp("finished_by_params"), study=study))


def _finish(file: Path) -> FinishedStudy:
    """Make a study through the search API, as a driver would; only the scores are invented."""
    from autoprune.api import _planning
    from autoprune.search import Claim, Claims, Database, StudyRecord
    from autoprune.search.propose import Proposer
    from autoprune.workbench import open_workbench

    found = FinishedStudy(file, file.parent / "autoprune.db")
    config = _planning.load_config(found.file)
    workbench = open_workbench(config.setting)
    db = Database.open(found.url, create=True)
    study = StudyRecord.create_or_join(
        db,
        name=config.study.name,
        identity=_planning.identity_of(config, workbench),
        config={"config": config.to_dict(), "cost": workbench.traced.cost.to_dict()},
        directions=config.study.directions,
        objectives=config.study.objectives,
    )
    claims = Claims(study, owner="here:1:abc", n_trials=config.study.n_trials, grace_s=10**9)
    proposer = Proposer(
        _planning.space_of(config, workbench),
        n_trials=config.study.n_trials,
        sampler="random",
        seed=0,
        objectives=config.study.objectives,
        context=[],
    )

    def claim() -> int:
        claimed = claims.claim(proposer.propose(study.trials()))
        assert isinstance(claimed, Claim)
        return claimed.trial_id

    study.enter("here:1:abc")
    cost = config.study.objectives[1]
    for values in VALUES:
        macs = round(workbench.traced.cost.dense_macs * values[1])
        attrs = {"accuracy": values[0], cost: values[1], "macs": macs, "params": macs // 10, "rungs": {"0": 0.1}}
        claims.complete(claim(), values, attrs)
    claims.stopped(claim(), {"partial_accuracy": 0.4, "stop_reason": "the time limit is reached"})
    claims.failed(claim(), "the loss became nan")
    claim()
    db.close()
    return found


@pytest.fixture
def finished(finished_once: FinishedStudy, tmp_path: Path) -> FinishedStudy:
    """A copy that a test may change."""
    folder = tmp_path / "finished"
    shutil.copytree(finished_once.file.parent, folder)
    return FinishedStudy(folder / "study.toml", folder / "autoprune.db")
