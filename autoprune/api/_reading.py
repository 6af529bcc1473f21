"""Reading studies: trials, fronts, lists of names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import pandas as pd
from optuna.trial import TrialState

from autoprune.api._trial_facts import facts_of
from autoprune.config import Metric, StudyConfig, read_stored
from autoprune.errors import ConfigError, StorageError
from autoprune.search.front import (
    Candidates,
    EvaluationRows,
    Source,
    TestScore,
    feasible,
    scores_frame,
    trials_frame,
    with_ranks,
)
from autoprune.search.storage import Counts, Database, StudyHandle
from autoprune.search.trials import counted

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
        self._configs: dict[int, StudyConfig] = {}

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
        for number, stored in self._handle.revisions().items():
            if number not in self._configs:  # What a revision says never changes.
                self._configs[number] = self._read(stored)
        return dict(self._configs)

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
        return counted(self._handle)

    def trials(self) -> pd.DataFrame:
        """Every trial of every state, one row each.

        Four columns say where the trials stand that are COMPLETE and keep the constraints of the newest revision:
        ``is_pareto``; ``rank``, 0 on the front, 1 on the front of what remains without it, ...; ``crowding``, how far
        its neighbours of the same rank are; ``hv_contribution``, the share of the box up to the reference point that
        the front would lose without it. The last three are missing for all other trials.
        """
        search, frame = self.config.study, trials_frame(self._db, self._handle)
        complete = frame["state"].to_numpy() == TrialState.COMPLETE.name
        return with_ranks(frame, search, among=complete & feasible(frame, self.config.constraints.limits))

    def front(
        self,
        *,
        where: str | Sequence[str] | None = None,
        sort: str | None = None,
        spacing: float | None = None,
        dominated: bool = False,
    ) -> pd.DataFrame:
        """The Pareto front of the trials that keep the constraints of the newest revision.

        Only what choosing needs is read of every trial: a front of 50,000 trials takes half a second. A column that
        none of the members has is left out.

        A trial for which a constrained value is missing does not keep it. ``rank``, ``crowding`` and
        ``hv_contribution`` are those of `trials`, among the trials that satisfy ``where``. ``lineage_images`` counts
        the images that a member and those whose networks it came through have been fine-tuned on.

        Once members were scored on the test split (`autoprune.evaluate`), ``test_accuracy`` (after ``test_`` comes the
        name of the metric) and ``test_sd`` tell mean and sample standard deviation over ``test_seeds`` fine-tunings. To
        choose trials by them is to search on the test split, so ``where`` and ``sort`` don't know them. ``like_next``
        says whether a member can't be told apart from the next costlier one shown, and ``like_next_by`` by what, the
        ``"test"`` scores or, for accuracy in classification where the size of the split is known, the ``"validation"``
        scores with their standard error ``score_se`` (`search.front.noise.with_marks`).

        Args:
            where: Only among trials that satisfy this, such as ``"macs_ratio <= 0.5 and method == 'slimming'"``, or all
                of several conditions.
            sort: A column; a maximised metric, such as accuracy, comes largest first. Default: by `cost`.
            spacing: Leave out points so that no two are nearer than this in `cost`.
            dominated: Whether the trials that others beat are shown as well; ``is_pareto`` tells who is on the front.

        Raises:
            ConfigError: ``where`` or ``sort`` names no column, or is no comparison; a negative ``spacing``.
        """
        self.check_spacing(spacing)
        conditions = (where,) if isinstance(where, str) else where or ()
        candidates = Candidates([self.source], self.config.study, where=conditions, columns={"sort": sort})
        found = candidates.front(dominated=dominated).sorted(sort)
        return (found if spacing is None else found.spaced(spacing)).filled()

    def check_spacing(self, spacing: float | None) -> None:
        """See to it that points can be left out by this distance.

        Raises:
            ConfigError: They can't.
        """
        if spacing is not None and not 0 <= spacing <= 1:
            raise ConfigError(f"`spacing` must be in [0, 1], a distance in {self.cost}, but got spacing={spacing}.")

    @property
    def source(self) -> Source:
        """The study as one of those that a front is looked for in."""
        config = self.config
        return Source(self._handle, config.constraints.limits, self._n_validation(config))

    def _n_validation(self, config: StudyConfig) -> int | None:
        """Examples that the metric is a share of; None where it is no share, or their number is not known."""
        task = config.setting.task
        if (task.kind, config.study.metric) != ("classification", "accuracy"):
            return None
        stored = self._handle.config.get("n_validation")  # Studies from before it was stored lack it.
        if stored is not None:
            return int(stored)
        data = config.setting.data
        return None if data is None else data.n_held_out

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
        return self.config.study.cost

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
        """What the front dominates up to the reference point, as a share of the whole box.

        Raises:
            ConfigError: The study has more than three objectives.
        """
        return Candidates([self.source], self.config.study).hypervolume()


def open_study(name: str, storage: str | None = None) -> Study:
    """Open a study for reading.

    Raises:
        StorageError: The database or the study is not there.
    """
    db = Database.open_readonly(storage_url(storage))
    return Study(db, StudyHandle.open(db, name))
