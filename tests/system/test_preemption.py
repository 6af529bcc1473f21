"""A worker's machine is taken away in mid-trial: another worker goes on where it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from autoprune.engine.files import read_checkpoint
from tests.ray_nodes import Nodes
from tests.system.conftest import Sandbox
from tests.system.test_takeover import trainers_of, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def tuned(sandbox: Sandbox, *, retry_of: int | None) -> float:
    """How much of its fine-tuning the running trial has done, as its driver tells."""
    for trial in sandbox.trials():
        told = trial.user_attrs.get("progress") or {}
        if trial.user_attrs.get("retry_of") == retry_of and told.get("phase") == "finetune":
            return float(told["progress"])
    return 0.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_another_worker_goes_on(sandbox: Sandbox, nodes: Nodes, number: int) -> None:
    sandbox.write(n_trials=1, epochs=2000)
    driver = sandbox.start("launch", "study.toml", "--concurrency", "1")
    kept = sandbox.folder / "autoprune_artifacts" / "checkpoints"

    def checkpoint() -> Path | None:
        return next(iter(kept.glob("finetune-*.checkpoint")), None)

    if number == signal.SIGKILL:  # Then what was kept half a minute ago is what there is.
        until(sandbox, checkpoint)
    until(sandbox, lambda: tuned(sandbox, retry_of=None) > 0)
    (worker,) = trainers_of(nodes.pids[0])
    os.kill(worker, number)
    path = until(sandbox, checkpoint)
    state, _ = read_checkpoint(path) or ({}, {})
    done = int(state["step"]) / int(state["n_steps"])
    assert done > 0
    again = until(sandbox, lambda: tuned(sandbox, retry_of=0))
    assert again >= done
    (lost,) = [trial for trial in sandbox.trials() if trial.state.name == "FAIL"]
    assert "the worker died" in lost.user_attrs["reason"]
    driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=60) == 130, sandbox.output(driver)
