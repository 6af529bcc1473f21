"""Signals as they come from terminals, `timeout`, Slurm and containers: to the driver alone or to its whole group."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
import sqlalchemy as sa

from autoprune.search.storage import Database, schema
from tests.processes import descendants
from tests.system.conftest import STUDY, Sandbox, is_there

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LONG_DENSE = STUDY.replace("[train.dense]\nepochs = 1", "[train.dense]\nepochs = 500")
# On a machine that does nothing else it takes about five; Ray's own patience with a server that is gone is sixty.
MOST_S = 50.0
RAW = re.compile(r"^\[|\*\*\*|Traceback|raylet|gcs|SIGTERM|core_worker|\bray::", re.MULTILINE | re.IGNORECASE)


def said(sandbox: Sandbox, words: str) -> None:
    """Wait until the driver has said something."""
    (driver,) = sandbox.running
    deadline = time.monotonic() + 480
    while words not in sandbox.output(driver):
        assert driver.poll() is None, sandbox.output(driver)
        assert time.monotonic() < deadline, sandbox.output(driver)
        time.sleep(0.1)


def reach(sandbox: Sandbox, when: str) -> None:
    """Bring a launch to where the signal is to meet it."""
    sandbox.write(n_trials=30, epochs=300, text=LONG_DENSE if when == "dense" else STUDY)
    driver = sandbox.start("launch", "study.toml")
    if when == "start":
        time.sleep(2.0)  # While it reads, or starts the cluster.
    elif when == "cluster":
        deadline = time.monotonic() + 480
        while not any("raylet" in command for command in descendants(driver.pid).values()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    elif when == "dense":
        said(sandbox, "training the dense network")
        time.sleep(3.0)
    else:
        sandbox.wait_for(lambda states: states.count("RUNNING") >= 2, timeout_s=480)
        time.sleep(5.0)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("when", "number", "to", "again_after_s"),
    [
        ("trial", signal.SIGTERM, "group", None),
        ("dense", signal.SIGINT, "group", None),
        pytest.param("trial", signal.SIGINT, "driver", None, marks=slow),
        pytest.param("trial", signal.SIGHUP, "group", 0.2, marks=slow),  # As `timeout` does: one signal.
        pytest.param("trial", signal.SIGTERM, "group", 1.5, marks=slow),
        pytest.param("dense", signal.SIGTERM, "group", None, marks=slow),
        pytest.param("cluster", signal.SIGTERM, "group", None, marks=slow),
        pytest.param("start", signal.SIGTERM, "driver", None, marks=slow),
        pytest.param("start", signal.SIGHUP, "group", 0.01, marks=slow),
    ],
)
def test_a_signal_ends_a_launch_soon_and_well(
    lone_sandbox: Sandbox, when: str, number: int, to: str, again_after_s: float | None
) -> None:
    reach(lone_sandbox, when)
    (driver,) = lone_sandbox.running
    cluster = descendants(driver.pid)
    kill = os.killpg if to == "group" else os.kill
    start = time.monotonic()
    kill(driver.pid, number)
    if again_after_s is not None:
        time.sleep(again_after_s)
        if driver.poll() is None:
            kill(driver.pid, number)
    told = f"{when}: {lone_sandbox.output(driver)}"
    assert driver.wait(timeout=MOST_S) == 130, told
    print(f"{when}, {signal.Signals(number).name} to the {to}: ended after {time.monotonic() - start:.1f} s")
    assert not RAW.search(lone_sandbox.output(driver)), lone_sandbox.output(driver)
    # A driver that leaves at once ends no server; Ray's agents look for theirs about once a minute.
    deadline = time.monotonic() + (100.0 if again_after_s == 1.5 else MOST_S)
    while any(map(is_there, cluster)):
        assert time.monotonic() < deadline, [command for pid, command in cluster.items() if is_there(pid)]
        time.sleep(0.1)
    if again_after_s == 1.5:
        return  # It has left at once; its trials are healed by whoever comes next, as after SIGKILL.
    assert "RUNNING" not in lone_sandbox.states()
    if when == "trial":
        assert "interrupted" in lone_sandbox.output(driver)
        given_back = [trial for trial in lone_sandbox.trials() if trial.state.name == "WAITING"]
        assert len(given_back) == 2
        assert {trial.user_attrs["attempt"] for trial in given_back} == {0}  # This try is not counted.
    if when == "dense":
        db = Database.open_readonly(lone_sandbox.url)
        with db.reading() as connection:
            assert connection.execute(sa.select(schema.phases)).all() == []  # Free for the next one at once.
        db.close()


@slow
def test_a_launch_under_nohup_does_not_hear_of_the_terminal(lone_sandbox: Sandbox) -> None:
    lone_sandbox.write(n_trials=2)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # Which a child inherits, as from `nohup`.
    try:
        driver = lone_sandbox.start("launch", "study.toml", "--concurrency", "1")
    finally:
        signal.signal(signal.SIGHUP, before)
    said(lone_sandbox, "training the dense network")
    os.killpg(driver.pid, signal.SIGHUP)
    assert driver.wait(timeout=240) == 0, lone_sandbox.output(driver)
    assert lone_sandbox.states() == ["COMPLETE"] * 2
