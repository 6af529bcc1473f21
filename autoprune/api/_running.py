"""Launching and resuming: where the torch half and the search half meet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.api._cleaning import retain
from autoprune.api._kept import kept_at
from autoprune.api._numerics import measured, settle, warn_where_slow
from autoprune.api._phases import measured_pace, phase_of, prepare_dense
from autoprune.api._planning import load_config, overridden, planner_of, recipe_search_of, space_of
from autoprune.api._progress import Progress
from autoprune.api._reading import Study, open_study, storage_url
from autoprune.config import (
    AS_MANY_AS_FIT,
    Ancestor,
    Progressed,
    SearchConfig,
    SettingSpec,
    StudyConfig,
    TrialSpec,
)
from autoprune.distributed import (
    CoresWatch,
    Destination,
    Slots,
    drive,
    obey_signals,
    open_cluster,
    plan_alone,
    plan_slots,
    require_loggers,
)
from autoprune.pipeline import Workbench, enter_worker, open_workbench, phase_folder, run_trial
from autoprune.search.dispatch import (
    Dispatcher,
    FailureCaps,
    Goals,
    Patience,
    SharedPhases,
    Stopper,
    Stopping,
    WindDown,
)
from autoprune.search.phases import PhaseCache, PhaseRows
from autoprune.search.proposals import Planner, Proposer, Space, imported_points
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Point, StoredTrial, expire_dead_leases, lineage_of, new_owner

__all__ = ["Outcome", "Progress", "launch", "resume"]


@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Args:
        study: The study, open for reading.
        finished: Whether exactly ``n_trials`` trials have finished, or the study has ended as planned, by its time or
            its patience.
        n_finished: COMPLETE and PRUNED trials.
        n_trials: The number asked for; None where a time limit alone ends the study.
        why: Why it stopped early, or None.
        interrupted: Whether that was Ctrl-C.
    """

    study: Study
    finished: bool
    n_finished: int
    n_trials: int | None
    why: str | None
    interrupted: bool


def _execute(config: dict[str, Any], report: Callable[[Progressed], None]) -> dict[str, Any]:
    """Run one trial in a worker process."""
    spec = TrialSpec.from_dict(config["spec"])
    return run_trial(spec, report, enter_worker(spec.setting)).to_dict()


