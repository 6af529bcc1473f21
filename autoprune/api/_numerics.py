"""In what a study computes, and at which widths: what its database keeps, else the fastest of what was timed."""

from __future__ import annotations

import dataclasses
import functools
import logging
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from autoprune.api._kept import kept_in
from autoprune.api._planning import identity_of
from autoprune.api._progress import Progress
from autoprune.config import AUTO, Numerics, SettingSpec, StudyConfig, paying_from, preferred, preferred_multiple
from autoprune.distributed import Slots, run_each
from autoprune.errors import NetworkError
from autoprune.pipeline import (
    Workbench,
    enter_worker,
    numerics_here,
    open_workbench,
    time_compiled,
    time_multiples,
    time_numerics,
)
from autoprune.search.storage import Database, StudyHandle

__all__ = ["join", "measured", "settle", "warn_where_slow"]

_log = logging.getLogger(__name__)

_MOST_TIMED = 8  # Workers at once; more would tell nothing new.
_SLOW = 1.3  # Times as long as the usual: worth a warning.

Measure = Callable[[SettingSpec], SettingSpec]


def join(config: StudyConfig, workbench: Workbench, db: Database) -> StudyHandle:
    """Make the study in the database, or join it there; its precision is known."""
    return StudyHandle.create_or_join(
        db,
        name=config.study.name,
        identity=identity_of(config, workbench),
        config={
            "config": config.to_dict(),
            "cost": workbench.traced.cost.to_dict(),
            "n_validation": workbench.work.n_validation,
        },
        directions=config.study.directions,
        objectives=config.study.objectives,
    )


def settle(config: StudyConfig, db: Database, measure: Measure) -> tuple[StudyConfig, Workbench, StudyHandle]:
    """Join the study with what it has measured or, where it is new, what is measured now: precision, layout and others.

    Of several drivers that start a study together the first to write decides.

    Args:
        config: As asked for.
        db: Open for writing.
        measure: Settles what a new study leaves to be measured.
    """
    config = kept_in(db, config)
    ready = config
    if config.setting.is_open:
        ready = dataclasses.replace(config, setting=_bearable(config.setting, measure(config.setting)))
    workbench = open_workbench(ready.setting)
    with db.lock("studies"):
        kept = kept_in(db, config)
        if kept.setting.is_open or kept.setting == ready.setting:
            return ready, workbench, join(ready, workbench, db)
    workbench = open_workbench(kept.setting)
    return kept, workbench, join(kept, workbench, db)


def _bearable(asked: SettingSpec, chosen: SettingSpec) -> SettingSpec:
    """What was chosen, or the usual where the network trains by that but can't be scored."""
    try:
        open_workbench(chosen)
    except NetworkError as error:
        usual = chosen.computed_in(asked.numerics)
        if chosen == usual:
            raise
        _log.warning(
            "the study computes in %s, since the network fails in %s: %s", usual.numerics, chosen.numerics, error
        )
        return usual
    return chosen


def measured(setting: SettingSpec, *, slots: Slots, progress: Progress) -> SettingSpec:
    """The setting with all that it leaves to be measured settled by workers that train at the same time."""
    if setting.is_measured:
        setting = setting.computed_in(_fastest(setting, slots=slots, progress=progress))
    if setting.network.multiple == AUTO:
        setting = setting.with_multiple(_fitting_multiple(setting, slots=slots, progress=progress))
    if setting.compile == AUTO:
        setting = dataclasses.replace(setting, compile=_worth_compiling(setting, slots=slots, progress=progress))
    return setting


def _fitting_multiple(setting: SettingSpec, *, slots: Slots, progress: Progress) -> int:
    seconds = _mean_of_workers(functools.partial(_time_multiples, setting), slots=slots)
    chosen = preferred_multiple(seconds)
    speeds = ", ".join(f"{multiple} {1e-9 / mac_s:,.1f}" for multiple, mac_s in seconds.items())
    what = f"multiples of {chosen}" if chosen > 1 else "of any kind"
    progress.note(f"widths are {what}, as measured; 10^9 MACs trained a second by each trial at multiples of: {speeds}")
    return chosen


