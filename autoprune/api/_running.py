"""Launching and resuming: where the torch half and the search half meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api._cleaning import retain
from autoprune.api._phases import enter_worker, phase_folder, phase_of, prepare_dense
from autoprune.api._planning import identity_of, load_config, overridden, space_of
from autoprune.api._progress import Progress
from autoprune.api._reading import Study, open_study, storage_url
from autoprune.config import StudyConfig
from autoprune.spec import RungReport, SettingSpec, TrialSpec

if TYPE_CHECKING:
    from autoprune.distributed import Slots
    from autoprune.search.claims import Claim
    from autoprune.search.database import Database
    from autoprune.search.dispatch import Dispatcher
    from autoprune.search.propose import Proposer
    from autoprune.search.space import Space
    from autoprune.search.study import StudyRecord
    from autoprune.workbench import Workbench

__all__ = ["Outcome", "Progress", "launch", "resume"]


@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Args:
        study: The study, open for reading.
        finished: Whether exactly ``n_trials`` trials have finished.
        n_finished: COMPLETE and PRUNED trials.
        n_trials: The number asked for.
        why: Why it stopped early, or None.
        interrupted: Whether that was Ctrl-C.
    """

    study: Study
    finished: bool
    n_finished: int
    n_trials: int
    why: str | None
    interrupted: bool


