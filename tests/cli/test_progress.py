"""What a launch shows while it runs and when it ends."""

from __future__ import annotations

from typing import Any

import pytest

import autoprune
from autoprune.cli import progress
from autoprune.search.dispatch import RunningTrial, Snapshot
from autoprune.search.trials import Point


def moment(*, seconds_left: float | None) -> Snapshot:
    """A driver with one trial under way."""
    running = RunningTrial(
        6, Point("slimming", "global", 0.5), phase="finetune", progress=0.25, images_per_s=1341.4, seconds_left=65
    )
    return Snapshot((running,), seconds_left)


def test_plain_lines(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    study = autoprune.open_study("digits", finished.url)
    with progress.make_progress() as display:  # no terminal here
        display.note("training the dense network, once for the study")
        display.update(study, moment(seconds_left=90.0))
        display.update(study, moment(seconds_left=80.0))  # too soon to tell again
        display.interrupted()
    told = capsys.readouterr()
    first, second, third = told.out.splitlines()
    assert first == "training the dense network, once for the study"
    assert second.split("; ") == [
        "done 4 of 10",
        "running 1",
        "stopped 1",
        "failed 1",
        "best accuracy by macs_ratio 0.9000 at <= 0.25, 0.9700 at <= 0.5, 0.9700 at <= 0.75, 0.9800 at <= 1",
        "hypervolume 0.7100",
        "time left 1m30s",
    ]
    assert third == "  trial 6: finetune 25%, 1,341 images/s, 1m05s left"
    assert told.err.startswith("interrupted: no new trials; ")


def test_plain_lines_of_a_study_by_parameters(finished_by_params: Any, capsys: pytest.CaptureFixture[str]) -> None:
    study = autoprune.open_study("digits", finished_by_params.url)
    with progress.make_progress() as display:
        display.update(study, moment(seconds_left=None))
    assert "best accuracy by params_ratio 0.9000 at <= 0.25, " in (out := capsys.readouterr().out)
    assert out.splitlines()[0].endswith("time left unknown yet")


def test_plain_lines_of_a_study_of_four_objectives(finished_by_four: Any, capsys: pytest.CaptureFixture[str]) -> None:
    study = autoprune.open_study("digits", finished_by_four.url)
    with progress.make_progress() as display:
        display.update(study, moment(seconds_left=None))
    line = capsys.readouterr().out.splitlines()[0]
    assert "best accuracy by macs_ratio 0.9000 at <= 0.25, " in line
    assert "hypervolume" not in line


def test_plain_lines_of_a_study_by_rmse(finished_by_rmse: Any, capsys: pytest.CaptureFixture[str]) -> None:
    study = autoprune.open_study("digits", finished_by_rmse.url)
    with progress.make_progress() as display:
        display.update(study, moment(seconds_left=None))
    line, _ = capsys.readouterr().out.splitlines()
    best = "1.000 at <= 0.25, 0.5000 at <= 0.5, 0.5000 at <= 0.75, 0.4000 at <= 1"
    assert line.split("; ")[4:6] == [f"best rmse by macs_ratio {best}", "hypervolume 0.5250"]


def test_the_live_table(finished: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    study = autoprune.open_study("digits", finished.url)
    display = progress.make_progress()
    assert isinstance(display, progress._LiveTable)
    with display:
        display.update(study, moment(seconds_left=3725.0))
        from rich.console import Console

        console = Console(width=120, no_color=True)
        with console.capture() as shown:
            console.print(display._live.renderable)
        display.interrupted()
    text = " ".join(shown.get().split())
    assert "study digits" in text
    assert "trial 6 │ slimming, global, macs_target 0.50: finetune 25%, 1,341 images/s, 1m05s left" in text
    assert "time left │ 1h02m" in text
    assert "interrupted: no new trials" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("facts", "code", "last"),
    [
        (
            {"finished": True},
            0,
            "more: autoprune pareto digits --storage URL; go on: autoprune resume digits --trials N ",
        ),
        (
            {"why": "the time limit is reached"},
            1,
            "the time limit is reached. Go on: autoprune resume digits --storage URL",
        ),
        ({"why": "interrupted", "interrupted": True}, 130, "interrupted. Go on: autoprune resume digits --storage URL"),
        ({}, 1, "incomplete. Go on: autoprune resume digits --storage URL"),
    ],
)
def test_how_a_launch_ends(
    facts: dict[str, Any], code: int, last: str, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"n_finished": 5, "n_trials": 10, "finished": False, "why": None, "interrupted": False, **facts}
    outcome = autoprune.Outcome(study=autoprune.open_study("digits", finished.url), **whole)
    assert progress.finish(outcome, "URL") == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 of 10 trials finished. The front:"
    assert len(lines) == 6
    assert lines[-1].startswith(last)
