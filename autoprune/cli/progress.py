"""Progress of a launch: one live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Self

from autoprune.api import Outcome, Progress, RunningTrial, Snapshot, Study
from autoprune.cli.secrecy import without_password
from autoprune.cli.tables import front_table
from autoprune.config import AS_MANY_AS_FIT

__all__ = ["finish", "make_progress"]

_LEVELS = (0.1, 0.25, 0.5, 0.75, 1.0)
_PLAIN_EVERY_S = 10.0
_PLAIN_AT_LEAST_EVERY_S = 120.0  # Without news; a log of a long study should stay short.
_READ_EVERY_S = 2.0
_READ_SHARE = 0.2  # Of the driver's time at most: a front of 50,000 trials takes a second.
_INTERRUPTED = (
    "interrupted: no new trials; the running ones are told to stop and will be tried again on resume. "
    "Ctrl-C again leaves at once."
)


def _seconds(value: float) -> str:
    hours, rest = divmod(int(value), 3600)
    return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s"


def _underway(trial: RunningTrial) -> str:
    """Phase, share, images a second and time left of a running trial, as far as they are known."""
    pace = "" if trial.images_per_s is None else f", {trial.images_per_s:,.0f} images/s"
    left = "" if trial.seconds_left is None else f", {_seconds(trial.seconds_left)} left"
    return f"{trial.phase} {trial.progress:.0%}{pace}{left}"


class _Figures:
    """What both displays show, read from the database every few seconds."""

    def __init__(self) -> None:
        self._started_at = time.monotonic()
        self._first_finished: int | None = None
        self._read_again_at = 0.0
        self._text: dict[str, str] = {}

    def read(self, study: Study, snapshot: Snapshot) -> dict[str, str]:
        """Figures by their name, in order; cached for a moment."""
        now = time.monotonic()
        if now < self._read_again_at:
            return self._text
        counts, n_trials = study.counts(), study.config.study.n_trials
        front, cost, metric = study.front(), study.cost, study.metric
        if self._first_finished is None:
            self._first_finished = counts.finished
        text = {
            "done": str(counts.complete) if n_trials == AS_MANY_AS_FIT else f"{counts.complete} of {n_trials}",
            "running": str(counts.running),
            "stopped": str(counts.pruned),
            "failed": str(counts.failed_for_good),
        }
        best = []
        for level in _LEVELS:
            under = front[front[cost] <= level + 1e-9]
            if len(under):
                best.append(f"{metric.text(metric.best(under[metric.name]))} at <= {level:g}")
        text[f"best {metric.name} by {cost}"] = ", ".join(best) or "none yet"
        if study.config.study.has_hypervolume:
            text["hypervolume"] = f"{study.hypervolume():.4f}" if len(front) else "0"
        text["time left"] = self._left(counts.finished, n_trials, snapshot.seconds_left)
        self._text, took = text, time.monotonic() - now
        self._read_again_at = now + max(_READ_EVERY_S, took / _READ_SHARE)
        return text

    def _left(self, finished: int, n_trials: int, limit: float | None) -> str:
        elapsed, here = time.monotonic() - self._started_at, finished - (self._first_finished or 0)
        guess = elapsed / here * (n_trials - finished) if here > 0 and n_trials < AS_MANY_AS_FIT else None
        known = [value for value in (guess, limit) if value is not None]
        return _seconds(min(known)) if known else "unknown yet"


class _Plain(Progress):
    """Plain lines for logs and pipes."""

    def __init__(self) -> None:
        self._figures, self._told_at = _Figures(), 0.0
        self._last: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def note(self, text: str) -> None:
        print(text, flush=True)

    def update(self, study: Study, snapshot: Snapshot) -> None:
        if time.monotonic() - self._told_at < _PLAIN_EVERY_S:
            return
        figures = self._figures.read(study, snapshot)
        news = {name: value for name, value in figures.items() if name != "time left"}
        if news != self._last or time.monotonic() - self._told_at > _PLAIN_AT_LEAST_EVERY_S:
            self._told_at, self._last = time.monotonic(), news
            print("; ".join(f"{name} {value}" for name, value in figures.items()), flush=True)
            for trial in snapshot.running:
                print(f"  trial {trial.number}: {_underway(trial)}", flush=True)

    def interrupted(self) -> None:
        print(_INTERRUPTED, file=sys.stderr, flush=True)


class _LiveTable(Progress):
    """One table that is drawn over and over."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._figures = _Figures()
        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._live.__exit__(*error)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def update(self, study: Study, snapshot: Snapshot) -> None:
        from rich.table import Table

        table = Table(title=f"study {study.name}", show_header=False, title_justify="left", min_width=60)
        for name, value in self._figures.read(study, snapshot).items():
            table.add_row(name, value)
        for trial in snapshot.running:
            point = trial.point
            what = f"{point.method}, {point.width_rule}, macs_target {point.macs_target:.2f}"
            table.add_row(f"trial {trial.number}", f"{what}: {_underway(trial)}")
        self._live.update(table)

    def interrupted(self) -> None:
        self.note(_INTERRUPTED)


def make_progress() -> _Plain | _LiveTable:
    """The display that fits where standard output goes."""
    return _LiveTable() if sys.stdout.isatty() else _Plain()


def finish(outcome: Outcome, storage: str | None) -> int:
    """Print the front and how to go on; returns the exit code."""
    study = outcome.study
    wanted = "" if outcome.n_trials is None else f" of {outcome.n_trials}"
    print(f"{outcome.n_finished}{wanted} trials finished. The front:")
    print(front_table(study.front(), study.metric))
    where = f" --storage {without_password(storage)}" if storage else ""
    if outcome.finished:
        print(f"more: autoprune pareto {study.name}{where}; go on: autoprune resume {study.name} --trials N{where}")
        return 0
    print(f"{outcome.why or 'incomplete'}. Go on: autoprune resume {study.name}{where}")
    return 130 if outcome.interrupted else 1
