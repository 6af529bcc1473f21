from __future__ import annotations

import os
import signal
import time

import pytest

from tests.processes import descendants
from tests.system.conftest import is_there

pytestmark = pytest.mark.ray


def n_finished(states):
    return sum(state in ("COMPLETE", "PRUNED") for state in states)


def workers_of(driver):
    """Processes of its cluster that train."""
    return [pid for pid, command in descendants(driver.pid).items() if "ImplicitFunc" in command]


def test_a_killed_driver_loses_nothing(lone_sandbox):
    lone_sandbox.write(n_trials=8)
    first = lone_sandbox.start("launch", "study.toml")
    lone_sandbox.wait_for(lambda states: n_finished(states) >= 3 and "RUNNING" in states)
    workers = workers_of(first)
    assert workers
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    before = lone_sandbox.states()
    assert "RUNNING" in before
    assert n_finished(before) < 8
    # Workers must not go on training for nobody.
    deadline = time.monotonic() + 30
    while any(map(is_there, workers)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(is_there, workers))
    told = lone_sandbox.run("resume", "tiny")
    assert "8 of 8 trials finished" in told
    states = lone_sandbox.states()
    assert n_finished(states) == 8
    assert set(states) <= {"COMPLETE", "FAIL"}
    keys = lone_sandbox.keys_of_finished()
    assert len(keys) == len(set(keys)) == 8
    # A relaunch of a finished study runs nothing.
    assert "8 of 8 trials finished" in lone_sandbox.run("launch", "study.toml")
    assert lone_sandbox.states() == states


def test_two_drivers_on_one_database_finish_exactly_n(lone_sandbox):
    lone_sandbox.write(n_trials=9)
    drivers = [lone_sandbox.start("launch", "study.toml", "--concurrency", "1") for _ in range(2)]
    for driver in drivers:
        assert driver.wait(timeout=300) == 0, lone_sandbox.output(driver)
    states = lone_sandbox.states()
    assert states == ["COMPLETE"] * 9
    assert len(set(lone_sandbox.keys_of_finished())) == 9
    # The dense network was trained by one of them alone.
    outputs = [lone_sandbox.output(driver) for driver in drivers]
    assert sum("training the dense network" in output for output in outputs) == 1


def test_ctrl_c_and_stop_wind_down_and_resume_raises_n(sandbox):
    sandbox.write(n_trials=30)
    first = sandbox.start("launch", "study.toml")
    sandbox.wait_for(lambda states: n_finished(states) >= 2)
    os.kill(first.pid, signal.SIGINT)
    assert first.wait(timeout=60) == 130, sandbox.output(first)
    assert "autoprune resume tiny" in sandbox.output(first)
    states = sandbox.states()
    assert "RUNNING" not in states
    done = n_finished(states)

    second = sandbox.start("resume", "tiny")
    sandbox.wait_for(lambda states: n_finished(states) >= done + 2)
    assert "asked the driver" in sandbox.run("stop", "tiny")
    assert second.wait(timeout=60) == 1, sandbox.output(second)
    assert "stopped from another terminal" in sandbox.output(second)
    states = sandbox.states()
    assert "RUNNING" not in states

    wanted = n_finished(states) + 2
    assert f"{wanted} of {wanted} trials finished" in sandbox.run("resume", "tiny", "--trials", str(wanted))
    assert n_finished(sandbox.states()) == wanted


@pytest.mark.slow
def test_a_time_limit_shortens_what_would_not_end_in_time(sandbox):
    sandbox.write(n_trials=30, epochs=200)
    # Until it is long enough for this machine to train the dense network and to prune one.
    for limit in ("15s", "30s", "60s", "120s"):
        told = sandbox.run("launch", "study.toml", "--time-limit", limit, "--concurrency", "1", code=1)
        assert "the time limit is reached" in told
        states = sandbox.states()
        assert "RUNNING" not in states
        trained = [trial.user_attrs["images"] for trial in sandbox.trials() if trial.user_attrs.get("images")]
        if trained:
            break
    assert trained
    assert trained[-1] < 200 * 1000  # Of more than 1,000 images.
    assert trained[-1] % 128 == 0


def test_a_broken_trainable_ends_the_study_with_its_first_error(sandbox):
    (sandbox.folder / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    calls = 0\n"  # What is tried when a study is opened goes well.
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(1, 8, 3, padding=1)\n"
        "        self.bn = torch.nn.BatchNorm2d(8)\n"
        "        self.fc = torch.nn.Linear(8, 10)\n"
        "    def forward(self, x):\n"
        "        if self.training and self.conv.out_channels < 8:\n"
        "            Net.calls += 1\n"
        "            if Net.calls > 5:\n"
        "                raise RuntimeError('broken in training')\n"
        "        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))\n"
    )
    sandbox.write(n_trials=9)
    file = sandbox.folder / "study.toml"
    file.write_text(file.read_text().replace('architecture = "resnet_digits"', 'factory = "mine:Net"'))
    told = sandbox.run("launch", "study.toml", code=1)
    assert "3 of them in a row" in told
    assert "broken in training" in told
    assert "Traceback" not in told
    states = sandbox.states()
    assert states[0] == "COMPLETE"  # The dense network has nothing to train.
    assert states.count("FAIL") >= 3
    assert "RUNNING" not in states
    assert "broken in training" in sandbox.run("status", "tiny")
