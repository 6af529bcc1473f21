"""Who computes a phase that others wait for is killed: another one takes over, and nothing is computed in vain."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from autoprune.errors import AutopruneError
from autoprune.search.storage import Database, schema
from tests.system.conftest import STUDY, Sandbox

pytestmark = pytest.mark.ray

# Every trial starts from one sparsify phase, which takes longer than it takes to kill somebody.
SPACE = """[space]
methods = ["slimming"]
width_rules = ["uniform"]
macs_target = {{ low = 0.1, high = 0.9, step = 0.05 }}

[method.slimming]
strength = {{ values = [0.01] }}
form = {{ values = ["prox"] }}

"""
ONE_PHASE = STUDY[: STUDY.index("[space]")] + SPACE + STUDY[STUDY.index("[network]") :]
ONE_PHASE = ONE_PHASE.replace("epochs = 0.5", "epochs = 15").replace("lease_s = 20", "lease_s = 5")


def phases(sandbox: Sandbox, kind: str = "sparsify") -> list[Any]:
    try:
        db = Database.open_readonly(sandbox.url)
    except AutopruneError:
        return []
    try:
        with db.reading() as connection:
            return list(connection.execute(sa.select(schema.phases).where(schema.phases.c.kind == kind)))
    finally:
        db.close()


def until(sandbox: Sandbox, found: Callable[[], Any], *, timeout_s: float = 240) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := found():
            return answer
        time.sleep(0.1)
    told = "\n".join(sandbox.output(process) for process in sandbox.running)
    raise AssertionError(f"waited too long; phases are {phases(sandbox)}, trials {sandbox.states()}; output:\n{told}")


def computing(sandbox: Sandbox) -> str | None:
    """Who is at the sparsify phase: the driver's name, a slash and the trial's id."""
    owners = [row.owner for row in phases(sandbox) if row.place is None]
    return owners[0] if owners else None


def pid_of(owner: str) -> int:
    return int(owner.split("|")[1])


def trainers_of(session: int) -> list[int]:
    """Processes of that session in which a trial runs."""
    listed = subprocess.run(["ps", "-s", str(session), "-o", "pid=,args="], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "ImplicitFunc" in line]


def check_end(sandbox: Sandbox, *, n_trials: int) -> None:
    """Exactly N results, nothing that runs, one file of the one phase, published."""
    states = sandbox.states()
    assert states.count("COMPLETE") == n_trials
    assert set(states) <= {"COMPLETE", "FAIL"}
    (row,) = phases(sandbox)
    assert row.place is not None
    files = sorted(
        path.name for path in (sandbox.folder / "autoprune_artifacts" / "phases").glob("sparsify-*.safetensors")
    )
    assert files == [f"sparsify-{row.key}.safetensors"]
    keys = sandbox.keys_of_finished()
    assert len(keys) == len(set(keys)) == n_trials


def test_another_driver_takes_over_the_phase_of_a_killed_one(sandbox):
    sandbox.write(n_trials=3, text=ONE_PHASE)
    started = [sandbox.start("launch", "study.toml", "--concurrency", "1") for _ in range(2)]
    drivers = {process.pid: process for process in started}
    owner = until(sandbox, lambda: computing(sandbox))
    # The other one has claimed a trial, too, which it parks.
    until(sandbox, lambda: sandbox.states().count("RUNNING") == 2)
    assert computing(sandbox) == owner
    killed = drivers.pop(pid_of(owner))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    (survivor,) = drivers.values()
    heir = until(sandbox, lambda: (now := computing(sandbox)) != owner and now)
    assert pid_of(heir) == survivor.pid
    assert survivor.wait(timeout=300) == 0, sandbox.output(survivor)
    check_end(sandbox, n_trials=3)
    (lost,) = [trial for trial in sandbox.trials() if trial.state.name == "FAIL"]
    assert "expired: no sign of life" in lost.user_attrs["reason"]


@pytest.mark.slow
def test_a_parked_trial_takes_over_the_phase_of_a_killed_worker(sandbox, nodes):
    sandbox.write(n_trials=5, text=ONE_PHASE)
    driver = sandbox.start("launch", "study.toml", "--concurrency", "2")
    owner = until(sandbox, lambda: computing(sandbox))
    # One computes, two are parked: as many as may run at once.
    until(sandbox, lambda: sandbox.states().count("RUNNING") == 3)
    (worker,) = until(sandbox, lambda: trainers_of(nodes.pids[0]))
    assert computing(sandbox) == owner
    os.kill(worker, signal.SIGKILL)
    heir = until(sandbox, lambda: (now := computing(sandbox)) != owner and now)
    assert pid_of(heir) == pid_of(owner) == driver.pid
    assert driver.wait(timeout=300) == 0, sandbox.output(driver)
    check_end(sandbox, n_trials=5)
    (lost,) = [trial for trial in sandbox.trials() if trial.state.name == "FAIL"]
    assert "the worker died" in lost.user_attrs["reason"]
    assert str(lost._trial_id) == owner.split("/")[-1]
