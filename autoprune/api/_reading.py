"""Reading studies: trials, fronts, lists of names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoprune.config import StudyConfig, read_stored, stock_spaces
from autoprune.errors import ConfigError, StorageError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from autoprune.search.claims import Counts
    from autoprune.search.database import Database
    from autoprune.search.evaluations import TestScore
    from autoprune.search.study import StudyRecord

__all__ = ["DriverStatus", "Status", "Study", "list_names", "open_study", "status", "stop", "storage_url"]

_KINDS = ("methods", "architectures", "spaces", "studies")


def storage_url(storage: str | None = None) -> str:
    """The database to use: the argument, else ``AUTOPRUNE_STORAGE``, else ``autoprune.db`` in the current folder."""
    # An empty argument is a slip, such as an unset variable of a shell, and is refused where URLs are read.
    return storage if storage is not None else os.environ.get("AUTOPRUNE_STORAGE") or "sqlite:///autoprune.db"


class Study:
    """A study of a database, opened for reading; works while drivers write.

    Args:
        db: An open database.
        record: The study in it.
    """

    def __init__(self, db: Database, record: StudyRecord) -> None:
        self._db, self._record = db, record

    @property
    def name(self) -> str:
        """The study's name."""
        return self._record.name

    @property
    def config(self) -> StudyConfig:
        """The configuration of the newest revision.

        Raises:
            StorageError: It was not written by this version of autoprune.
        """
        return self._read(self._record.config)

    def configs(self) -> dict[int, StudyConfig]:
        """Every configuration that the study has had, by the number of its revision; a trial's is its ``revision``."""
        return {number: self._read(stored) for number, stored in self._record.revisions().items()}

    def _read(self, stored: Mapping[str, Any]) -> StudyConfig:
        try:
            return read_stored(stored["config"])
        except (ConfigError, KeyError) as error:
            what = f"it lacks {error}." if isinstance(error, KeyError) else str(error)
            raise StorageError(
                f"the configuration of study {self.name!r} must be one that this autoprune wrote, but {what} "
                "Use the version that made the study."
            ) from error

    @property
    def record(self) -> StudyRecord:
        """The study's rows in the database."""
        return self._record

    def trials(self) -> pd.DataFrame:
        """Every trial of every state, one row each."""
        from autoprune.search.query import trials_frame

        return trials_frame(self._db, self._record)

    def front(self, *, where: str | None = None, sort: str | None = None, spacing: float | None = None) -> pd.DataFrame:
        """The Pareto front of the trials that keep the constraints of the newest revision.

        A trial for which a constrained value is missing does not keep it. Once members were scored on the test split
        (`autoprune.evaluate`), four columns tell: ``test_accuracy`` and ``test_sd``, mean and sample standard deviation
        over ``test_seeds`` fine-tunings, and ``like_next``, whether the member can't be told apart from the next
        costlier one shown (``search.evaluations.alike``). To choose trials by them is to search on the test split, so
        ``where`` and ``sort`` don't know them.

        Args:
            where: Only among trials that satisfy this, such as ``"macs_ratio <= 0.5 and method == 'slimming'"``.
            sort: A column; accuracy and other maximised ones come largest first. Default: by `cost`.
            spacing: Leave out points so that no two are nearer than this in `cost`.

        Raises:
            ConfigError: ``where`` or ``sort`` names no column, or is no comparison; a negative ``spacing``.
        """
        if spacing is not None and not 0 <= spacing <= 1:
            raise ConfigError(f"`spacing` must be in [0, 1], a distance in {self.cost}, but got spacing={spacing}.")
        from autoprune.search.evaluations import with_test_scores
        from autoprune.search.query import front, thinned

        search, limits = self.config.study, self.config.constraints.limits
        rows = front(self.trials(), search.objectives, search.directions, limits=limits, where=where, sort=sort)
        rows = rows if spacing is None else thinned(rows, self.cost, "accuracy", gap=spacing)
        return with_test_scores(rows, self._test_scores(), cost=self.cost)

    def evaluations(self) -> pd.DataFrame:
        """Every score on the test split, one row for each trial and seed; see `autoprune.evaluate`."""
        from autoprune.search.evaluations import scores_frame

        return scores_frame(self._test_scores())

    def _test_scores(self) -> list[TestScore]:
        from autoprune.search.evaluations import EvaluationRows

        return EvaluationRows(self._db, self._record.study_id).read()

    @property
    def cost(self) -> str:
        """The first objective beside accuracy: the axis along which a front is drawn and sorted."""
        return next(objective for objective in self.config.study.objectives if objective != "accuracy")

    @property
    def reference_point(self) -> dict[str, float]:
        """The point up to which the hypervolume counts, by objective; fixed when the study was made."""
        search = self.config.study
        return {objective: search.reference_point[objective] for objective in search.objectives}

    def trial(self, number: int) -> dict[str, Any]:
        """Everything known about one trial, by name.

        Raises:
            ConfigError: The study has no trial of this number.
        """
        trials = self._record.trials()
        found = next((trial for trial in trials if trial.number == number), None)
        if found is None:
            last = max((trial.number for trial in trials), default=None)
            known = "it has no trials yet" if last is None else f"it has trials 0 to {last}"
            raise ConfigError(f"study {self.name!r} has no trial {number}; {known}.")
        values = dict(zip(self._record.objectives, found.values or (), strict=False))
        retried = [trial.number for trial in trials if trial.user_attrs.get("retry_of") == number]
        facts = {"trial": number, "state": found.state.name, **values, **found.params, **found.user_attrs}
        times = {"started": found.datetime_start, "ended": found.datetime_complete}
        told = {key: f"{value:%Y-%m-%d %H:%M:%S}" for key, value in times.items() if value is not None}
        facts |= told | ({"tried again as": retried} if retried else {})
        return facts | self._tested(int(found.user_attrs.get("taken_over_from", number)))

    def _tested(self, number: int) -> dict[str, Any]:
        from autoprune.search.evaluations import latest, summary

        by_seed = latest(self._test_scores()).get(number)
        if by_seed is None:
            return {}
        found = summary(by_seed.values())
        told = {"test_accuracy": found.mean, "test_sd": found.sd if found.n_seeds > 1 else None}
        return {**told, "test_seeds": found.n_seeds, "test_scores": {str(seed): by_seed[seed] for seed in by_seed}}

    def hypervolume(self) -> float:
        """What the front dominates up to the reference point, as a share of the whole box."""
        from autoprune.search.query import hypervolume_of

        search = self.config.study
        return hypervolume_of(self.front(), search.objectives, search.directions, search.reference_point)


