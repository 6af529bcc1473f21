"""The front scored on the test split, each member fine-tuned anew with several seeds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from autoprune.api._planning import identity_of, overridden
from autoprune.api._progress import Progress
from autoprune.api._reading import Study, storage_url
from autoprune.api._rounds import Job, Rounds
from autoprune.config import StudyConfig
from autoprune.distributed import Slots, heed_signals, open_cluster, plan_slots, run_each
from autoprune.errors import ConfigError, IdentityError, StudyFailedError
from autoprune.pipeline import Workbench, enter_worker, open_workbench, score
from autoprune.search.front import EvaluationRows, RacedPair, TestScore, source_of
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import new_owner

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
        race: Of a race, how every pair of neighbours on the front came out; empty where it was ended early.
    """

    study: Study
    n_runs: int
    n_known: int
    n_done: int
    interrupted: bool
    race: tuple[RacedPair, ...] = ()


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

    @property
    def n_runs(self) -> int:
        return self._n_runs

    def note(self, text: str) -> None:
        self._progress.note(text)

    def expect(self, n_more: int) -> None:
        """Hear of runs that were not known of before."""
        self._n_runs += n_more

    def interrupt(self) -> None:
        self.stopping = self.stopping or "interrupted"

    def done(self, job: Job, found: dict[str, Any]) -> None:
        score, facts = found[self._metric.name], {key: found[key] for key in ("n_images", "wall_s")}
        self._rows.add(TestScore(number=job.number, seed=job.seed, fingerprint=job.fingerprint, score=score, **facts))
        # It may have been computed anew here, and what is in the cache is in the ledger.
        self._phases.publish(kind=found["phase_kind"], owner=self._owner, **found["phase_file"])
        self.n_done, self._in_a_row = self.n_done + 1, 0
        how = "the dense network as it is" if found["is_untouched"] else f"{found['wall_s']:.0f} s"
        so_far = f"{self._n_known + self.n_done} of {self._n_runs}"
        self._progress.note(f"{job.name}: {self._metric.text(score)} ({how}; {so_far})")

    def failed(self, job: Job, error: Exception) -> None:
        self.failures.append(f"{job.name}: {str(error) or type(error).__name__}")
        self._progress.note(f"failed: {self.failures[-1]}")
        self._in_a_row += 1
        if self._in_a_row >= self._most_in_a_row:
            self.stopping = self.stopping or "too many runs failed"


def _work(job: Job, *, threads: int) -> dict[str, Any]:
    """One run in a worker process."""
    phases = enter_worker(dataclasses.replace(job.setting, threads=job.setting.threads or threads))
    return score(job.lineage, seed=job.seed, fingerprint=job.fingerprint, phases=phases)


def evaluate(
    name: str,
    *,
    seeds: int | None = None,
    race: bool = False,
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

    A race begins with three seeds. Then neighbours on the front that can't be told apart (`search.front.noise.raced`)
    are fine-tuned with one more seed each, and looked at again, until all are told apart or have ``seeds`` seeds.

    Args:
        name: The study.
        seeds: Fine-tunings of each member, >= 1; with one, no deviation is known. In a race the most of a member, >= 2.
            None: 3, in a race 10.
        race: Whether only near-ties get more than three seeds.
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
    seeds = _checked(seeds, race=race)
    progress = progress or Progress()
    db = Database.open(storage_url(storage), create=False)
    study = Study(db, StudyHandle.open(db, name))
    config = overridden(study.config, concurrency=concurrency)
    members = _members(study, where)
    if not members:
        return Evaluated(study, 0, 0, 0, interrupted=False)
    workbench = open_workbench(config.setting)
    _check_identity(study, config, workbench)
    rounds = Rounds(study, members, workbench, seeds=seeds, race=race)
    jobs = rounds.first()
    n_known = len(members) * rounds.n_at_first - len(jobs)
    each = str(seeds) if rounds.n_at_first == seeds else f"{rounds.n_at_first} to {seeds}"
    progress.note(
        f"{len(members)} trials of the front, {each} fine-tunings each: {n_known} known, {len(jobs)} to be done"
    )
    desk = _Desk(study, progress, n_runs=n_known, n_known=n_known, most_in_a_row=config.study.max_failures_in_a_row)
    if jobs := jobs or rounds.next():
        with heed_signals() as signals, open_cluster(address) as cluster, signals.obeyed(desk, progress.interrupted):
            jobs = _run_rounds(jobs, rounds, desk, slots=plan_slots(cluster, config.resources))
    return Evaluated(study, desk.n_runs, n_known, desk.n_done, bool(jobs), () if jobs else rounds.outcome())


def _checked(seeds: int | None, *, race: bool) -> int:
    """How many seeds are meant."""
    least, seeds = (2, 10 if seeds is None else seeds) if race else (1, 3 if seeds is None else seeds)
    if not least <= seeds <= _MOST_SEEDS:
        raise ConfigError(
            f"`seeds` must be in [{least}, {_MOST_SEEDS}]{' in a race' if race else ''}, but got seeds={seeds}."
        )
    return seeds


def _run_rounds(jobs: list[Job], rounds: Rounds, desk: _Desk, *, slots: Slots) -> list[Job]:
    """Run round after round; returns what is left where that was ended early."""
    while jobs and desk.stopping is None:
        if max(job.seed for job in jobs) >= rounds.n_at_first:
            names = ", ".join(str(number) for number in dict.fromkeys(job.number for job in jobs))
            desk.note(f"race: one more seed for trials that can't be told apart yet: {names}")
        desk.expect(len(jobs))
        _run_all(jobs, desk, slots)
        jobs = rounds.left(jobs) or rounds.next()
    return jobs


def _run_all(jobs: Sequence[Job], desk: _Desk, slots: Slots) -> None:
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
