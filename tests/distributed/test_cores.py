"""Cores that are free for a launch: by affinity, by quota, by what others do, each for real."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autoprune.config import ResourcesConfig
from autoprune.distributed import Cluster, CoresWatch, Node, Slots, plan_alone, plan_slots
from autoprune.distributed.cores import Cores, cpu_quota

linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux tells")


def groups(folder: Path, mine: str, **files: str) -> dict[str, Path]:
    """Folders like those of a kernel that has this process in control groups; a name has __ for a slash."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(mine)
    for name, text in files.items():
        path = folder / "cgroups" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"proc": folder / "proc", "cgroups": folder / "cgroups"}


@pytest.mark.parametrize(
    ("mine", "files", "quota"),
    [
        # Version 2: a group's own limit and those of all above count; a container sees the mount as its group.
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
        ("0::/user/mine\n", {"user__mine__cpu.max": "400000 100000\n", "user__cpu.max": "200000 100000\n"}, 2.0),
        ("0::/user/mine\n", {"user__mine__cpu.max": "50000 100000\n", "user__cpu.max": "max 100000\n"}, 0.5),
        ("0::/user/mine\n", {}, math.inf),
        ("0::/user/mine\n", {"user__mine__cpu.max": "garbage\n"}, math.inf),
        # Version 1, whose folder is named like its controllers or has a link for each.
        (
            "12:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n",
            {"cpu,cpuacct__cpu.cfs_quota_us": "300000\n", "cpu,cpuacct__cpu.cfs_period_us": "100000\n"},
            3.0,
        ),
        (
            "4:cpu,cpuacct:/docker/a\n",
            {"cpu__docker__a__cpu.cfs_quota_us": "50000\n", "cpu__docker__a__cpu.cfs_period_us": "200000\n"},
            0.25,
        ),
        ("4:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}, math.inf),
        ("4:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1\n"}, math.inf),
        ("7:cpuset:/\n", {"cpuset__cpu.cfs_quota_us": "1000\n", "cpuset__cpu.cfs_period_us": "100000\n"}, math.inf),
    ],
)
def test_the_quota_of_a_container(tmp_path: Path, mine: str, files: dict[str, str], quota: float) -> None:
    assert cpu_quota(**groups(tmp_path, mine, **files)) == quota


def test_without_control_groups_nothing_limits(tmp_path: Path) -> None:
    assert cpu_quota(proc=tmp_path, cgroups=tmp_path) == math.inf
    assert cpu_quota() > 0  # Whatever this machine has.


def test_a_quota_below_one_core_leaves_one(tmp_path: Path) -> None:
    cores = CoresWatch(**groups(tmp_path, "0::/\n", **{"cpu.max": "50000 100000"})).look()
    assert (cores.allowed, cores.free, cores.busy) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("cores", "free", "told"),
    [
        (Cores(8, 8), 8, "8 of 8 cores are free"),
        (Cores(8, 8, 0.4), 8, "8 of 8 cores are free"),
        (Cores(8, 8, 0.6), 7, "7 of 8 cores are free; others keep 0.6 busy"),
        (Cores(8, 2), 2, "2 of 8 cores are free, of which 2 may be used (affinity, quota)"),
        (Cores(2, 2, 1.9), 1, "1 of 2 cores are free; others keep 1.9 busy"),
        (Cores(1, 1, 9.0), 1, "1 of 1 cores are free"),
    ],
)
def test_what_is_free(cores: Cores, free: int, told: str) -> None:
    assert (cores.free, str(cores)) == (free, told)


def test_threads_follow_the_free_cores_and_trials_do_not() -> None:
    busy = Cluster((Node(8),), cores=Cores(8, 8, 4.0))
    assert plan_slots(busy, ResourcesConfig(cpu=4)) == Slots(2, 4, 0, 2)
    assert plan_slots(busy, ResourcesConfig()) == Slots(8, 1, 0, 1)
    assert plan_slots(busy, ResourcesConfig(concurrency=1)) == Slots(1, 1, 0, 4)
    assert plan_alone(busy, ResourcesConfig()) == Slots(1, 8, 0, 4)


SPIN = "while True: pass"


@linux
def test_a_core_that_another_process_keeps_busy_is_seen() -> None:
    """On the one core that this process may use, so that the load of other cores does not count."""
    before = os.sched_getaffinity(0)
    core = min(before)
    os.sched_setaffinity(0, {core})
    try:
        spinner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.2)
            watch = CoresWatch()
            time.sleep(0.8)
            cores = watch.look()
        finally:
            spinner.kill()
            spinner.wait()
    finally:
        os.sched_setaffinity(0, before)
    assert (cores.allowed, cores.free) == (1, 1)
    assert cores.busy > 0.5


@linux
def test_neither_what_this_process_does_nor_what_is_nicer_is_others_doing(tmp_path: Path) -> None:
    places, cores = groups(tmp_path, "0::/\n"), sorted(os.sched_getaffinity(0))
    stat, ticks = tmp_path / "proc" / "stat", os.sysconf("SC_CLK_TCK")
    line = "cpu{} {} {} 300 7 7 0 0 0 0 0\n"  # user, nice, system, idle, waiting, ...
    stat.write_text("cpu 9 9 9 9\n" + "".join(line.format(core, 500, 100) for core in cores) + "intr 5\n")
    watch, start, used = CoresWatch(**places), time.monotonic(), time.process_time()
    while time.process_time() - used < 0.3:
        pass
    passed, worked = time.monotonic() - start, time.process_time() - used
    news = round((0.75 * passed + worked) * ticks)
    stat.write_text(line.format(cores[0], 500 + news, 9_999) + "".join(line.format(c, 500, 100) for c in cores[1:]))
    assert watch.look().busy == pytest.approx(0.75, abs=0.2)


PRINT = """
import json, os
from autoprune.config import ResourcesConfig
from autoprune.distributed import open_cluster, plan_alone, plan_slots, run_once
with open_cluster() as cluster:
    slots = plan_slots(cluster, ResourcesConfig())
    worker = run_once(
        lambda: {"nice": os.getpriority(os.PRIO_PROCESS, 0), "tunables": os.environ["GLIBC_TUNABLES"]},
        slots=slots,
        go_on=lambda: True,
    )
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0", "what this process has is its own"
    print(json.dumps({"cpus": cluster.nodes[0].cpus, "trials": slots.concurrency, "threads": slots.threads, **worker}))
"""


@linux
@pytest.mark.ray
@pytest.mark.skipif(shutil.which("taskset") is None, reason="there is no taskset")
def test_a_pinned_launch_counts_its_own_cores_and_its_workers_have_its_priority_and_memory_for_training() -> None:
    core = str(min(os.sched_getaffinity(0)))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment["GLIBC_TUNABLES"] = "glibc.malloc.check=0"
    done = subprocess.run(
        ["taskset", "-c", core, "nice", "-n", "2", sys.executable, "-c", PRINT],
        capture_output=True, text=True, check=True, timeout=120, env=environment,
    )  # fmt: skip
    expected = {"cpus": 1.0, "trials": 1, "threads": 1, "nice": os.getpriority(os.PRIO_PROCESS, 0) + 2}
    expected["tunables"] = "glibc.malloc.check=0:glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    assert json.loads(done.stdout.splitlines()[-1]) == expected
