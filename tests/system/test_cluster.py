"""A study on a real cluster: two Ray nodes, two drivers on PostgreSQL, one of which dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.ray_nodes import ray_nodes
from tests.system.conftest import STUDY, Sandbox

pytestmark = pytest.mark.ray

SHARES = """
[resources]
cpu = 0.5
gpu = 0.5
"""
LOOK = "from autoprune.distributed import open_cluster\nwith open_cluster({address!r}) as found: print(found)"


@dataclass(frozen=True)
class Machines:
    """Two Ray nodes with one CPU and one logical GPU each, and what a process needs to reach them."""

    address: str
    environment: dict[str, str]

    def look(self, address: str | None, **environment: str) -> str:
        """What `open_cluster` finds in a process of its own, or how it fails."""
        done = subprocess.run(
            [sys.executable, "-c", LOOK.format(address=address)],
            env={**os.environ, **self.environment, **environment}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with ray_nodes(2, "--num-cpus=1", "--num-gpus=1") as nodes:
        yield Machines(nodes.address, nodes.environment)


def test_two_drivers_of_which_one_is_killed_finish_exactly_n_on_both_machines(
    machines: Machines, postgres: Postgres, tmp_path: Path
) -> None:
    box = Sandbox(tmp_path, url=postgres.blank(), environment=machines.environment)
    try:
        box.write(n_trials=12, epochs=3, text=STUDY.replace("lease_s = 20", "lease_s = 5") + SHARES)
        first = box.start("launch", "study.toml", "--address", machines.address, "--concurrency", "2")
        second = box.start("launch", "study.toml", "--address", "auto", "--concurrency", "1")

        def places() -> list[tuple[str, str]]:
            return [(t.user_attrs["node"], t.user_attrs["owner"]) for t in box.trials() if t.state.name == "COMPLETE"]

        # Three trials at once, of which a machine holds two, so both machines are at work.
        box.wait_for(lambda states: len({node for node, _ in places()}) == 2 and "RUNNING" in states)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert len(places()) < 12
        assert second.wait(timeout=240) == 0, box.output(second)
        assert "12 of 12 trials finished" in box.output(second)
        assert box.states().count("COMPLETE") == 12
        assert set(box.states()) <= {"COMPLETE", "FAIL"}
        assert len(set(box.keys_of_finished())) == 12
        assert len({node for node, _ in places()}) == len({owner for _, owner in places()}) == 2
        # Both machines read and wrote one folder: what is trained once was trained once.
        outputs = [box.output(driver) for driver in (first, second)]
        assert sum("training the dense network" in output for output in outputs) == 1
        assert len(list((tmp_path / "autoprune_artifacts" / "phases").glob("dense-*.safetensors"))) == 1
        assert "0.5 GPU" in outputs[0]
    finally:
        box.end()
    # The dead driver's workers are gone.
    deadline = time.monotonic() + 30
    while "is_idle=True" not in (found := machines.look("auto")):
        assert time.monotonic() < deadline, found
    assert found.count("Node(cpus=1.0, gpus=1.0") == 2


def test_without_an_address_the_driver_keeps_to_itself(machines: Machines) -> None:
    found = machines.look(None)
    assert found.count("Node(") == 1
    assert "gpus=1.0" not in found


def test_a_trial_that_fits_on_no_machine_is_refused_though_their_sum_would_do(
    machines: Machines, tmp_path: Path
) -> None:
    box = Sandbox(tmp_path, environment=machines.environment)
    try:
        box.write(n_trials=2, text=STUDY + SHARES.replace("cpu = 0.5", "cpu = 2"))
        told = box.run("launch", "study.toml", "--address", "auto", code=2)
    finally:
        box.end()
    assert (
        "one trial must fit on one machine of the cluster, but it asks for 2 CPUs, 0.5 GPUs where there are 1 CPU"
        in told
    )
    assert not (tmp_path / "autoprune.db").exists()


def test_a_missing_token_is_told(machines: Machines, tmp_path: Path) -> None:
    told = machines.look(machines.address, RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    assert "no authentication token was found" in told
    assert (
        "One that asks for a token takes it from RAY_AUTH_TOKEN or ~/.ray/auth_token, with RAY_AUTH_MODE=token." in told
    )
