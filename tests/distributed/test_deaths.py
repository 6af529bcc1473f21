"""A worker that Ray ends because its machine ran out of memory, and what else Ray calls the loss of one."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from autoprune.distributed.deaths import deaths_of_workers_alone

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]  # Ray warns of itself.


def test_every_loss_of_a_worker_is_its_death_and_only_that() -> None:
    from ray import exceptions
    from ray.air.execution._internal.actor_manager import RayActorManager

    before, heard = RayActorManager._actor_task_failed, list[Exception]()
    mine = exceptions.RayTaskError("train", "its traceback", ValueError("of the trial"))
    dead = exceptions.RayActorError(error_msg="it died")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayActorManager, "_actor_task_failed", lambda self, task, error: heard.append(error))
        with deaths_of_workers_alone():
            lost = [exceptions.OutOfMemoryError("no memory"), exceptions.NodeDiedError("no node")]
            for error in (mine, dead, *lost, OSError("a bug")):
                RayActorManager._actor_task_failed(None, tracked_actor_task=None, exception=error)
    assert RayActorManager._actor_task_failed is before
    assert heard[:2] == [mine, dead]
    assert all(isinstance(error, exceptions.RayActorError) for error in heard[2:4])
    assert [str(error) for error in heard[2:4]] == [str(error) for error in lost]
    assert isinstance(heard[4], OSError)


_STUDY = """
[study]
name = "small"
n_trials = {n_trials}
inherit = false
[space]
methods = ["magnitude"]
[network]
architecture = "resnet_digits"
[data]
source = "digits"
[train.dense]
epochs = 1
[train.finetune]
epochs = {epochs}
"""
_EATER = """
import sys, time
held = bytearray(int(sys.argv[1]))
for i in range(0, len(held), 4096):
    held[i] = 1
time.sleep(float(sys.argv[2]))
"""


def _memory() -> tuple[float, float]:
    """Bytes of this machine, and those of them that are taken."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, left = (float(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, total - left


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_trials_whose_machine_runs_out_of_memory_are_tried_again(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "autoprune"]
    (tmp_path / "study.toml").write_text(_STUDY.format(n_trials=1, epochs=300))
    subprocess.run([*command, "launch", "study.toml"], cwd=tmp_path, check=True, capture_output=True, timeout=240)
    total, taken = _memory()
    spare = 4 * 2**30  # What workers may take; what comes on top of it is too much.
    limit = {"RAY_memory_usage_threshold": str((taken + spare) / total), "RAY_memory_monitor_refresh_ms": "100"}
    with subprocess.Popen(
        [*command, "resume", "small", "--trials", "3"], cwd=tmp_path, env=os.environ | limit,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as driver:  # fmt: skip
        assert driver.stdout is not None
        for line in driver.stdout:
            if "running 2" in line:
                break
        subprocess.run([sys.executable, "-c", _EATER, str(spare), "1"], check=True, timeout=120)
        said = driver.stdout.read()
        assert driver.wait(240) == 0, said
    assert "Traceback" not in said
    with closing(sqlite3.connect(tmp_path / "autoprune.db")) as connection:
        reasons = connection.execute("SELECT value_json FROM trial_user_attributes WHERE key = 'reason'").fetchall()
    assert any("the worker died: out of memory" in reason for (reason,) in reasons)
