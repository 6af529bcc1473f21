"""What several folders of tests share: study files, a database with finished trials, a PostgreSQL server."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.digits_task import TABLES
from tests.postgres import Postgres, postgres_server

if TYPE_CHECKING:
    from autoprune.distributed import Cluster

# Several suites run on few cores: an example may take long without anything being wrong.
# The same examples every time, so that a change is judged by itself; HYPOTHESIS_PROFILE=explore draws new ones.
settings.register_profile("autoprune", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "autoprune"))

_TABLES = {
    "study": 'name = "digits"\nn_trials = 10\nlease_s = 600\nreference_point = { accuracy = 0.5, macs_ratio = 1.0 }',
    "space": 'methods = ["magnitude", "slimming"]\nmacs_target = { low = 0.1, high = 0.9, step = 0.1 }',
    "network": 'architecture = "resnet_digits"',
    "data": 'source = "digits"\nvalidation = "random:0.25"',
}

WriteStudy = Callable[..., Path]


def pytest_configure() -> None:
    """Hear Ctrl-C also in the background of a shell, whose jobs ignore it, and so do the processes that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What ``-n auto`` means here: a worker for each core, four at most, and none where there is one core.

    More would be in each other's way: some tests start clusters of all cores, and each worker a database server.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 4) if cores > 1 else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In parallel, begin with the files that take longest, those with clusters: none of them is left for last."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("ray")}
        items.sort(key=lambda item: item.path not in slow)


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
RMSES = ((0.4, 1.0), (0.5, 0.5), (1.0, 0.2), (1.2, 0.3))
"""The same of a study that minimises rmse."""


def pytest_collection_finish() -> None:
    """Leave what is loaded by now out of garbage collections, of which trials and pytest itself make many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; a test that asks for it is skipped where there is none."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One real Ray cluster of logical CPUs and GPUs, which whatever opens a cluster in this process then finds."""
    from autoprune.distributed import open_cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    import ray

    ray.init(
        num_cpus=2, num_gpus=1, _memory=4 * 10**9, include_dashboard=False, log_to_driver=False,
        object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    with open_cluster() as found:
        yield found
    ray.shutdown()


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where decoded images go, once for all tests."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def write_study(artifacts: Path) -> WriteStudy:
    """Write a study file of small tables; a table given by name replaces the stock one, None leaves it out."""

    def write(folder: Path, name: str = "study.toml", **tables: str | None) -> Path:
        stock = {**_TABLES, "engine": f'precision = "float32"\nartifacts = "{artifacts}"'}
        path = folder / name
        given = {key: text for key, text in {**stock, **tables}.items() if text is not None}
        path.write_text("".join(f"[{key}]\n{text}\n" for key, text in given.items()), encoding="utf-8")
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


@pytest.fixture(scope="session")
def finished_by_rmse(tmp_path_factory: pytest.TempPathFactory, write_study: WriteStudy) -> FinishedStudy:
    """The same with an rmse to be minimised in place of the accuracy; tests only read it."""
    study = 'name = "digits"\nn_trials = 10\nreference_point = { rmse = 2.0, macs_ratio = 1.0 }'
    return _finish(write_study(tmp_path_factory.mktemp("finished_by_rmse"), study=study, **TABLES), RMSES)


@pytest.fixture(scope="session")
def finished_by_four(
    tmp_path_factory: pytest.TempPathFactory, write_study: WriteStudy, artifacts: Path
) -> FinishedStudy:
    """The same with four objectives, too many for a hypervolume; tests only read it."""
    study = (
        'name = "digits"\nn_trials = 10\nobjectives = ["accuracy", "macs_ratio", "params_ratio", "latency_ms"]\n'
        "reference_point = { accuracy = 0.5, macs_ratio = 1.0, params_ratio = 1.0, latency_ms = 9.0 }"
    )
    engine = f'precision = "float32"\nartifacts = "{artifacts}"\nlatency_batch = 8'
    return _finish(write_study(tmp_path_factory.mktemp("finished_by_four"), study=study, engine=engine))


def _finish(file: Path, results: Sequence[tuple[float, float]] = VALUES) -> FinishedStudy:
    """Make a study through the search API, as a driver would; only the scores are invented."""
    from autoprune.api import _planning
    from autoprune.pipeline import open_workbench
    from autoprune.search.proposals import Proposer
    from autoprune.search.storage import Database, StudyHandle
    from autoprune.search.trials import Claim, Lifecycle

    found = FinishedStudy(file, file.parent / "autoprune.db")
    config = _planning.load_config(found.file)
    workbench = open_workbench(config.setting)
    db = Database.open(found.url, create=True)
    study = StudyHandle.create_or_join(
        db,
        name=config.study.name,
        identity=_planning.identity_of(config, workbench),
        config={"config": config.to_dict(), "cost": workbench.traced.cost.to_dict()},
        directions=config.study.directions,
        objectives=config.study.objectives,
    )
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=config.study.n_trials, grace_s=10**9)
    proposer = Proposer(
        _planning.space_of(config, workbench),
        n_trials=config.study.n_trials,
        sampler="random",
        seed=0,
        objectives=config.study.objectives,
        metric=config.study.score_metric,
        context=[],
    )

    def claim() -> int:
        claimed = lifecycle.claim(proposer.propose(study.trials()))
        assert isinstance(claimed, Claim)
        return claimed.trial_id

    study.enter("here:1:abc")
    metric, *costs = config.study.objectives
    for score, ratio in results:
        macs = round(workbench.traced.cost.dense_macs * ratio)
        values = (score, *[ratio] * len(costs))
        found_out = dict(zip((metric, *costs), values, strict=True))
        lifecycle.complete(claim(), values, {**found_out, "macs": macs, "params": macs // 10, "rungs": {"0": 0.1}})
    lifecycle.stopped(claim(), {f"partial_{metric}": 0.4, "stop_reason": "the time limit is reached"})
    lifecycle.failed(claim(), "the loss became nan")
    claim()
    db.close()
    return found


@pytest.fixture
def finished(finished_once: FinishedStudy, tmp_path: Path) -> FinishedStudy:
    """A copy that a test may change; its driver is seen now, however long ago the study was made."""
    folder = tmp_path / "finished"
    shutil.copytree(finished_once.file.parent, folder)
    copy = FinishedStudy(folder / "study.toml", folder / "autoprune.db")
    with closing(sqlite3.connect(copy.database)) as connection, connection:
        connection.execute("UPDATE autoprune_drivers SET seen_at = ?", (time.time(),))
    return copy
