"""In which precision and layout a study computes: what its database keeps, else the fastest of what was timed."""

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
from autoprune.config import Numerics, SettingSpec, StudyConfig, preferred
from autoprune.distributed import Slots, run_each
from autoprune.errors import NetworkError
from autoprune.pipeline import Workbench, enter_worker, numerics_here, open_workbench, time_numerics
from autoprune.search.storage import Database, StudyHandle

__all__ = ["join", "measured", "settle", "warn_where_slow"]

_log = logging.getLogger(__name__)

_MOST_TIMED = 8  # Workers at once; more would tell nothing new.
_SLOW = 1.3  # Times as long as the usual: worth a warning.

Measure = Callable[[SettingSpec], Numerics]


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
    """Join the study, in the precision and layout that it has or, where it is new, that are measured now.

    Of several drivers that start a study together the first to write decides.

    Args:
        config: As asked for.
        db: Open for writing.
        measure: Chooses what a new study computes in.
    """
    config = kept_in(db, config)
    ready = config
    if config.setting.is_measured:
        setting = config.setting
        ready = dataclasses.replace(config, setting=_bearable(setting, setting.computed_in(measure(setting))))
    workbench = open_workbench(ready.setting)
    with db.lock("studies"):
        kept = kept_in(db, config)
        if kept.setting.is_measured or kept.setting == ready.setting:
            return ready, workbench, join(ready, workbench, db)
    workbench = open_workbench(kept.setting)
    return kept, workbench, join(kept, workbench, db)


def _bearable(asked: SettingSpec, chosen: SettingSpec) -> SettingSpec:
    """What was chosen, or the usual where the network trains by that but can't be scored."""
    try:
        open_workbench(chosen)
    except NetworkError as error:
        usual = asked.computed_in(asked.numerics)
        if chosen == usual:
            raise
        _log.warning(
            "the study computes in %s, since the network fails in %s: %s", usual.numerics, chosen.numerics, error
        )
        return usual
    return chosen


def measured(setting: SettingSpec, *, slots: Slots, progress: Progress) -> Numerics:
    """The precision and layout in which workers train fastest that train at the same time."""
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
    """Mean seconds of a trained example over workers that are timed together; what one of them fails in is left out."""
    found = list[dict[Numerics, float]]()

    def fail(_: int, error: Exception) -> None:
        raise error

    run_each(
        range(min(slots.concurrency, _MOST_TIMED)), functools.partial(_time, setting, candidates), slots=slots,
        go_on=go_on, on_done=lambda _, told: found.append(dict(told["seconds"])), on_failed=fail,
    )  # fmt: skip
    common = [each for each in (found[0] if found else ()) if all(each in one for one in found)]
    return {each: statistics.fmean(one[each] for one in found) for each in common}


def _time(setting: SettingSpec, candidates: Iterable[Numerics] | None, worker: int) -> dict[str, Any]:
    enter_worker(setting)
    return {"seconds": list(time_numerics(setting, candidates or numerics_here(setting)).items())}
