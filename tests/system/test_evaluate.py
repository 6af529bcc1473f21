"""From a launch to test scores, with kills in between: what is left on disk, and what is not done twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import autoprune

pytestmark = pytest.mark.ray


def scores(folder: Path) -> dict[tuple[int, int], float]:
    frame = autoprune.open_study("tiny", f"sqlite:///{folder}/autoprune.db").evaluations()
    return {(row.number, row.seed): row.accuracy for row in frame.itertuples()}


def kill(process: Any) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_drivers_and_evaluations_leave_nothing_behind_and_lose_nothing(sandbox: Any) -> None:
    artifacts = sandbox.folder / "autoprune_artifacts"
    sandbox.write(n_trials=6)
    driver = sandbox.start("launch", "study.toml")
    sandbox.wait_for(lambda states: states.count("COMPLETE") >= 2 and "RUNNING" in states)
    kill(driver)
    (scratch,) = (artifacts / "ray").iterdir()
    told = sandbox.run("clean", "tiny")
    assert "scratch folders of drivers that ended: 1, " in told
    assert not scratch.exists()
    sandbox.run("resume", "tiny")

    study = autoprune.open_study("tiny", f"sqlite:///{sandbox.folder}/autoprune.db")
    front, networks = study.front(), artifacts / "trials" / "tiny"
    kept = {str(path) for path in networks.glob("*.safetensors")}
    assert set(front["weights"]) <= kept
    complete = study.trials().query("state == 'COMPLETE'")
    assert kept & set(complete["weights"]) == set(front["weights"])  # of a killed worker there may be one more
    sandbox.run("clean", "tiny")
    assert {str(path) for path in networks.glob("*.safetensors")} == set(front["weights"])

    evaluation = sandbox.start("evaluate", "tiny", "--seeds", "4")
    deadline = time.monotonic() + 240
    while not scores(sandbox.folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    kill(evaluation)
    before = scores(sandbox.folder)
    assert 1 <= len(before) < 4 * len(front)
    told = sandbox.run("evaluate", "tiny", "--seeds", "4")
    assert f"{len(before)} known, {4 * len(front) - len(before)} to be done" in told
    after = scores(sandbox.folder)
    assert set(after) == {(int(number), seed) for number in front["number"] for seed in range(4)}
    assert before.items() <= after.items()
    assert "4 fine-tunings, on the test split" in told
    assert "0 to be done" in sandbox.run("evaluate", "tiny", "--seeds", "4")
