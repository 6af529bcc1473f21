"""One driver: Ray Tune runs the trials that the dispatcher claims, until the study is finished or stops."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoprune.config import Completed, Failed, Progressed, Report, Stopped
from autoprune.distributed.cluster import Slots
from autoprune.distributed.deaths import deaths_of_workers_alone
from autoprune.distributed.loggers import Destination
from autoprune.distributed.reports import pack
from autoprune.errors import AutopruneError, OutageError, TrialStoppedError
from autoprune.search.dispatch import Dispatcher, Stopping
from autoprune.search.files import make_scratch, remove_scratch
from autoprune.search.trials import Claim

__all__ = ["Execute", "drive"]

Execute = Callable[[dict[str, Any], Callable[[Progressed], None]], dict[str, Any]]
"""Runs one trial in a worker: (configuration as plain data, report) -> result as plain data."""

_TELL_EVERY_S = 1.0
_PATIENCE_S = 30.0
_INTERRUPTED_PATIENCE_S = 2.0  # Who signals may kill soon; trials report every two seconds while they train.


def _trainable(execute: Execute, *, verbose: bool) -> Callable[[dict[str, Any]], None]:
    def run(config: dict[str, Any]) -> None:
        import ray
        from ray import tune

        if verbose:
            logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        place = {"host": socket.gethostname(), "node": ray.get_runtime_context().get_node_id()}

        def report(word: Report) -> None:
            tune.report(pack(dataclasses.replace(word, **place)))

        try:
            result = execute(config, report)
        except TrialStoppedError as stop:
            report(Stopped(reason=str(stop), found=dict(stop.found)))
        except Exception as error:  # Any error of a trial is its outcome: recorded, and the study goes on.
            what = str(error) if isinstance(error, AutopruneError) else f"{type(error).__name__}: {error}"
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = "" if isinstance(error, AutopruneError) else f" (at {Path(line.filename).name}:{line.lineno})"
            report(Failed(reason=what + where, traceback=traceback.format_exc(limit=20)))
        else:
            if result is not None:
                report(Completed(result=result))

    return run


def drive(
    dispatcher: Dispatcher,
    *,
    execute: Execute,
    make_config: Callable[[Claim], dict[str, Any]],
    slots: Slots,
    scratch: Path,
    on_progress: Callable[[], None] = lambda: None,
    log_to: Destination | None = None,
    warn: Callable[[str], None] = lambda text: None,
    verbose: bool = False,
) -> None:
    """Run trials on the open Ray cluster until the dispatcher has no more.

    Args:
        dispatcher: Claims trials and writes their ends; entered by the caller.
        execute: Runs one trial in a worker.
        make_config: The worker's configuration for a claim.
        slots: Trials at once and their resources.
        scratch: Folder for Tune's own files, shared by all machines; removed afterwards.
        on_progress: Called about once a second.
        log_to: The experiment trackers to tell of trials; None: none.
        warn: Told what is amiss and does not end the study.
        verbose: Whether workers log what they do; `open_cluster` then brings it here.

    Raises:
        StudyFailedError: Too many trials failed.
        SpaceExhaustedError: The space has nothing new.
    """
    on_progress, folder = _unless_away(on_progress), make_scratch(scratch, dispatcher.owner)
    try:
        if dispatcher.stopping is None:  # Else Tune need not even be loaded, which takes seconds.
            _tune(
                dispatcher, execute, make_config,
                slots=slots, folder=folder, on_progress=on_progress, log_to=log_to, warn=warn, verbose=verbose,
            )  # fmt: skip
    finally:
        dispatcher.abandon()
        if dispatcher.stopping is not Stopping.INTERRUPT:
            on_progress()
        with contextlib.suppress(OSError):  # `autoprune clean` then finds it.
            remove_scratch(folder)
    dispatcher.raise_if_failed()


def _tune(
    dispatcher: Dispatcher,
    execute: Execute,
    make_config: Callable[[Claim], dict[str, Any]],
    *,
    slots: Slots,
    folder: Path,
    on_progress: Callable[[], None],
    log_to: Destination | None,
    warn: Callable[[str], None],
    verbose: bool,
) -> None:
    """Have Tune run what the dispatcher hands out."""
    from ray import tune

    from autoprune.distributed.logbook import Logbook
    from autoprune.distributed.scheduler import (
        ObedientScheduler,
        OverdueCallback,
        PatienceStopper,
        ProgressCallback,
    )
    from autoprune.distributed.searcher import StudySearcher

    logbook = Logbook(dispatcher, log_to, warn=warn)
    tuner = tune.Tuner(
        tune.with_resources(_trainable(execute, verbose=verbose), _resources(slots)),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(dispatcher, make_config, on_ended=logbook.note_end),
            scheduler=ObedientScheduler(dispatcher),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="study",
            storage_path=str(folder),
            verbose=0,
            callbacks=[ProgressCallback(on_progress), OverdueCallback(dispatcher), logbook],
            stop=PatienceStopper(dispatcher, patience_s=_PATIENCE_S, interrupted_s=_INTERRUPTED_PATIENCE_S),
        ),
    )
    with deaths_of_workers_alone():
        tuner.fit()


def _unless_away(call: Callable[[], None]) -> Callable[[], None]:
    """The same, which does without the database while its server is away."""

    def attempt() -> None:
        with contextlib.suppress(OutageError):
            call()

    return attempt


def _resources(slots: Slots) -> dict[str, float]:
    shares = {"CPU": slots.cpu, "GPU": slots.gpu, "memory": slots.memory_bytes}
    return {kind: share for kind, share in shares.items() if share}
