"""The phases that a study's trials share: where they lie, which a trial starts from, and the dense one made ready."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.api._progress import Progress
from autoprune.errors import ConfigError
from autoprune.spec import SettingSpec

if TYPE_CHECKING:
    from autoprune.distributed import Slots
    from autoprune.engine.phases import PhaseStore
    from autoprune.search.dispatch import Dispatcher
    from autoprune.workbench import Workbench

__all__ = ["enter_worker", "phase_folder", "phase_of", "prepare_dense"]

_DENSE = "dense"


def phase_folder(setting: SettingSpec) -> Path:
    """Where a study's phases are cached."""
    return Path(setting.artifacts) / "phases"


def enter_worker(setting: SettingSpec) -> PhaseStore:
    """Begin some work in a worker process, which may have done other work before; gives the study's phases."""
    import torch

    from autoprune.engine.memory import hand_back
    from autoprune.engine.phases import PhaseStore

    hand_back()  # What the worker's last work has freed.
    if setting.threads is not None:
        torch.set_num_threads(setting.threads)
    return PhaseStore(phase_folder(setting))


def phase_of(workbench: Workbench, point: Mapping[str, Any]) -> str | None:
    """Key of the sparsify phase that a point's trial starts from, or None where it starts from the dense network."""
    try:
        return workbench.sparsify_key(point["method"], point["hyper"], point["macs_target"])
    except ConfigError:
        return None  # A retry of what this version does not know: it fails in its worker, with this reason.


def prepare_dense(workbench: Workbench, dispatcher: Dispatcher, *, slots: Slots, progress: Progress) -> None:
    """Have the dense network ready, trained once however many drivers start together."""
    from autoprune.engine.phases import PhaseStore

    setting, key = workbench.setting, workbench.dense_key
    phases, store = dispatcher.phases, PhaseStore(phase_folder(setting))
    told = False
    while dispatcher.stopping is None:
        state = phases.take(key, "dense", holder=_DENSE)
        if state == "ready":
            if store.find("dense", key) is not None:
                return
            phases.forget(key)  # The database says that it is there, but the file is gone or damaged.
        elif state == "busy":
            if not told:
                progress.note("the dense network is being made ready by another driver; waiting for it")
                told = True
            time.sleep(1.0)
        else:
            _make_dense(setting, dispatcher, slots=slots, progress=progress)
            return


def _make_dense(setting: SettingSpec, dispatcher: Dispatcher, *, slots: Slots, progress: Progress) -> None:
    from autoprune.distributed import run_once

    what = "scoring the given dense weights" if setting.network.weights else "training the dense network"
    progress.note(f"{what}, once for the study")
    whole = dataclasses.replace(setting, threads=setting.threads or slots.threads)
    try:
        done = run_once(lambda: _train_dense(whole), slots=slots, go_on=lambda: dispatcher.stopping is None)
        if done is not None:
            dispatcher.phases.publish("dense", holder=_DENSE, file=done["file"])
            progress.note(f"dense network: validation accuracy {done['accuracy']:.4f}, {done['macs']:,} MACs")
    finally:
        dispatcher.phases.give_up(_DENSE)


def _train_dense(setting: SettingSpec) -> dict[str, Any]:
    from autoprune.workbench import open_workbench

    phase = open_workbench(setting).dense(enter_worker(setting))
    return {"accuracy": phase.record["accuracy"], "macs": phase.record["macs"], "file": phase.file}