def launch(
    source: Path | str | StudyConfig,
    *,
    name: str | None = None,
    seed: int | None = None,
    storage: str | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    loggers: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Start a study, or join it where it runs already.

    Args:
        source: The study file, or a configuration, whose relative paths start in the current folder.
        name: Overrides the file's.
        seed: Overrides the file's.
        storage: Database URL; see `storage_url`.
        n_trials: Overrides the file's. Where neither says how many, a time limit alone ends the study.
        time_limit_s: Seconds from now, for which lengths of trials are planned. A trial that would not end in time is
            trained for as long as there is, and none is begun that could not be trained for ``least_epochs``.
        concurrency: Trials at once; overrides the file's.
        address: A Ray cluster; None starts one on this machine.
        loggers: Experiment trackers to tell of trials, any of ``config.LOGGERS``; overrides the file's.
        progress: Told what happens.

    Returns:
        How it ended; the study can always be resumed.

    Raises:
        ConfigError: The file, a flag or the cluster is wrong.
        IdentityError: A study of this name exists and is another one.
        StudyFailedError: Too many trials failed; the first error is told.
    """
    config = load_config(
        source, name=name, seed=seed, n_trials=n_trials, concurrency=concurrency, time_limit_s=time_limit_s,
        loggers=loggers,
    )  # fmt: skip
    return _run(config, storage, time_limit_s=time_limit_s, address=address, progress=progress or Progress())


def resume(
    name: str,
    *,
    storage: str | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    loggers: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Continue a study from what the database knows, or raise its number of trials; see `launch`."""
    study = open_study(name, storage)
    config = overridden(study.config, n_trials=n_trials, concurrency=concurrency, loggers=loggers)
    return _run(config, storage, time_limit_s=time_limit_s, address=address, progress=progress or Progress())


def _run(
    config: StudyConfig, storage: str | None, *, time_limit_s: float | None, address: str | None, progress: Progress
) -> Outcome:
    started, watch = time.monotonic(), CoresWatch()
    require_loggers(config.loggers)
    config = kept_at(storage_url(storage), config)
    search, space, is_new = config.study, space_of(config, open_workbench(config.setting)), config.setting.is_measured
    # The cluster comes before the database: one that can't run a trial leaves no study behind.
    with open_cluster(address, watch=watch) as cluster:
        slots = plan_slots(cluster, config.resources)
        if cluster.cores is not None and cluster.cores.free < cluster.cores.there:
            progress.note(str(cluster.cores))
        db = Database.open(storage_url(storage), create=True)
        config, workbench, record = settle(
            config, db, lambda setting: measured(_threaded(setting, slots), slots=slots, progress=progress)
        )
        setting, ready = config.setting, _threaded(config.setting, slots)
        study, owner = Study(db, record), new_owner()
        expire_dead_leases(record)
        left_s = None if time_limit_s is None else max(0.0, started + time_limit_s - time.monotonic())
        planner = planner_of(config, space, workbench)
        is_given = setting.network.weights is not None  # They are only scored, in a process that is there already.
        dispatcher = _dispatcher(
            config, record, workbench, space, owner=owner, concurrency=slots.concurrency, time_limit_s=left_s,
            planner=planner,
        )  # fmt: skip

        def make_config(claim: Claim) -> dict[str, Any]:
            spec = _spec(
                config, space, claim, ready, ancestors=_ancestors(claim, record), data_digest=workbench.data_digest
            )
            left_s = dispatcher.seconds_left
            return {"spec": dataclasses.replace(spec, time_limit_s=left_s and max(left_s, 0.1)).to_dict()}

        log_to = Destination(config.loggers, search.name, search.metric, setting.artifacts)
        record.enter(owner)
        try:
            with dispatcher, obey_signals(dispatcher, progress.interrupted):
                if not dispatcher.finished:
                    if not is_new:
                        warn_where_slow(ready, slots=slots, go_on=lambda: dispatcher.stopping is None)
                    if planner is not None and time_limit_s is not None:
                        planner.pace = measured_pace(ready, dispatcher, slots=slots, progress=progress) or planner.pace
                    whole = slots if is_given else plan_alone(cluster, config.resources)
                    prepare_dense(workbench, dispatcher, metric=search.score_metric, slots=whole, progress=progress)
                    progress.note(_launch_note(search, slots, ready.threads))
                    for name in config.loggers.use:
                        progress.note(f"logging to {name}: {log_to.place(name)}")
                drive(
                    dispatcher,
                    execute=_execute,
                    make_config=make_config,
                    slots=slots,
                    scratch=Path(setting.artifacts) / "ray",
                    on_progress=lambda: progress.update(study, dispatcher.snapshot()),
                    log_to=log_to,
                    warn=progress.note,
                )
        finally:
            record.leave(owner)
    return _outcome(study, dispatcher, search)


def _outcome(study: Study, dispatcher: Dispatcher, search: SearchConfig) -> Outcome:
    counts = dispatcher.counts()
    stopping, is_open_ended = dispatcher.stopping, search.n_trials == AS_MANY_AS_FIT
    is_planned = stopping is Stopping.STALLED or (is_open_ended and stopping is Stopping.TIME)
    finished = counts.finished >= search.n_trials or is_planned
    return Outcome(
        study=study,
        finished=finished,
        n_finished=counts.finished,
        n_trials=None if is_open_ended else search.n_trials,
        why=stopping.value if stopping is not None and not finished else None,
        interrupted=stopping is Stopping.INTERRUPT,
    )


def _threaded(setting: SettingSpec, slots: Slots) -> SettingSpec:
    return dataclasses.replace(setting, threads=setting.threads or slots.threads)


def _dispatcher(
    config: StudyConfig,
    record: StudyHandle,
    workbench: Workbench,
    space: Space,
    *,
    owner: str,
    concurrency: int,
    time_limit_s: float | None,
    planner: Planner | None,
) -> Dispatcher:
    search = config.study
    limit_bytes = config.retention.phase_cache_gb * 1e9
    cache = PhaseCache(PhaseRows(record.db), folder=phase_folder(config.setting), limit_bytes=limit_bytes)
    cache.shrink()  # The limit may have been lowered.
    lifecycle = Lifecycle(
        record, owner=owner, n_trials=search.n_trials, grace_s=search.lease_s, max_retry=search.max_retry
    )
    caps = FailureCaps(in_a_row=search.max_failures_in_a_row, in_all=search.max_failures)
    params, activation_bytes = config.constraints.params, space.activation_limit_bytes

    def key_of(point: Point) -> str | None:
        return phase_of(workbench, point, params=params, activation_bytes=activation_bytes)

    return Dispatcher(
        lifecycle,
        _proposer(config, space, record, planner=planner, has_phase=lambda point: key_of(point) is not None),
        wind_down=WindDown(lifecycle, caps=caps, time_limit_s=time_limit_s),
        goals=Goals(search.objectives, config.constraints.limits, search.score_metric),
        concurrency=concurrency,
        shared=SharedPhases(key_of, cache.shrink),
        on_complete=lambda: retain(Study(record.db, record)),
        patience=_patience(search) if search.patience else None,
        stopper=_stopper(config) if search.stopper else None,
        trial_limit_s=search.trial_limit_s,
    )


def _spec(
    config: StudyConfig,
    space: Space,
    claim: Claim,
    setting: SettingSpec,
    *,
    ancestors: tuple[Ancestor, ...],
    data_digest: str,
) -> TrialSpec:
    fields = space.trial_fields(claim.point)
    seed_number = claim.seed_number if claim.point.finetune_seed is None else claim.point.finetune_seed
    fields |= {"number": claim.number, "seed_number": seed_number}
    study = config.study.name
    return TrialSpec(setting=setting, study=study, ancestors=ancestors, data_digest=data_digest, **fields)


def _ancestors(claim: Claim, record: StudyHandle) -> tuple[Ancestor, ...]:
    """The trials whose networks a claimed trial may start from, its parent first."""
    if claim.point.parent is None:
        return ()
    trials = {trial.number: StoredTrial(trial) for trial in record.trials()}
    line = reversed(lineage_of(trials[claim.point.parent], trials))
    return tuple(Ancestor(number=t.number, weights=str(t.weights), sha256=str(t.sha256)) for t in line)


def _patience(search: SearchConfig) -> Patience:
    maximised = tuple(direction == "maximize" for direction in search.directions)
    worst = tuple(search.reference_point[objective] for objective in search.objectives)
    return Patience(search.patience, maximised=maximised, worst=worst)


def _stopper(config: StudyConfig) -> Stopper:
    return Stopper(config.setting.rungs, config.setting.finetune.epochs, config.study.score_metric)


def _proposer(
    config: StudyConfig,
    space: Space,
    record: StudyHandle,
    *,
    planner: Planner | None,
    has_phase: Callable[[Point], bool],
) -> Proposer:
    search, setting = config.study, config.setting
    compensation = ["compensated"] if setting.compensate else []
    return Proposer(
        space,
        n_trials=search.n_trials,
        sampler=search.sampler,
        seed=search.seed,
        objectives=search.objectives,
        metric=search.score_metric,
        context=[setting.sparsify.to_dict(), setting.finetune.to_dict(), setting.recalibration_images, *compensation],
        imported=imported_points(record.db, search.start_from, record.identity),
        planner=planner,
        has_phase=has_phase,
        recipe=recipe_search_of(config, space),
    )


def _launch_note(search: SearchConfig, slots: Slots, threads: int | None) -> str:
    gpu = f" and {slots.gpu:g} GPU" if slots.gpu else ""
    return f"study {search.name!r}: {search.length}, {slots.concurrency} at once, each with {threads} thread(s){gpu}"
