"""Reading studies: trials, fronts, lists of names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Self

import pandas as pd

from autoprune.api._trial_facts import facts_of
from autoprune.config import Metric, StudyConfig, read_stored
from autoprune.errors import ConfigError, StorageError
from autoprune.search.front import (
    EvaluationRows,
    TestScore,
    front,
    hypervolume_of,
    scores_frame,
    thinned,
    trials_frame,
    with_test_scores,
)
from autoprune.search.storage import Counts, Database, StudyHandle
from autoprune.search.trials import StoredTrial, lineage_of

__all__ = ["Study", "open_study", "storage_url"]


def storage_url(storage: str | None = None) -> str:
    """The database to use: the argument, else ``AUTOPRUNE_STORAGE``, else ``autoprune.db`` in the current folder."""
    # An empty argument is a slip, such as an unset variable of a shell, and is refused where URLs are read.
    return storage if storage is not None else os.environ.get("AUTOPRUNE_STORAGE") or "sqlite:///autoprune.db"


class Study:
    """A study of a database, opened for reading; works while drivers write.

    ``with`` closes the connections at its end; what is asked afterwards opens them again.

    Args:
        db: An open database.
        handle: The study in it.
    """

    def __init__(self, db: Database, handle: StudyHandle) -> None:
        self._db, self._handle = db, handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self._db.close()

    @property
    def name(self) -> str:
        """The study's name."""
        return self._handle.name

    @property
    def config(self) -> StudyConfig:
        """The configuration of the newest revision.

        Raises:
            StorageError: It was not written by this version of autoprune.
        """
        return self._read(self._handle.config)

    def configs(self) -> dict[int, StudyConfig]:
        """Every configuration that the study has had, by the number of its revision; a trial's is its ``revision``."""
        return {number: self._read(stored) for number, stored in self._handle.revisions().items()}

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
    def handle(self) -> StudyHandle:
        """The study's rows in the database."""
        return self._handle

    def counts(self) -> Counts:
        """Number of trials by state."""
        return self._handle.counts()

    def trials(self) -> pd.DataFrame:
        """Every trial of every state, one row each."""
        return trials_frame(self._db, self._handle)

    def front(self, *, where: str | None = None, sort: str | None = None, spacing: float | None = None) -> pd.DataFrame:
        """The Pareto front of the trials that keep the constraints of the newest revision.

        A trial for which a constrained value is missing does not keep it. Once members were scored on the test split
        (`autoprune.evaluate`), four columns tell: ``test_accuracy`` (after ``test_`` comes the name of the metric) and
        ``test_sd``, mean and sample standard deviation over ``test_seeds`` fine-tunings, and ``like_next``, whether the
        member can't be told apart from the next costlier one shown (``search.front.test_scores.alike``). To choose
        trials by them is to search on the test split, so ``where`` and ``sort`` don't know them. ``lineage_images``
        counts the images that a member and those whose networks it came through have been fine-tuned on.

        Args:
            where: Only among trials that satisfy this, such as ``"macs_ratio <= 0.5 and method == 'slimming'"``.
            sort: A column; a maximised metric, such as accuracy, comes largest first. Default: by `cost`.
            spacing: Leave out points so that no two are nearer than this in `cost`.

        Raises:
            ConfigError: ``where`` or ``sort`` names no column, or is no comparison; a negative ``spacing``.
        """
        if spacing is not None and not 0 <= spacing <= 1:
            raise ConfigError(f"`spacing` must be in [0, 1], a distance in {self.cost}, but got spacing={spacing}.")

        search, limits = self.config.study, self.config.constraints.limits
        rows = front(self.trials(), search.objectives, search.directions, limits=limits, where=where, sort=sort)
        rows = rows if spacing is None else thinned(rows, self.cost, search.score_metric, gap=spacing)
        if "images" in rows.columns:
            rows["lineage_images"] = self._lineage_images(rows["number"])
        return with_test_scores(rows, self._test_scores(), metric=search.metric, cost=self.cost)

    def _lineage_images(self, numbers: Iterable[int]) -> list[int]:
        trials = {trial.number: StoredTrial(trial) for trial in self._handle.trials()}
        return [sum(each.images for each in lineage_of(trials[number], trials)) for number in numbers]

    def evaluations(self) -> pd.DataFrame:
        """Every score on the test split, one row for each trial and seed; see `autoprune.evaluate`."""
        return scores_frame(self._test_scores(), metric=self.metric.name)

    def _test_scores(self) -> list[TestScore]:
        return EvaluationRows(self._db, self._handle.study_id).read()

    @property
    def metric(self) -> Metric:
        """What networks are scored by: its name, its direction, and its reference point."""
        return self.config.study.score_metric

    @property
    def cost(self) -> str:
        """The first objective beside the metric: the axis along which a front is drawn and sorted."""
        search = self.config.study
        return next(objective for objective in search.objectives if objective != search.metric)

    @property
    def reference_point(self) -> dict[str, float]:
        """The point up to which the hypervolume counts, by objective; fixed when the study was made."""
        search = self.config.study
        return {objective: search.reference_point[objective] for objective in search.objectives}

    def trial(self, number: int) -> dict[str, Any]:
        """Everything known about one trial, by name; see `api._trial_facts`.

        Raises:
            ConfigError: The study has no trial of this number.
        """
        return facts_of(self._handle, number, metric=self.metric, scores=self._test_scores())

    def hypervolume(self) -> float:
        """What the front dominates up to the reference point, as a share of the whole box."""
        search = self.config.study
        return hypervolume_of(
            self.front(), search.objectives, search.directions, reference_point=search.reference_point
        )


def open_study(name: str, storage: str | None = None) -> Study:
    """Open a study for reading.

    Raises:
        StorageError: The database or the study is not there.
    """
    db = Database.open_readonly(storage_url(storage))
    return Study(db, StudyHandle.open(db, name))