def open_study(name: str, storage: str | None = None) -> Study:
    """Open a study for reading.

    Raises:
        StorageError: The database or the study is not there.
    """
    from autoprune.search.database import Database
    from autoprune.search.study import StudyRecord

    db = Database.open_readonly(storage_url(storage))
    return Study(db, StudyRecord.open(db, name))


@dataclass(frozen=True)
class DriverStatus:
    """One driver that has not left: where it is, when it was last seen, and the trials it runs."""

    host: str
    pid: int
    state: str
    seen_s_ago: float
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Args:
        n_trials: Trials asked for.
        revision: Number of the newest configuration.
        counts: Trials by state.
        drivers: Those that have not left.
        failures: Number and reason of every failed trial.
    """

    n_trials: int
    revision: int
    counts: Counts
    drivers: tuple[DriverStatus, ...]
    failures: tuple[tuple[int, str], ...]


def status(name: str, storage: str | None = None) -> Status:
    """How far a study is, who runs what, and what failed."""
    from optuna.trial import TrialState

    study = open_study(name, storage)
    record, search = study.record, study.config.study
    trials, now = record.trials(), record.db.now()
    drivers = []
    for row in record.drivers():
        if row.left_at is None:
            state = "at work" if now - row.seen_at <= search.lease_s else "lost"
            running = [t.number for t in trials if t.state is TrialState.RUNNING and t.user_attrs["owner"] == row.owner]
            if state == "at work" or running:
                drivers.append(DriverStatus(row.host, row.pid, state, max(0.0, now - row.seen_at), tuple(running)))
    failures = [(t.number, str(t.user_attrs.get("reason"))) for t in trials if t.state is TrialState.FAIL]
    return Status(search.n_trials, record.revision, record.counts(), tuple(drivers), tuple(failures))


def stop(name: str, storage: str | None = None) -> list[str]:
    """Ask every driver of a study to wind down.

    Returns:
        Host and process of each driver that was at work, in words.
    """
    from autoprune.search.database import Database
    from autoprune.search.study import StudyRecord

    db = Database.open(storage_url(storage), create=False)
    record = StudyRecord.open(db, name)
    record.request_stop()
    return [f"{driver.host}, process {driver.pid}" for driver in record.drivers() if driver.left_at is None]


def list_names(kind: str, storage: str | None = None) -> list[tuple[str, str]]:
    """Names with a word on each.

    Args:
        kind: ``"methods"``, ``"architectures"``, ``"spaces"`` or ``"studies"``.
        storage: The database, for studies.

    Raises:
        ConfigError: There is no such kind.
        StorageError: The database is not there.
    """
    if kind not in _KINDS:
        raise ConfigError(unknown_name("list", kind, _KINDS))
    if kind == "methods":
        from autoprune.methods import METHODS

        return [(name, (method.__doc__ or "").splitlines()[0]) for name, method in sorted(METHODS.items())]
    if kind == "architectures":
        from autoprune.architectures import ARCHITECTURES

        own = [(name, (build.__doc__ or "").splitlines()[0]) for name, build in sorted(ARCHITECTURES.items())]
        return [*own, ("torchvision/NAME", "Any classification network of torchvision, untrained.")]
    if kind == "spaces":
        return [(name, path.read_text().splitlines()[0].lstrip("# ")) for name, path in stock_spaces().items()]
    from autoprune.search.database import Database
    from autoprune.search.study import list_studies

    rows = list_studies(Database.open_readonly(storage_url(storage)))
    return [(r.name, f"{r.n_finished} finished, {r.n_running} running, {r.n_failed} failed") for r in rows]
