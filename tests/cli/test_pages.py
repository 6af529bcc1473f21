"""`show` and `status` as people read them."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune.api import DriverStatus, RunningStatus, Status
from autoprune.cli import pages, status_page, trial_page
from autoprune.cli.pages import Row, Section
from autoprune.cli.wording import bar, command
from autoprune.config import ACCURACY, duration_text
from autoprune.search.storage import Counts, Database, StudyHandle
from autoprune.search.trials import Lifecycle

Run = Callable[..., Any]

FACTS = {
    "trial": 17, "state": "COMPLETE", "accuracy": 0.97124, "macs_ratio": 0.5, "macs": 381_760, "params": 40_000,
    "dense_macs": 763_520, "dense_params": 80_000, "latency_ms": 2.5, "latency_ratio": 0.612,
    "point": {
        "method": "slimming", "width_rule": "per_stage", "macs_target": 0.5, "hyper": {"strength": 0.001},
        "shape": {"stage1": 1.5}, "parent": 3, "epochs": 2.5, "recipe": {"learning_rate": 0.05},
    },
    "why": "0.5 of the MACs, from trial 3", "parent": 3, "started_from": 3, "retry_of": 12,
    "lineage": "the dense network\n-> trial 3: 0.700 of the MACs, accuracy 0.9800\n  -> trial 17: 0.500 of the MACs",
    "rungs": {"0": 0.5, "2": 0.97124, "1": 0.9}, "test_accuracy": 0.968, "test_sd": 0.002, "test_seeds": 3,
    "widths": {"conv1": 16, "layer1.0.conv1": 1}, "dense_widths": {"conv1": 16, "layer1.0.conv1": 64},
    "started": "2026-11-30 23:58:01", "ended": "2026-12-01 00:01:13", "duration_s": 192.4, "host": "alpha",
    "images": 12_345, "lineage_images": 34_567, "wall_s": {"dense": 0.01, "sparsify": 71.6, "finetune": 110.0},
    "differences": {"surgery": 1.64e-07},
    "device_hours": 0.0504, "device": "GPU", "weights": "/a/17.safetensors", "has_network": True,
}  # fmt: skip


GONE = "the network of trial 3 was gone; it started from"
MET = "which had come to the same network"


def shown(facts: dict[str, Any]) -> dict[str, list[tuple[str, str]]]:
    found = trial_page.sections(facts, study="digits", metric=ACCURACY, storage=None)
    return {section.title: [(row.label, row.text) for row in section.rows] for section in found if section.rows}


def test_a_complete_trial() -> None:
    page = shown(FACTS)
    assert page["what it is"] == [
        ("method", "slimming with strength=0.001"),
        ("width rule", "per_stage with stage1=1.5"),
        ("MACs target", "at most 50.0 % of the dense network's"),
        ("fine-tuning", "epochs=2.5, learning_rate=0.05"),
        ("why", "0.5 of the MACs, from trial 3"),
    ]
    assert page["where it comes from"] == [("lineage", FACTS["lineage"]), ("another try of", "trial 12")]
    assert page["how it scored"] == [
        ("validation", "accuracy 0.9712"),
        ("at rungs", "0: 0.5000, 1: 0.9000, 2: 0.9712"),
        ("test", "accuracy 0.9680 ± 0.0020 (3 fine-tunings)"),
    ]
    assert page["its network"] == [
        ("MACs", "381,760 of 763,520, 50.0 %"),
        ("parameters", "40,000 of 80,000, 50.0 %"),
        ("latency", "2.5 ms for a batch, 61.2 % of the dense network's"),
        ("checked", "its outputs equal those of the masked dense network to 2e-07 of the largest"),
    ]
    assert page["channels kept"] == [
        ("conv1", "█" * 30 + " 16 of 16"),
        ("layer1.0.conv1", "█" + "░" * 29 + "  1 of 64"),
    ]
    assert page["what it took"] == [
        ("when", "2026-11-30 23:58:01 to 2026-12-01 00:01:13, 3 min 12 s"),
        ("where", "alpha"),
        ("phases", "sparsify 1 min 12 s, finetune 1 min 50 s"),
        ("images", "12,345; with those that it comes from 34,567"),
        ("device", "0.05 GPU hours"),
    ]
    assert page["its file"][1] == ("", "autoprune export digits 17 --to digits-17.safetensors")


@pytest.mark.parametrize(
    ("changes", "section", "row"),
    [
        ({"state": "FAIL", "reason": "the loss became nan"}, "why it failed", ("", "It was not tried again.")),
        ({"state": "FAIL", "tried again as": [18, 19]}, "how it ended", ("", "It was tried again as trials 18, 19.")),
        ({"state": "PRUNED", "stop_reason": "behind others"}, "how it ended", ("", "behind others")),
        ({"started_from": 1}, "where it comes from", ("but", f"{GONE} that of trial 1")),
        ({"started_from": None}, "where it comes from", ("but", f"{GONE} the dense network")),
        ({"taken_over_from": 4}, "where it comes from", ("result", f"that of trial 4, {MET}")),
        ({"test_seeds": 1, "test_sd": None}, "how it scored", ("test", "accuracy 0.9680 (1 fine-tuning)")),
    ],
)  # fmt: skip
def test_other_ends_and_origins(changes: dict[str, Any], section: str, row: tuple[str, str]) -> None:
    assert row in shown({**FACTS, **changes})[section]


def test_a_network_that_was_dropped_is_not_to_be_exported() -> None:
    rows = shown({**FACTS, "has_network": False})["its file"]
    assert rows[1][1].startswith("It is not there (any more, or on this machine)")
    assert not any("export" in text for _, text in rows)


def test_a_trial_about_which_next_to_nothing_is_known() -> None:
    assert shown({"trial": 0, "state": "WAITING"}) == {"what it is": [("", "It was not proposed by autoprune.")]}


def test_pages_of_studies_fit_in_80_columns(run: Run, finished: Any) -> None:
    for number in range(7):
        out = run("show", "digits", number, "--storage", finished.url).out
        assert out.startswith(f"trial {number} of study 'digits': ")
        lines = [line for line in out.splitlines() if "autoprune" not in line]
        assert max(map(len, lines)) <= 80
    assert run("show", "digits", 6, "--storage", finished.url).out.startswith("trial 6 of study 'digits': running\n")


def test_long_names_of_groups_shorten_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    name = "encoder.layers.encoder_layer_11.mlp.linear_1"
    trial = {**FACTS, "widths": {name: 1024}, "dense_widths": {name: 3072}}
    found = trial_page.sections(trial, study="s", metric=ACCURACY, storage=None)
    pages.print_page("", [section for section in found if section.title == "channels kept"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if name in line)
    assert len(line) == 80
    assert line.endswith("░ 1024 of 3072")


def test_a_page_in_a_pipe_and_on_a_terminal(finished: Any) -> None:
    arguments = [sys.executable, "-m", "autoprune", "show", "digits", "1", "--storage", finished.url]
    ours = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    ours.pop("NO_COLOR", None)
    piped = subprocess.run(arguments, capture_output=True, text=True, check=True, env=ours).stdout
    assert "\x1b" not in piped
    main, worker = pty.openpty()
    process = subprocess.Popen(arguments, stdout=worker, env=ours)
    os.close(worker)
    drawn = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # How Linux tells that the other end is closed.
            break
        if not part:
            break
        drawn += part
    os.close(main)
    assert process.wait(timeout=60) == 0
    assert b"\x1b[1;36mwhat it is\x1b[0m" in drawn
    plain = re.sub(r"\x1b\[[\d;]*m", "", drawn.decode()).replace("\r\n", "\n")
    assert plain == piped


def test_bars_where_the_output_knows_ascii_only(finished: Any) -> None:
    arguments = [sys.executable, "-m", "autoprune", "status", "digits", "--storage", finished.url]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    told = subprocess.run(arguments, capture_output=True, check=True, env=environment).stdout.decode("ascii")
    assert "done         ####################.................... 50.0 %" in told


# The state of a study

COUNTS = Counts(waiting=0, running=0, complete=0, pruned=0, failed=0)
DRIVER = DriverStatus("alpha", 7, "at work", 3.2, ())


def state(status: Status) -> dict[str, list[tuple[str, str]]]:
    found = status_page.sections(status, study="digits", metric=ACCURACY, cost="macs_ratio", storage="sqlite:///x.db")
    return {section.title: [(row.label, row.text) for row in section.rows] for section in found if section.rows}


def test_a_study_that_never_ran() -> None:
    rows = dict(state(Status(10, 1, COUNTS, (), ()))["progress"])
    assert rows["end"] == "not in sight: no driver is at work"
    assert rows["to go on"] == "autoprune resume digits --storage sqlite:///x.db"
    assert rows["last result"] == "no trial has begun yet"
    assert "pace" not in rows


def test_the_end_of_a_study() -> None:
    counts = dataclasses.replace(COUNTS, complete=4)
    at_work = Status(10, 1, counts, (DRIVER,), ())

    def end(status: Status) -> str:
        return dict(state(status)["progress"])["end"]

    assert end(at_work) == "unknown yet: too few trials of these drivers have finished to tell a pace"
    paced = dataclasses.replace(at_work, per_hour=60.0, seconds_left=360.0)
    in_time = time.strftime("%H:%M", time.localtime(time.time() + 360))
    assert end(paced).startswith("in about 6 min, ")
    assert end(paced).split(", ")[1] >= in_time or in_time == "23:59"
    assert end(dataclasses.replace(at_work, n_trials=1_000_000)) == "at the time limit of its driver"
    done = Status(4, 1, counts, (), ())
    assert end(done) == "all trials have finished"
    assert dict(state(done)["progress"])["to go on"] == "autoprune resume digits --trials N --storage sqlite:///x.db"


def test_who_runs_what() -> None:
    running = (
        RunningStatus(3, "slimming, global, macs_target 0.40", 192.0, 2, 0.9),
        RunningStatus(4, "l1", None, None, None, "finetune", 0.25, 1341.4, 65.0),
    )
    drivers = (dataclasses.replace(DRIVER, trials=(3,)), dataclasses.replace(DRIVER, state="lost", pid=8, trials=(4,)))
    status = Status(10, 1, COUNTS, drivers, (), running=running, waiting=((6, 5), (9, None)))
    assert state(status)["who runs what"] == [
        ("", "at work: alpha, process 7, last seen 3.2 s ago: trial 3"),
        ("", "  trial 3 for 3 min 12 s: slimming, global, macs_target 0.40; rung 2, accuracy 0.9000"),
        ("", "lost: alpha, process 8, last seen 3.2 s ago: trial 4"),
        ("", "  trial 4: l1; no rung yet; finetune 25%, 1,341 images/s, 1 min 5 s left"),
    ]
    assert state(status)["waiting for another try"] == [("", "trial 6, in place of trial 5"), ("", "trial 9")]


def test_failures_are_grouped_by_their_reasons() -> None:
    failures = (
        (1, "lease of a|12 expired: no sign of life for 60 s"), (2, "the loss became nan\nat step 7"),
        (4, "lease of a|345 expired: no sign of life for 60 s"), (5, "odd"),
    )  # fmt: skip
    status = Status(10, 1, COUNTS, (), failures, retried=frozenset({1, 2}))
    assert state(status)["failed, interrupted or lost"] == [
        ("", "2 times, trials 1, 4 (1 tried again): lease of a|12 expired: no sign of life for 60 s"),
        ("", "trial 2 (tried again): the loss became nan ..."),
        ("", "trial 5: odd"),
    ]


def test_the_state_of_a_study_for_programs(run: Run, finished: Any) -> None:
    facts = json.loads(run("status", "digits", "--storage", finished.url, "--format", "json").out)
    assert (facts["study"], facts["n_trials"], facts["counts"]["complete"]) == ("digits", 10, 4)
    assert facts["best"] == {"number": 0, "score": 0.98, "cost": 1.0}
    assert (facts["cheapest"]["number"], facts["n_front"]) == (2, 3)
    assert facts["hypervolume"] == pytest.approx(0.71)
    assert facts["per_hour"] > 0
    assert facts["seconds_left"] == pytest.approx(5 / facts["per_hour"] * 3600)
    assert facts["running"][0]["number"] == 6
    assert facts["running"][0]["since_s"] >= 0
    assert facts["failures"] == [[5, "the loss became nan"]]


def test_rungs_of_a_running_trial_are_seen(run: Run, finished: Any) -> None:
    db = Database.open(finished.url, create=False)
    study = StudyHandle.open(db, "digits")
    (running,) = (trial for trial in study.trials() if trial.number == 6)
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=10)
    lifecycle.reached(running._trial_id, {"0": 0.5, "1": 0.75})
    Lifecycle(study, owner="somebody else", n_trials=10).reached(running._trial_id, {"0": 0.1})
    db.close()
    out = run("status", "digits", "--storage", finished.url).out
    assert "rung 1, accuracy 0.7500" in " ".join(out.split())
    assert "  at rungs  0: 0.5000, 1: 0.7500\n" in run("show", "digits", 6, "--storage", finished.url).out


# Words


def test_words() -> None:
    durations = {0.0: "0.0 s", 0.25: "0.2 s", 12: "12 s", 59.6: "1 min", 192: "3 min 12 s", 7500: "2 h 5 min"}
    assert {seconds: duration_text(seconds) for seconds in durations} == durations
    assert [duration_text(n) for n in (3600, 86_400, 277_200)] == ["1 h", "1 d", "3 d 5 h"]
    assert command("show", "my study", 3, storage=None) == "autoprune show 'my study' 3"
    bars = [bar(share, length=4, filled="#", empty=".") for share in (0, 0.001, 0.5, 0.999, 1, 1.2)]
    assert bars == ["....", "#...", "##..", "###.", "####", "####"]


def test_what_people_copy_is_never_broken(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/" + "a" * 90
    section = Section("file", [Row("", path, is_whole=True), Row("text", "word " * 30)])
    pages.print_page("heading", [section, Section("left out", [])])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["heading", "", "file", f"        {path}"]
    assert max(len(line) for line in lines[4:]) <= 80
    assert "left out" not in lines


def test_unknown_trials_and_formats(refused: Callable[..., None], finished: Any, tmp_path: Path) -> None:
    refused("show", "digits", 7, "--storage", finished.url, told="study 'digits' has no trial 7; it has trials 0 to 6.")
    refused("show", "digits", 1, "--format", "jsn", told="there is no format 'jsn'; did you mean 'json'?")
    refused("status", "digits", "--format", "csv", told="there is no format 'csv'. Valid: json, page")