def _worth_compiling(setting: SettingSpec, *, slots: Slots, progress: Progress) -> bool | int:
    seconds = _mean_of_workers(functools.partial(_time_compiled, setting), slots=slots)
    steps = None
    if {"plain", "compiled"} <= seconds.keys():
        steps = paying_from(seconds["compiling"], seconds["plain"], seconds["compiled"])
    why = ", ".join(f"{name} {each:.3g} s" for name, each in seconds.items()) or "nothing to measure on this device"
    progress.note(f"networks are {'not compiled' if steps is None else f'compiled from {steps} steps on'} ({why})")
    return False if steps is None else max(steps, 2)


def _fastest(setting: SettingSpec, *, slots: Slots, progress: Progress) -> Numerics:
    """The precision and layout in which they train fastest."""
    seconds = _timed(setting, None, slots=slots)
    chosen = preferred(seconds) if seconds else setting.numerics
    speeds = ", ".join(f"{each} {1 / example_s:,.0f}" for each, example_s in seconds.items())
    progress.note(f"computed in {chosen}, as measured; images trained a second by each trial: {speeds}")
    return chosen


def warn_where_slow(setting: SettingSpec, *, slots: Slots, go_on: Callable[[], bool] = lambda: True) -> float:
    """Warn where a study's own precision and layout are much slower here than the usual.

    Args:
        setting: Of the study.
        slots: Of its trials.
        go_on: Asked about once a second; False ends the timing.

    Returns:
        How many times as long they take; 1 for the usual, which is not timed.
    """
    own, usual = setting.numerics, Numerics()
    if own == usual:
        return 1.0
    seconds = _timed(setting, (usual, own), slots=slots, go_on=go_on)
    if not {own, usual} <= seconds.keys():
        return 1.0
    factor = seconds[own] / seconds[usual]
    if factor >= _SLOW:
        _log.warning(
            "the study computes in %s, in which training takes %.1f times as long here as in %s (%.0f and %.0f "
            "images a second). A study keeps its precision; a new one takes the fastest with `precision` = 'auto'",
            own, factor, usual, 1 / seconds[own], 1 / seconds[usual],
        )  # fmt: skip
    return factor


def _timed(
    setting: SettingSpec,
    candidates: Sequence[Numerics] | None,
    *,
    slots: Slots,
    go_on: Callable[[], bool] = lambda: True,
) -> dict[Numerics, float]:
    """Mean seconds of a trained example, by what it was computed in; what a worker fails in is left out."""
    return _mean_of_workers(functools.partial(_time, setting, candidates), slots=slots, go_on=go_on)


def _mean_of_workers(
    time: Callable[[int], dict[str, Any]], *, slots: Slots, go_on: Callable[[], bool] = lambda: True
) -> dict[Any, float]:
    """Means over workers that are timed together, of what all of them know."""
    found = list[dict[Any, float]]()

    def fail(_: int, error: Exception) -> None:
        raise error

    run_each(
        range(min(slots.concurrency, _MOST_TIMED)), time, slots=slots,
        go_on=go_on, on_done=lambda _, told: found.append(dict(told["seconds"])), on_failed=fail,
    )  # fmt: skip
    common = [each for each in (found[0] if found else ()) if all(each in one for one in found)]
    return {each: statistics.fmean(one[each] for one in found) for each in common}


def _time(setting: SettingSpec, candidates: Iterable[Numerics] | None, worker: int) -> dict[str, Any]:
    enter_worker(setting)
    return {"seconds": list(time_numerics(setting, candidates or numerics_here(setting)).items())}


def _time_multiples(setting: SettingSpec, worker: int) -> dict[str, Any]:
    enter_worker(setting)
    return {"seconds": list(time_multiples(setting).items())}


def _time_compiled(setting: SettingSpec, worker: int) -> dict[str, Any]:
    enter_worker(setting)
    return {"seconds": list(time_compiled(setting).items())}
