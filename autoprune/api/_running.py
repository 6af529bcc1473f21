"""Launching and resuming: where the torch half and the search half meet."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from autoprune.api._ahead import reading_ahead
from autoprune.api._cleaning import Retention
from autoprune.api._kept import kept_at
from autoprune.api._numerics import measured, settle, warn_where_slow
from autoprune.api._phases import measured_pace, phase_of, prepare_dense
from autoprune.api._planning import load_config, overridden, planner_of, recipe_search_of, space_of
from autoprune.api._progress import Progress
from autoprune.api._reading import Study, open_study, storage_url
from autoprune.api._specs import ancestors_of, spec_in, spec_of, worker_config
from autoprune.config import (
    AS_MANY_AS_FIT,
    Metric,
    Progressed,
    SearchConfig,
    SettingSpec,
    StudyConfig,
)
from autoprune.distributed import (
    Cluster,
    CoresWatch,
    Destination,
    Slots,
    drive,
    heed_signals,
    open_cluster,
    plan_alone,
    plan_slots,
    require_loggers,
)
from autoprune.errors import OutageError, first_line
from autoprune.pipeline import Workbench, enter_worker, hand_back, open_workbench, phase_folder, run_trial
from autoprune.search.dispatch import (
    Dispatcher,
    FailureCaps,
    Goals,
    Outage,
    Patience,
    SharedPhases,
    Stopper,
    Stopping,
    WindDown,
)
from autoprune.search.events import EventLog, Events, silent
from autoprune.search.files import enter_folder, is_shared
from autoprune.search.phases import PhaseCache, PhaseRows
from autoprune.search.proposals import Planner, Proposer, Space, imported_points
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Point, expire_dead_leases, new_owner, work_of

__all__ = ["Outcome", "Progress", "launch", "proposer_of", "resume"]


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
    spec = spec_in(config)
    try:
        return run_trial(spec, report, enter_worker(spec.setting)).to_dict()
    finally:
        hand_back()  # The worker may wait for its next trial while others need the memory.


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
    log: Path | str | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
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
        log: A file to which a line of JSON is appended for each event; see `search.events`.
        progress: Told what happens.
        verbose: Whether what workers print and log goes to standard output and error here.

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
    told = progress or Progress()
    return _logged(
        log,
        lambda events: _run(
            config, storage, events, time_limit_s=time_limit_s, address=address, progress=told, verbose=verbose
        ),
    )


def resume(
    name: str,
    *,
    storage: str | None = None,
    n_trials: int | None = None,
    time_limit_s: float | None = None,
    concurrency: int | None = None,
    address: str | None = None,
    loggers: Sequence[str] | None = None,
    log: Path | str | None = None,
    progress: Progress | None = None,
    verbose: bool = False,
) -> Outcome:
    """Continue a study from what the database knows, or raise its number of trials; see `launch`."""
    study = open_study(name, storage)
    config = overridden(study.config, n_trials=n_trials, concurrency=concurrency, loggers=loggers)
    told = progress or Progress()
    return _logged(
        log,
        lambda events: _run(
            config, storage, events, time_limit_s=time_limit_s, address=address, progress=told, verbose=verbose
        ),
    )


def _logged(path: Path | str | None, run: Callable[[EventLog | None], Outcome]) -> Outcome:
    """What a run comes to; its log of events is opened before anything is begun, and its end is the last one."""
    if path is None:
        return run(None)
    with contextlib.closing(EventLog(Path(path))) as events:
        try:
            outcome = run(events)
        except BaseException as error:
            events("end", finished=False, why=first_line(error))
            raise
        events("end", finished=outcome.finished, n_finished=outcome.n_finished, why=outcome.why)
        return outcome


def _run(
    config: StudyConfig,
    storage: str | None,
    events: EventLog | None,
    *,
    time_limit_s: float | None,
    address: str | None,
    progress: Progress,
    verbose: bool,
) -> Outcome:
    started, watch = time.monotonic(), CoresWatch()
    require_loggers(config.loggers)
    config = kept_at(storage_url(storage), config)
    search, space, is_new = config.study, space_of(config, open_workbench(config.setting)), config.setting.is_open
    starting = open_cluster(address, watch=watch, verbose=verbose)
    # The cluster comes before the database: one that can't run a trial leaves no study behind.
    with heed_signals() as signals, reading_ahead(storage_url(storage), search.name) as give, starting as cluster:
        _note_cores(cluster, progress)
        slots, db = plan_slots(cluster, config.resources), Database.open(storage_url(storage), create=True)
        config, workbench, record = settle(
            config, db, lambda setting: measured(_threaded(setting, slots), slots=slots, progress=progress)
        )
        give(record)
        setting, ready = config.setting, _threaded(config.setting, slots)
        study, owner = Study(db, record), new_owner()
        expire_dead_leases(record)
        left_s = None if time_limit_s is None else max(0.0, started + time_limit_s - time.monotonic())
        planner = planner_of(config, space, workbench)
        dispatcher = _dispatcher(
            config, record, workbench, space, owner=owner, concurrency=slots.concurrency, time_limit_s=left_s,
            planner=planner, note=progress.note,
            events=_begun(events, record, owner, slots=slots, time_limit_s=time_limit_s),
        )  # fmt: skip

        def make_config(claim: Claim) -> dict[str, Any]:
            ancestors, digest = ancestors_of(claim, record), workbench.data_digest
            spec = spec_of(config, space, claim, setting=ready, ancestors=ancestors, data_digest=digest)
            return worker_config(spec, left_s=dispatcher.seconds_left)

        log_to = Destination(config.loggers, search.name, search.metric, setting.artifacts)
        _enter(Path(setting.artifacts) / "trials" / search.name, record, owner=owner, progress=progress)
        try:
            with dispatcher, signals.obeyed(dispatcher, progress.interrupted):
                if not dispatcher.finished:
                    _make_ready(
                        ready, workbench, dispatcher, planner=planner, metric=search.score_metric, slots=slots,
                        alone=plan_alone(cluster, config.resources), progress=progress,
                        is_timed=is_new or _has_run_here(record, cluster),
                    )  # fmt: skip
                if not dispatcher.finished and dispatcher.stopping is None:
                    _announce(config, log_to, slots=slots, threads=ready.threads, progress=progress)
                drive(
                    dispatcher, execute=_execute, make_config=make_config, slots=slots, log_to=log_to,
                    scratch=Path(setting.artifacts) / "ray", warn=progress.note, verbose=verbose,
                    on_progress=lambda: progress.update(study, dispatcher.snapshot()),
                )  # fmt: skip
        finally:
            with contextlib.suppress(OutageError):  # That the process is gone then tells that it has left.
                record.leave(owner)
    return _outcome(study, dispatcher, search)


def _begun(
    events: EventLog | None, record: StudyHandle, owner: str, *, slots: Slots, time_limit_s: float | None
) -> Events:
    """The log of events, told that the driver has been launched."""
    if events is None:
        return silent
    events.share(study=record.name, owner=owner)
    config = record.config["config"]["study"]
    facts = {"revision": record.revision, "n_trials": config["n_trials"], "concurrency": slots.concurrency}
    host, version = socket.gethostname(), metadata.version("autoprune")
    events(
        "launch", storage=record.db.url, **facts, time_limit_s=time_limit_s, host=host, pid=os.getpid(), version=version
    )
    return events


def _make_ready(
    setting: SettingSpec,
    workbench: Workbench,
    dispatcher: Dispatcher,
    *,
    planner: Planner | None,
    slots: Slots,
    alone: Slots,
    metric: Metric,
    progress: Progress,
    is_timed: bool,
) -> None:
    """Measure the pace where the planner has to keep to a time, and have the dense network there."""
    if not is_timed:
        warn_where_slow(setting, slots=slots, go_on=lambda: dispatcher.stopping is None)
    pace = None
    if planner is not None and dispatcher.seconds_left is not None:
        pace = measured_pace(setting, dispatcher, slots=slots, progress=progress)
        planner.pace = pace or planner.pace
    is_given = setting.network.weights is not None  # Then it is only scored, in a process that is there already.
    slots = slots if is_given else alone
    prepare_dense(workbench, dispatcher, metric=metric, slots=slots, progress=progress, pace=pace)


def _has_run_here(record: StudyHandle, cluster: Cluster) -> bool:
    """Whether trials of the study have come to an end under drivers of this machine: these have said what is slow here.

    What a cluster is made of that others have started may have changed since.
    """
    ours = [row.owner for row in record.drivers() if row.host == socket.gethostname()]
    return cluster.cores is not None and bool(ours) and work_of(record, ours).n_finished > 0


def _enter(folder: Path, record: StudyHandle, *, owner: str, progress: Progress) -> None:
    """Write that the driver works on the study, whose networks lie in the folder."""
    enter_folder(folder, record)
    if is_shared(folder, record):
        progress.note(
            f"a study named {record.name!r} of another database keeps its networks in {folder} as well, and each "
            "writes over the other's. Give one of them another name, or another folder by `artifacts` in [engine]"
        )
    record.enter(owner)


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
    return dataclasses.replace(setting, threads=setting.threads or max(1, slots.threads // setting.n_processes))


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
    note: Callable[[str], None] = lambda text: None,
    events: Events = silent,
) -> Dispatcher:
    search = config.study
    limit_bytes = config.retention.phase_cache_gb * 1e9
    cache = PhaseCache(PhaseRows(record.db), folder=phase_folder(config.setting), limit_bytes=limit_bytes)
    cache.shrink()  # The limit may have been lowered.
    lifecycle = Lifecycle(
        record, owner=owner, n_trials=search.n_trials, grace_s=search.lease_s, max_retry=search.max_retry,
        events=events,
    )  # fmt: skip
    caps = FailureCaps(in_a_row=search.max_failures_in_a_row, in_all=search.max_failures)
    params, activation_bytes = config.constraints.params, space.activation_limit_bytes

    retention = Retention(Study(record.db, record))

    def key_of(point: Point) -> str | None:
        return phase_of(workbench, point, params=params, activation_bytes=activation_bytes)

    return Dispatcher(
        lifecycle,
        proposer_of(config, space, record, planner=planner, has_phase=lambda point: key_of(point) is not None),
        wind_down=WindDown(lifecycle, caps=caps, time_limit_s=time_limit_s),
        goals=Goals(search.objectives, config.constraints.limits, search.score_metric),
        concurrency=concurrency,
        shared=SharedPhases(key_of, cache.shrink),
        on_complete=lambda: _retain(retention, events),
        patience=_patience(search) if search.patience else None,
        stopper=_stopper(config) if search.stopper else None,
        events=events,
        outage=Outage(tell=note),
        trial_limit_s=search.trial_limit_s,
    )


def _retain(retention: Retention, events: Events) -> None:
    if gone := retention.apply():
        events("retention", deleted=[str(path) for path in gone])


def _patience(search: SearchConfig) -> Patience:
    maximised = tuple(direction == "maximize" for direction in search.directions)
    worst = tuple(search.reference_point[objective] for objective in search.objectives)
    return Patience(search.patience, maximised=maximised, worst=worst)


def _stopper(config: StudyConfig) -> Stopper:
    return Stopper(config.setting.rungs, config.setting.finetune.epochs, config.study.score_metric)


def proposer_of(
    config: StudyConfig,
    space: Space,
    record: StudyHandle,
    *,
    planner: Planner | None,
    has_phase: Callable[[Point], bool],
) -> Proposer:
    """What proposes the trials of a study."""
    search, setting = config.study, config.setting
    compensation = ["compensated"] if setting.compensate else ["merged"] if setting.merge else []
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


def _note_cores(cluster: Cluster, progress: Progress) -> None:
    if cluster.cores is not None and cluster.cores.free < cluster.cores.there:
        progress.note(str(cluster.cores))


def _announce(
    config: StudyConfig, log_to: Destination, *, slots: Slots, threads: int | None, progress: Progress
) -> None:
    search, gpu = config.study, f" and {slots.gpu:g} GPU" if slots.gpu else ""
    at_once = f"{slots.concurrency} at once, each with {threads} thread(s){gpu}"
    progress.note(f"study {search.name!r}: {search.length}, {at_once}")
    for name in config.loggers.use:
        progress.note(f"logging to {name}: {log_to.place(name)}")
