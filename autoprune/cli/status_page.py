"""The state of a study as a page."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from autoprune.cli.pages import Row, Section
from autoprune.cli.wording import bar, command, percent
from autoprune.config import duration_text

if TYPE_CHECKING:
    from autoprune.api import DriverStatus, RunningStatus, Status
    from autoprune.config import Metric

__all__ = ["heading", "sections"]

_BAR = 40
_SHOWN = 8  # Numbers of trials listed for one reason.
_LATER_S = 20 * 3600.0  # An end further off than this is told with its date.


def heading(status: Status, study: str) -> str:
    """The first two lines of the page."""
    counts = status.counts
    wanted = f" of {status.n_trials}" if _has_end(status) else ""
    again = f", interrupted or lost and tried again {counts.retried}" if counts.retried else ""
    return (
        f"study {study!r}: {counts.finished}{wanted} trials finished, revision {status.revision}\n"
        f"complete {counts.complete}, stopped {counts.pruned}, running {counts.running}, "
        f"waiting for another try {counts.waiting}, failed {counts.failed_for_good}{again}"
    )


def sections(status: Status, *, study: str, metric: Metric, cost: str, storage: str | None) -> list[Section]:
    """The page below its heading.

    Args:
        status: What `api.status` tells.
        study: The study's name.
        metric: What its trials are scored by.
        cost: Its first cost.
        storage: The database, where one was named.
    """
    return [
        Section("progress", _progress(status) + _go_on(status, study, storage)),
        Section("the front so far", _front(status, metric, cost)),
        Section("who runs what", _work(status, metric)),
        Section("waiting for another try", [Row("", _again(*each)) for each in status.waiting]),
        Section("failed, interrupted or lost" if status.retried else "failed", _failures(status)),
    ]


def _has_end(status: Status) -> bool:
    from autoprune.config import AS_MANY_AS_FIT

    return status.n_trials < AS_MANY_AS_FIT


def _is_done(status: Status) -> bool:
    return _has_end(status) and status.counts.finished >= status.n_trials


def _go_on(status: Status, study: str, storage: str | None) -> list[Row]:
    """The command that makes the study go on, where it does not."""
    if any(driver.state == "at work" for driver in status.drivers):
        return []
    more = ("--trials", "N") if _is_done(status) else ()
    return [Row("to go on", command("resume", study, *more, storage=storage), is_whole=True)]


def _progress(status: Status) -> list[Row]:
    finished, rows = status.counts.finished, []
    if _has_end(status):
        share = min(1.0, finished / status.n_trials)
        rows.append(Row("done", f"{bar(share, length=_BAR)} {percent(share)}"))
    if status.per_hour is not None:
        rows.append(Row("pace", f"{status.per_hour:.3g} trials an hour, by the drivers at work"))
    rows.append(Row("end", _end(status)))
    since = status.last_result_s_ago
    if since is not None:
        rows.append(Row("last result", f"{duration_text(since)} ago"))
    elif not finished:
        began = "no trial has finished yet" if status.counts.taken else "no trial has begun yet"
        rows.append(Row("last result", began))
    return rows


def _end(status: Status) -> str:
    if _is_done(status):
        return "all trials have finished"
    if not any(driver.state == "at work" for driver in status.drivers):
        return "not in sight: no driver is at work"
    if not _has_end(status):
        return "at the time limit of its driver"
    if status.seconds_left is None:
        return "unknown yet: too few trials of these drivers have finished to tell a pace"
    at = datetime.now() + timedelta(seconds=status.seconds_left)
    form = "%H:%M" if status.seconds_left < _LATER_S else "%Y-%m-%d %H:%M"
    return f"in about {duration_text(status.seconds_left)}, {at:{form}}, if trials go on taking as long"


def _front(status: Status, metric: Metric, cost: str) -> list[Row]:
    if status.best is None or status.cheapest is None:
        return []
    ends = {"best": status.best, "cheapest": status.cheapest}
    volume = "" if status.hypervolume is None else f"{status.hypervolume:.4f} of the box up to the reference point"
    return [
        Row("trials", str(status.n_front)),
        *(
            Row(label, f"{metric.name} {metric.text(end.score)} at {cost} {end.cost:.4g}, trial {end.number}")
            for label, end in ends.items()
        ),
        *([Row("hypervolume", volume)] if volume else []),
    ]


def _work(status: Status, metric: Metric) -> list[Row]:
    by_number = {trial.number: trial for trial in status.running}
    rows = []
    for driver in status.drivers:
        rows.append(Row("", _driver(driver)))
        rows += [Row("", f"  {_running(by_number.pop(number), metric)}") for number in driver.trials]
    rows += [Row("", f"without a driver: {_running(trial, metric)}") for trial in by_number.values()]
    return rows


def _driver(driver: DriverStatus) -> str:
    running = ", ".join(f"trial {number}" for number in driver.trials) or "nothing yet"
    seen = duration_text(driver.seen_s_ago)
    return f"{driver.state}: {driver.host}, process {driver.pid}, last seen {seen} ago: {running}"


def _running(trial: RunningStatus, metric: Metric) -> str:
    since = "" if trial.since_s is None else f" for {duration_text(trial.since_s)}"
    far = "no rung yet"
    if trial.rung is not None and trial.score is not None:
        far = f"rung {trial.rung}, {metric.name} {metric.text(trial.score)}"
    return f"trial {trial.number}{since}: {trial.what}; {far}{_pace(trial)}"


def _pace(trial: RunningStatus) -> str:
    if trial.phase is None or trial.progress is None:
        return ""
    rate = "" if trial.images_per_s is None else f", {trial.images_per_s:,.0f} images/s"
    left = "" if trial.seconds_left is None else f", {duration_text(trial.seconds_left)} left"
    return f"; {trial.phase} {trial.progress:.0%}{rate}{left}"


def _again(number: int, of: int | None) -> str:
    return f"trial {number}" + ("" if of is None else f", in place of trial {of}")


def _failures(status: Status) -> list[Row]:
    """One row a reason, the most frequent first; reasons that differ in numbers alone are one."""
    alike: dict[str, list[int]] = {}
    told: dict[str, str] = {}
    for number, reason in status.failures:
        first, *more = reason.splitlines() or [""]
        kind = re.sub(r"\d+", "#", first)
        told.setdefault(kind, f"{first}{' ...' if more else ''}")
        alike.setdefault(kind, []).append(number)
    rows = []
    for kind, numbers in sorted(alike.items(), key=lambda each: -len(each[1])):
        n_again = len(status.retried.intersection(numbers))
        again = "" if not n_again else " (tried again)" if n_again == len(numbers) else f" ({n_again} tried again)"
        shown = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
        many = f"{len(numbers)} times, trials {shown}" if len(numbers) > 1 else f"trial {shown}"
        rows.append(Row("", f"{many}{again}: {told[kind]}"))
    return rows