def _execute(config: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Run one trial in a worker process."""
    from autoprune.trial import run_trial

    spec = TrialSpec.from_dict(config["spec"])

    def tell(rung_report: RungReport) -> None:
        report(dataclasses.asdict(rung_report))

    result = run_trial(spec, tell, enter_worker(spec.setting))
    return result.to_dict()


def launch(
    path: Path | str,
    *,
    storage: str | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Start the study of a file, or join it where it runs already.

    Args:
        path: The study file.
        storage: Database URL; see `storage_url`.
        n_trials: Overrides the file's.
        time_limit_s: Wind down after this many seconds.
        concurrency: Trials at once; overrides the file's.
        address: A Ray cluster; None starts one on this machine.
        progress: Told what happens.

    Returns:
        How it ended; the study can always be resumed.

    Raises:
        ConfigError: The file, a flag or the cluster is wrong.
        IdentityError: A study of this name exists and is another one.
        StudyFailedError: Too many trials failed; the first error is told.
    """
    config = load_config(path, n_trials=n_trials, concurrency=concurrency)
    return _run(config, storage, time_limit_s=time_limit_s, address=address, progress=progress or Progress())


def resume(
    name: str,
    *,
    storage: str | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Continue a study from what the database knows, or raise its number of trials; see `launch`."""
    study = open_study(name, storage)
    config = overridden(study.config, n_trials=n_trials, concurrency=concurrency)
    return _run(config, storage, time_limit_s=time_limit_s, address=address, progress=progress or Progress())


def _run(
    config: StudyConfig, storage: str | None, *, time_limit_s: float | None, address: str | None, progress: Progress
) -> Outcome:
    from autoprune.distributed import drive, obey_signals, open_cluster, plan_alone, plan_slots
    from autoprune.search.database import Database
    from autoprune.search.dispatch import Stopping
    from autoprune.search.owners import bury_the_dead, new_owner
    from autoprune.workbench import open_workbench

    search, setting = config.study, config.setting
    workbench = open_workbench(setting)
    space = space_of(config, workbench)
    # The cluster comes before the database: one that can't run a trial leaves no study behind.
    with open_cluster(address) as cluster:
        slots = plan_slots(cluster, config.resources)
        ready = dataclasses.replace(setting, threads=setting.threads or slots.threads)
        db = Database.open(storage_url(storage), create=True)
        record = _join(config, workbench, db)
        study, owner = Study(db, record), new_owner()
        bury_the_dead(record)
        dispatcher = _dispatcher(
            config, record, workbench, space, owner=owner, concurrency=slots.concurrency, time_limit_s=time_limit_s
        )
        record.enter(owner)
        try:
            with dispatcher, obey_signals(dispatcher, progress.interrupted):
                if not dispatcher.finished:
                    alone = plan_alone(cluster, config.resources)
                    prepare_dense(workbench, dispatcher, slots=alone, progress=progress)
                    progress.note(_launch_note(search.name, search.n_trials, slots, ready.threads))
                drive(
                    dispatcher,
                    execute=_execute,
                    make_config=lambda claim: {"spec": _spec(config, space, claim, ready).to_dict()},
                    slots=slots,
                    scratch=Path(setting.artifacts) / "ray",
                    on_progress=lambda: progress.update(study, dispatcher),
                )
        finally:
            record.leave(owner)
    counts = dispatcher.counts()
    finished, stopping = counts.finished >= search.n_trials, dispatcher.stopping
    return Outcome(
        study=study,
        finished=finished,
        n_finished=counts.finished,
        n_trials=search.n_trials,
        why=stopping.value if stopping is not None and not finished else None,
        interrupted=stopping is Stopping.INTERRUPT,
    )


def _join(config: StudyConfig, workbench: Workbench, db: Database) -> StudyRecord:
    from autoprune.search.study import StudyRecord

    return StudyRecord.create_or_join(
        db,
        name=config.study.name,
        identity=identity_of(config, workbench),
        config={"config": config.to_dict(), "cost": workbench.traced.cost.to_dict()},
        directions=config.study.directions,
        objectives=config.study.objectives,
    )


def _dispatcher(
    config: StudyConfig,
    record: StudyRecord,
    workbench: Workbench,
    space: Space,
    *,
    owner: str,
    concurrency: int,
    time_limit_s: float | None,
) -> Dispatcher:
    from autoprune.search.claims import Claims
    from autoprune.search.dispatch import Dispatcher, FailureCaps
    from autoprune.search.phase_cache import PhaseCache
    from autoprune.search.phase_rows import PhaseRows

    search = config.study
    limit_bytes = config.retention.phase_cache_gb * 1e9
    cache = PhaseCache(PhaseRows(record.db), folder=phase_folder(config.setting), limit_bytes=limit_bytes)
    cache.shrink()  # The limit may have been lowered.
    return Dispatcher(
        record,
        Claims(record, owner=owner, n_trials=search.n_trials, grace_s=search.lease_s, max_retry=search.max_retry),
        _proposer(config, space, record),
        concurrency=concurrency,
        caps=FailureCaps(in_a_row=search.max_failures_in_a_row, in_all=search.max_failures),
        objectives=search.objectives,
        lease_s=search.lease_s,
        time_limit_s=time_limit_s,
        limits=config.constraints.limits,
        phase_of=lambda point: phase_of(workbench, point),
        on_published=cache.shrink,
        on_complete=lambda: retain(Study(record.db, record)),
    )


def _spec(config: StudyConfig, space: Space, claim: Claim, setting: SettingSpec) -> TrialSpec:
    from autoprune.search.space import Point

    fields = space.trial_fields(Point(**claim.attrs["point"]))
    fields |= {"number": claim.number, "seed_number": claim.seed_number}
    return TrialSpec(setting=setting, study=config.study.name, **fields)


def _proposer(config: StudyConfig, space: Space, record: StudyRecord) -> Proposer:
    from autoprune.search.propose import Proposer, imported_points

    search, setting = config.study, config.setting
    return Proposer(
        space,
        n_trials=search.n_trials,
        sampler=search.sampler,
        seed=search.seed,
        objectives=search.objectives,
        context=[setting.sparsify.to_dict(), setting.finetune.to_dict(), setting.recalibration_images],
        imported=imported_points(record.db, search.start_from, record.identity),
    )


def _launch_note(name: str, n_trials: int, slots: Slots, threads: int | None) -> str:
    gpu = f" and {slots.gpu:g} GPU" if slots.gpu else ""
    return f"study {name!r}: {n_trials} trials, {slots.concurrency} at once, each with {threads} thread(s){gpu}"
