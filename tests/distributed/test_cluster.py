from __future__ import annotations

import os
import socket
import time

import pytest

from autoprune.config import ResourcesConfig
from autoprune.distributed import Cluster, Node, Slots, open_cluster, plan_alone, plan_slots
from autoprune.distributed.cluster import _leave_telling_to_us, _memory_for_training
from autoprune.errors import ConfigError


def of(*nodes: Node, is_idle: bool = True) -> Cluster:
    return Cluster(nodes, is_idle)


@pytest.mark.parametrize(
    ("cluster", "resources", "slots"),
    [
        (of(Node(2)), ResourcesConfig(), Slots(2, 1, 0, 1)),
        (of(Node(16)), ResourcesConfig(cpu=4), Slots(4, 4, 0, 4)),
        (of(Node(16)), ResourcesConfig(concurrency=2), Slots(2, 1, 0, 8)),
        (of(Node(16, 2)), ResourcesConfig(gpu=0.5), Slots(4, 1, 0.5, 4)),
        # Three shares of 0.4 would fit on one device by their sum, but not two of them on each without a rest.
        (of(Node(16, 2)), ResourcesConfig(gpu=0.4), Slots(4, 1, 0.4, 4)),
        (of(Node(2, 8)), ResourcesConfig(gpu=1), Slots(2, 1, 1, 1)),
        (of(Node(16, 6)), ResourcesConfig(gpu=4), Slots(1, 1, 4, 16)),
        (of(Node(16, 8), Node(16, 3)), ResourcesConfig(gpu=4, cpu=2), Slots(2, 2, 4, 8)),
        (of(Node(1)), ResourcesConfig(cpu=0.5, concurrency=9), Slots(2, 0.5, 0, 1)),
        (of(Node(16, 0, 10**10)), ResourcesConfig(memory_gb=3), Slots(3, 1, 0, 5, 3 * 10**9)),
        # By their sums, six trials of two CPUs would fit on these three, but the last has only half of one to spare.
        (of(Node(8), Node(3), Node(1)), ResourcesConfig(cpu=2), Slots(5, 2, 0, 2)),
        # GPUs, CPUs and memory must be on the same machine.
        (
            of(Node(64), Node(4, 1, 8e9), Node(4, 1, 1e9)),
            ResourcesConfig(gpu=0.5, memory_gb=2),
            Slots(2, 1, 0.5, 2, 2 * 10**9),
        ),
        # Ray may place both on the smaller machine.
        (of(Node(16), Node(4)), ResourcesConfig(concurrency=2), Slots(2, 1, 0, 2)),
    ],
)  # fmt: skip
def test_trials_share_the_cluster(cluster, resources, slots):
    assert plan_slots(cluster, resources) == slots


@pytest.mark.parametrize("resources", [ResourcesConfig(cpu=4), ResourcesConfig(gpu=0.5), ResourcesConfig(memory_gb=5)])
def test_a_trial_that_fits_nowhere_is_refused(resources):
    asked = rf"{resources.cpu:g} CPUs, {resources.gpu:g} GPUs{' and 5 GB' if resources.memory_gb else ''}"
    there = r"2 CPUs, 0 GPUs and 4.0 GB; 3 CPUs, 0 GPUs and 4.0 GB\. Lower `cpu`, `gpu` or `memory_gb` in \[resources\]"
    with pytest.raises(
        ConfigError, match=rf"one trial must fit on one machine .*, but it asks for {asked} where there are {there}"
    ):
        plan_slots(of(Node(2, 0, 4e9), Node(2, 0, 4e9), Node(3, 0, 4e9)), resources)


def test_what_runs_alone_takes_the_largest_machine_that_a_trial_fits_on():
    two = of(Node(64), Node(8, 2), Node(4, 2))
    assert plan_alone(two, ResourcesConfig(gpu=0.5, memory_gb=1)) == Slots(1, 8, 1, 8, 10**9)
    assert plan_alone(of(Node(8, 4)), ResourcesConfig(gpu=2)) == Slots(1, 8, 2, 8)
    assert plan_alone(two, ResourcesConfig()) == Slots(1, 64, 0, 64)
    # A cluster where others work may never have a whole machine free.
    assert plan_alone(of(Node(8), is_idle=False), ResourcesConfig(cpu=2)) == Slots(1, 2, 0, 2)


@pytest.mark.parametrize(
    ("before", "inside"),
    [
        (None, "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"),
        ("glibc.malloc.check=3", "glibc.malloc.check=3:glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0:glibc.malloc.arena_max=1"),
    ],
)
def test_what_the_user_says_of_memory_for_training_holds(
    before: str | None, inside: str, monkeypatch: pytest.MonkeyPatch
):
    if before is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    with _memory_for_training():
        assert os.environ["GLIBC_TUNABLES"] == inside
    assert os.environ.get("GLIBC_TUNABLES") == before


def test_an_address_where_nothing_listens_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # Else the cluster of other tests would be taken.
    monkeypatch.setattr("ray.shutdown", lambda: None)  # Nor may it be ended: what tests share goes on.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(ConfigError, match=r"must lead to a running Ray cluster .*, but does not: nothing answers there"),
        open_cluster(address),
    ):
        pass


def test_the_environment_names_the_cluster_where_no_flag_does(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with (
        pytest.raises(ConfigError, match=r"^`RAY_ADDRESS` must be auto or HOST:PORT, but got 'ray://head:10001'"),
        open_cluster(),
    ):
        pass


def test_a_client_address_is_refused_with_the_reason():
    with (
        pytest.raises(ConfigError, match=r"must be auto or HOST:PORT, but got 'ray://head:10001'.*connection"),
        open_cluster("ray://head:10001"),
    ):
        pass


def test_what_ray_says_of_lost_nodes_stays_off_the_terminal(cluster, monkeypatch, capfd, caplog):
    import ray
    from ray._private import worker
    from ray._private.utils import publish_error_to_driver

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)  # Put back afterwards.
    told = []

    def say(what: str, *, until) -> None:
        publish_error_to_driver("node_removed", what, gcs_client=ray._private.worker.global_worker.gcs_client)
        deadline = time.monotonic() + 60
        while not until() and time.monotonic() < deadline:
            time.sleep(0.05)

    say("node 1 is dead", until=lambda: told.append(capfd.readouterr().out) or "node 1 is dead" in told[-1])
    assert "node 1 is dead" in told[-1]  # As Ray has it.
    _leave_telling_to_us()
    with caplog.at_level("INFO", logger="autoprune"):
        say("node 2 is dead", until=lambda: "node 2 is dead" in caplog.text)
    assert "node 2 is dead" in caplog.text
    assert "node 2" not in "".join(capfd.readouterr())
