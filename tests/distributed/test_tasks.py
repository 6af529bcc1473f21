"""Single tasks on a real cluster: all of them, in order, no more at once than there are slots."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from autoprune.distributed import Cluster, Slots, run_each, run_once
from autoprune.errors import ConfigError, WorkerDiedError

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]  # Ray warns of itself.

TWO = Slots(concurrency=2, cpu=1, gpu=0, threads=1)


class Heard:
    """What `run_each` told, and how long it may go on."""

    def __init__(self, *, until: int = 10**9) -> None:
        self.until = until
        self.done: dict[Any, dict[str, Any]] = {}
        self.failed: dict[Any, Exception] = {}

    def listen(self) -> dict[str, Any]:
        return {
            "go_on": lambda: len(self.done) < self.until,
            "on_done": self.done.__setitem__,
            "on_failed": self.failed.__setitem__,
        }


def test_each_job_is_worked_on_once_whatever_becomes_of_the_others(cluster: Cluster) -> None:
    def work(job: int) -> dict[str, Any]:
        if job == 1:
            raise ConfigError("no such luck")
        if job == 3:
            os._exit(1)
        return {"square": job * job}

    heard = Heard()
    run_each(range(5), work, slots=TWO, **heard.listen())
    assert heard.done == {0: {"square": 0}, 2: {"square": 4}, 4: {"square": 16}}
    assert set(heard.failed) == {1, 3}
    assert isinstance(heard.failed[1], ConfigError)
    assert str(heard.failed[1]) == "no such luck"
    assert isinstance(heard.failed[3], WorkerDiedError)
    assert "worker died unexpectedly" in str(heard.failed[3])


def test_no_jobs(cluster: Cluster) -> None:
    heard = Heard()
    run_each([], lambda job: {}, slots=TWO, **heard.listen())
    assert (heard.done, heard.failed) == ({}, {})


@pytest.mark.parametrize("concurrency", [1, 2])
def test_no_more_at_once_than_there_are_slots(concurrency: int, cluster: Cluster, tmp_path: Path) -> None:
    def work(job: int) -> dict[str, Any]:
        mine = tmp_path / str(job)
        mine.touch()
        started = time.monotonic()
        while len(list(tmp_path.iterdir())) < concurrency and time.monotonic() < started + 30:
            time.sleep(0.05)  # A worker takes a while to start.
        time.sleep(0.3)
        others = len(list(tmp_path.iterdir()))
        mine.unlink()
        return {"at once": others}

    heard = Heard()
    run_each(range(4), work, slots=Slots(concurrency, cpu=0.5, gpu=0, threads=1), **heard.listen())
    assert max(result["at once"] for result in heard.done.values()) == concurrency
    assert list(heard.done) == [0, 1, 2, 3] or concurrency == 2


def test_what_is_under_way_is_cancelled_at_the_end(cluster: Cluster, tmp_path: Path) -> None:
    def work(job: int) -> dict[str, Any]:
        if job:
            time.sleep(2)
            (tmp_path / "too late").touch()
        return {}

    heard = Heard(until=1)
    run_each([0, 1, 2], work, slots=TWO, **heard.listen())
    assert list(heard.done) == [0]
    time.sleep(3)
    assert not (tmp_path / "too late").exists()


def test_an_error_of_the_listener_is_not_swallowed(cluster: Cluster) -> None:
    def refuse(job: int, result: dict[str, Any]) -> None:
        raise OSError("the disk is full")

    listening = Heard().listen() | {"on_done": refuse}
    with pytest.raises(OSError, match="the disk is full"):
        run_each([0, 1], lambda job: {}, slots=TWO, **listening)


def test_a_single_task_returns_raises_and_is_cancelled(cluster: Cluster) -> None:
    slots = Slots(1, 1, 0, 1)
    assert run_once(lambda: {"x": 1}, slots=slots, go_on=lambda: True) == {"x": 1}

    def bad() -> dict[str, Any]:
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        run_once(bad, slots=slots, go_on=lambda: True)
    assert run_once(lambda: time.sleep(60) or {}, slots=slots, go_on=lambda: False) is None
    assert run_once(lambda: {"y": [1, 2]}, slots=slots, go_on=lambda: True) == {"y": [1, 2]}


def test_a_single_task_takes_what_it_is_given(cluster: Cluster) -> None:
    def taken() -> dict[str, Any]:
        import ray

        return dict(ray.get_runtime_context().get_assigned_resources())

    got = run_once(taken, slots=Slots(1, 2, 0.5, 2, 10**8), go_on=lambda: True)
    assert got == {"CPU": 2, "GPU": 0.5, "memory": 10**8}


def test_a_single_task_whose_workers_die(cluster: Cluster, tmp_path: Path) -> None:
    def die() -> dict[str, Any]:
        (tmp_path / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    with pytest.raises(WorkerDiedError, match=r"^a worker must live until its task is done, but it died twice: killed"):
        run_once(die, slots=TWO, go_on=lambda: True)
    assert len(list(tmp_path.iterdir())) == 2  # It was tried again, on another worker.
