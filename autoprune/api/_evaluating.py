"""The front scored on the test split, each member fine-tuned anew with several seeds."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from autoprune.api._planning import identity_of, overridden
from autoprune.api._progress import Progress
from autoprune.api._reading import Study, storage_url
from autoprune.config import SettingSpec, StudyConfig, TrialSpec
from autoprune.distributed import Slots, obey_signals, open_cluster, plan_slots, run_each
from autoprune.errors import ConfigError, IdentityError, StudyFailedError, WeightsError
from autoprune.pipeline import Link, Workbench, enter_worker, open_workbench, score
from autoprune.search.front import EvaluationRows, TestScore, source_of
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Attr, StoredTrial, lineage_of, new_owner

__all__ = ["Evaluated", "evaluate"]

_MOST_SEEDS = 1_000


@dataclass(frozen=True)
class Evaluated:
    """How an evaluation ended.

    Args:
        study: The study; its front now tells the test scores.
        n_runs: Fine-tunings that the members of the front need in all.
        n_known: How many of them were known before.
        n_done: How many were added now.
        interrupted: Whether Ctrl-C ended it early.
    """

    study: Study
    n_runs: int
    n_known: int
    n_done: int
    interrupted: bool


@dataclass(frozen=True)
class _Job:
    """One fine-tuning, as it is sent to a worker."""

    lineage: tuple[Link, ...]  # The trial that is scored comes last.
    seed: int
    fingerprint: str

    @property
    def number(self) -> int:
        return self.lineage[-1].spec.number

    @property
    def setting(self) -> SettingSpec:
        return self.lineage[-1].spec.setting

    @property
    def name(self) -> str:
        return f"trial {self.number}, seed {self.seed}"


class _Desk:
    """Hears how the runs end, stores their scores, and says whether to go on."""

    def __init__(self, study: Study, progress: Progress, *, n_runs: int, n_known: int, most_in_a_row: int) -> None:
        self._rows = EvaluationRows(study.handle.db, study.handle.study_id)
        self._phases, self._owner = PhaseRows(study.handle.db), new_owner()
        self._metric, self._progress, self._n_runs, self._n_known = study.metric, progress, n_runs, n_known
        self._most_in_a_row, self._in_a_row = most_in_a_row, 0
        self.stopping: str | None = None
        self.n_done = 0
        self.failures: list[str] = []

    def interrupt(self) -> None:
        self.stopping = self.stopping or "interrupted"

    def done(self, job: _Job, found: dict[str, Any]) -> None:
        score, facts = found[self._metric.name], {key: found[key] for key in ("n_images", "wall_s")}
        self._rows.add(TestScore(number=job.number, seed=job.seed, fingerprint=job.fingerprint, score=score, **facts))
        # It may have been computed anew here, and what is in the cache is in the ledger.
        self._phases.publish(kind=found["phase_kind"], owner=self._owner, **found["phase_file"])
        self.n_done, self._in_a_row = self.n_done + 1, 0
        how = "the dense network as it is" if found["is_untouched"] else f"{found['wall_s']:.0f} s"
        so_far = f"{self._n_known + self.n_done} of {self._n_runs}"
        self._progress.note(f"{job.name}: {self._metric.text(score)} ({how}; {so_far})")

    def failed(self, job: _Job, error: Exception) -> None:
        self.failures.append(f"{job.name}: {str(error) or type(error).__name__}")
        self._progress.note(f"failed: {self.failures[-1]}")
        self._in_a_row += 1
        if self._in_a_row >= self._most_in_a_row:
            self.stopping = self.stopping or "too many runs failed"


def _work(job: _Job, *, threads: int) -> dict[str, Any]:
    """One run in a worker process."""
    phases = enter_worker(dataclasses.replace(job.setting, threads=job.setting.threads or threads))
    return score(job.lineage, seed=job.seed, fingerprint=job.fingerprint, phases=phases)


def evaluate(
    name: str,
    *,
    seeds: int = 3,
    where: str | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
) -> Evaluated:
    """Score the front on the test split: each member is cut from its parent and fine-tuned anew with several seeds.

    The recipe is that of the trial's own revision. The dense network has nothing to be fine-tuned for, so it is scored
    as it is, and its deviation is 0. Scores are stored beside those of the search (`Study.evaluations`), each as soon
    as it is there: what is known is not computed again, and who was interrupted goes on.

    Args:
        name: The study.
        seeds: Fine-tunings of each member, >= 1; with one, no deviation is known.
        where: Only the front among trials that satisfy this; see `Study.front`.
        concurrency: Runs at once; overrides the study's.
        address: A Ray cluster; None starts one on this machine.
        storage: Database URL; see `storage_url`.
        progress: Told what happens.

    Raises:
        ConfigError: The data has no test split, or an argument is wrong.
        DataError: The test split is not like the training data, or is the same.
        IdentityError: Data or network are no longer those of the study.
        WeightsError: The record of a member is missing.
        StudyFailedError: Runs failed; the first error is told, and what was scored is kept.
    """
    if not 1 <= seeds <= _MOST_SEEDS:
        raise ConfigError(f"`seeds` must be in [1, {_MOST_SEEDS}], but got seeds={seeds}.")
    progress = progress or Progress()
    db = Database.open(storage_url(storage), create=False)
    study = Study(db, StudyHandle.open(db, name))
    config = overridden(study.config, concurrency=concurrency)
    members = _members(study, where)
    if not members:
        return Evaluated(study, 0, 0, 0, interrupted=False)
    workbench = open_workbench(config.setting)
    _check_identity(study, config, workbench)
    fingerprint = workbench.work.test().fingerprint
    jobs, n_runs = _jobs(study, members, workbench, seeds=seeds, fingerprint=fingerprint), seeds * len(members)
    n_known = n_runs - len(jobs)
    progress.note(
        f"{len(members)} trials of the front, {seeds} fine-tunings each: {n_known} known, {len(jobs)} to be done"
    )
    if not jobs:
        return Evaluated(study, n_runs, n_known, 0, interrupted=False)
    desk = _Desk(study, progress, n_runs=n_runs, n_known=n_known, most_in_a_row=config.study.max_failures_in_a_row)
    with open_cluster(address) as cluster, obey_signals(desk, progress.interrupted):
        _run_all(jobs, desk, plan_slots(cluster, config.resources))
    interrupted = desk.stopping is not None and desk.n_done < len(jobs)
    return Evaluated(study, n_runs, n_known, desk.n_done, interrupted)


def _run_all(jobs: Sequence[_Job], desk: _Desk, slots: Slots) -> None:
    """Run the jobs on the open cluster.

    Raises:
        StudyFailedError: Some failed.
    """
    run_each(
        jobs, functools.partial(_work, threads=slots.threads), slots=slots,
        go_on=lambda: desk.stopping is None, on_done=desk.done, on_failed=desk.failed,
    )  # fmt: skip
    if desk.failures:
        raise StudyFailedError(
            f"{len(desk.failures)} of {len(jobs)} runs failed; what was scored is kept, and the same command goes on. "
            f"The first error, of {desk.failures[0]}"
        )


def _members(study: Study, where: str | None) -> list[FrozenTrial]:
    """The trials whose networks are on the front, each network once."""
    numbers = dict.fromkeys(source_of(trial) for _, trial in study.front(where=where).iterrows())
    trials = {trial.number: trial for trial in study.handle.trials()}
    return [trials[number] for number in numbers]


def _check_identity(study: Study, config: StudyConfig, workbench: Workbench) -> None:
    if differing := study.handle.differences(identity_of(config, workbench)):
        raise IdentityError(
            f"study {study.name!r} must be scored with what it was made of, but {differing}. Put the old files back."
        )


def _jobs(
    study: Study, members: list[FrozenTrial], workbench: Workbench, *, seeds: int, fingerprint: str
) -> list[_Job]:
    """What is not known yet, seed by seed, so that the parents of all members are there before the second round."""
    rows = EvaluationRows(study.handle.db, study.handle.study_id).read()
    known = {(row.number, row.seed) for row in rows if row.fingerprint == fingerprint}
    newest, n_images = workbench.setting, workbench.work.n_examples
    configs, trials = study.configs(), {trial.number: StoredTrial(trial) for trial in study.handle.trials()}

    def link(trial: StoredTrial) -> Link:
        point, own = trial.point, configs[trial.attrs[Attr.REVISION]].setting
        # Recipes are the trial's own; where things lie is known best by the newest revision.
        spec = TrialSpec(
            setting=dataclasses.replace(
                own, network=newest.network, data=newest.data, task=newest.task, artifacts=newest.artifacts
            ),
            study=study.name,
            number=trial.number,
            method=point.method,
            hyper=point.hyper,
            width_rule=point.width_rule,
            macs_target=point.macs_target,
            recipe=point.recipe,
            epochs=None if point.epochs is None else trial.attrs[Attr.IMAGES] / n_images,
        )
        return Link(spec, _kept(trial.frozen))

    lineages = {
        member.number: tuple(link(trial) for trial in lineage_of(trials[member.number], trials)) for member in members
    }
    return [
        _Job(lineages[member.number], seed, fingerprint)
        for seed in range(seeds)
        for member in members
        if (member.number, seed) not in known
    ]


def _kept(trial: FrozenTrial) -> dict[str, list[int]]:
    """The channels that a trial kept, from the record beside its network, which retention leaves there."""
    try:
        path = Path(trial.user_attrs[Attr.WEIGHTS]).with_suffix(".json")
        record = json.loads(path.read_text())
        is_ours, kept = record["sha256"] == trial.user_attrs[Attr.SHA256], dict(record["kept"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"the record beside the network of trial {trial.number} must say which channels it kept, but can't be "
            f"read: {error}. Put the study's artifacts folder back where it was."
        ) from error
    if not is_ours:
        raise WeightsError(
            f"{path} must be the record of trial {trial.number}, but is that of another one, such as of a study of the "
            "same name in another database. Put the old file back."
        )
    return kept
