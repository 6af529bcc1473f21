"""The phases that a study's trials share: where they lie, which a trial starts from, and the dense one made ready."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import statistics
import time
from typing import Any

from autoprune.api._progress import Progress
from autoprune.config import Metric, SettingSpec
from autoprune.distributed import Slots, run_each, run_once
from autoprune.engine.files import PhaseStore
from autoprune.errors import ConfigError, OutageError
from autoprune.pipeline import Workbench, calibrate, enter_worker, open_workbench, phase_folder
from autoprune.search.dispatch import Dispatcher
from autoprune.search.proposals import Pace
from autoprune.search.trials import Point

__all__ = ["measured_pace", "phase_of", "prepare_dense"]

_DENSE = "dense"
_MOST_CALIBRATED = 8  # Workers that are timed at once; more would tell nothing new.


def phase_of(workbench: Workbench, point: Point, *, params: int | None, activation_bytes: int | None) -> str | None:
    """Key of the sparsify phase that a point's trial starts from, or None where it starts from the dense network."""
    try:
        return workbench.sparsify_key(
            point.method, point.hyper,
            macs_target=point.macs_target, params=params, activation_bytes=activation_bytes,
        )  # fmt: skip
    except ConfigError:
        return None  # A retry of what this version does not know: it fails in its worker, with this reason.


def prepare_dense(
    workbench: Workbench, dispatcher: Dispatcher, *, metric: Metric, slots: Slots, progress: Progress
) -> None:
    """Have the dense network ready, trained once however many drivers start together."""
    setting, key = workbench.setting, workbench.dense_key
    phases, store = dispatcher.phases, PhaseStore(phase_folder(setting))
    has_noted = False
    while dispatcher.stopping is None:
        state = dispatcher.outage.ridden_out(
            lambda: phases.take(key, "dense", holder=_DENSE), go_on=lambda: dispatcher.stopping is None
        )
        if state == "ready":
            if store.find("dense", key) is not None:
                return
            phases.forget(key)  # The database says that it is there, but the file is gone or damaged.
        elif state == "busy":
            if not has_noted:
                progress.note("the dense network is being made ready by another driver; waiting for it")
                has_noted = True
            time.sleep(1.0)
        else:
            _make_dense(setting, dispatcher, metric=metric, slots=slots, progress=progress)
            return


def _make_dense(
    setting: SettingSpec, dispatcher: Dispatcher, *, metric: Metric, slots: Slots, progress: Progress
) -> None:
    what = "scoring the given dense weights" if setting.network.weights else "training the dense network"
    progress.note(f"{what}, once for the study")
    whole = dataclasses.replace(setting, threads=setting.threads or slots.threads)
    try:
        done = run_once(
            lambda: _train_dense(whole, metric.name), slots=slots, go_on=lambda: dispatcher.stopping is None
        )
        if done is not None:
            dispatcher.outage.ridden_out(
                lambda: dispatcher.phases.publish("dense", holder=_DENSE, file=done["file"]),
                go_on=lambda: dispatcher.stopping is None,
            )
            score = f"validation {metric.name} {metric.text(done['score'])}"
            progress.note(f"dense network: {score}, {done['macs']:,} MACs")
    finally:
        with contextlib.suppress(OutageError):  # It is free again once its lease has run out.
            dispatcher.phases.give_up(_DENSE)


def _train_dense(setting: SettingSpec, metric: str) -> dict[str, Any]:
    phase = open_workbench(setting).dense(enter_worker(setting))
    return {"score": phase.record[metric], "macs": phase.record["macs"], "file": phase.file}


def measured_pace(setting: SettingSpec, dispatcher: Dispatcher, *, slots: Slots, progress: Progress) -> Pace | None:
    """How fast workers train that train at the same time, measured for a few seconds.

    None where the driver winds down meanwhile.
    """
    n_workers, found = min(slots.concurrency, _MOST_CALIBRATED), list[dict[str, float]]()

    def fail(_: int, error: Exception) -> None:
        raise error

    run_each(
        range(n_workers), functools.partial(_calibrate, setting), slots=slots,
        go_on=lambda: dispatcher.stopping is None, on_done=lambda _, paces: found.append(paces), on_failed=fail,
    )  # fmt: skip
    if len(found) < n_workers:
        return None
    pace = Pace(**{name: statistics.fmean(each[name] for each in found) for name in found[0]})
    speeds = [f"{1 / (pace.base_s + pace.macs_s * ratio):,.0f} at {ratio:g} of the MACs" for ratio in (1.0, 0.25)]
    progress.note(f"images trained a second, measured: {', '.join(speeds)}")
    return pace


def _calibrate(setting: SettingSpec, worker: int) -> dict[str, float]:
    enter_worker(setting)
    return calibrate(setting)
