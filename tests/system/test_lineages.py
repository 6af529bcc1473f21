"""A study whose trials start from each other's networks: killed, taken up, ended by its time, scored."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import autoprune
from tests.system.conftest import STUDY

pytestmark = pytest.mark.ray

LINEAGES = STUDY.replace("n_trials = {n_trials}\n", "inherit = true\nleast_epochs = 0.5\n")
LINEAGES = LINEAGES.replace('methods = ["magnitude", "slimming"]', 'methods = ["magnitude"]\nwidth_rules = ["global"]')
LINEAGES = LINEAGES.replace("epochs = {epochs}", "epochs = {epochs}\ndistill = {{ views = 2 }}")


def test_a_time_limit_alone_ends_a_study_and_loses_nothing(sandbox: Any) -> None:
    sandbox.write(n_trials=0, text=LINEAGES)
    assert sandbox.running == []
    driver = sandbox.start("launch", "study.toml", "--time-limit", "60s", "--concurrency", "1")
    sandbox.wait_for(lambda states: states.count("COMPLETE") >= 3 and "RUNNING" in states)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    told = sandbox.run("launch", "study.toml", "--time-limit", "35s", "--concurrency", "1")
    assert "images trained a second, measured:" in told
    assert "as many trials as fit" in told
    trials = sandbox.trials()
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "FAIL"}
    by_number = {trial.number: trial for trial in trials}
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    children = [trial for trial in complete if "parent" in trial.user_attrs]
    assert len(children) >= 2
    for child in children:
        parent = by_number[child.user_attrs["parent"]].user_attrs
        assert child.user_attrs["started_from"] == child.user_attrs["parent"]
        assert child.user_attrs["parent_sha256"] == parent["sha256"]
        assert child.user_attrs["macs_ratio"] <= parent["macs_ratio"]
    assert (
        len(list((sandbox.folder / "autoprune_artifacts" / "phases").glob("teacher-*.safetensors"))) == 1
    )  # unaugmented

    with autoprune.open_study("tiny", sandbox.url) as study:
        front = study.front()
        deepest = front.loc[front["depth"].idxmax()]
        assert deepest["depth"] >= 1
        own = {trial.number: trial.user_attrs["images"] for trial in complete}
        number, images = int(deepest["number"]), 0
        while True:
            images += own[number]
            if "parent" not in by_number[number].user_attrs:
                break
            number = by_number[number].user_attrs["parent"]
        assert deepest["lineage_images"] == images
        shown = study.trial(int(deepest["number"]))
    assert shown["lineage"].splitlines()[0] == "the dense network"
    assert len(shown["lineage"].splitlines()) == deepest["depth"] + 2
    assert Path(deepest["weights"]).is_file()
    # The whole lineage is made again, and scored.
    told = sandbox.run("evaluate", "tiny", "--seeds", "1", "--concurrency", "1")
    assert "1 fine-tuning, on the test split" in told
