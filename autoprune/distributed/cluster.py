"""The Ray cluster a driver uses, and how many trials fit on it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from autoprune.config import ResourcesConfig
from autoprune.distributed.cores import Cores, CoresWatch
from autoprune.distributed.seclusion import heard_here_alone
from autoprune.errors import ConfigError

__all__ = ["Cluster", "Node", "Slots", "open_cluster", "plan_alone", "plan_slots"]

_log = logging.getLogger(__name__)

# Read by Ray when it is first imported, so they are set before any import of it.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_worker_niceness": "0",  # Added to this process's own; Ray's 15 would let anything else go first.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "10",
    "RAY_task_oom_retries": "1",  # Ray's own is for ever, without a word.
    "RAY_DEDUP_LOGS": "0",  # Where workers' lines are wanted, all of them are.
    "RAY_COLOR_PREFIX": "0",  # They may go to a file.
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}
_TUNABLES = "GLIBC_TUNABLES"
_FOR_TRAINING = {"glibc.malloc.hugetlb": 1, "glibc.malloc.arena_max": 1}
_REACHABLE_S = 5.0
_OBJECT_STORE_BYTES = 100 * 2**20  # Trials exchange a few numbers; Ray would reserve a third of the memory.


@dataclass(frozen=True)
class Node:
    """One machine of the cluster, as Ray counts it.

    Args:
        cpus: Logical CPUs.
        gpus: Logical GPUs.
        memory_bytes: Memory that tasks may ask for.
    """

    cpus: float
    gpus: float = 0.0
    memory_bytes: float = math.inf

    def trials(self, resources: ResourcesConfig) -> int:
        """How many trials fit on it at once."""
        fits = self.cpus / resources.cpu
        if resources.gpu > 0:
            # A share can't straddle two devices, so shares are counted per device.
            shares = resources.gpu <= 1
            fits = min(fits, self.gpus * int(1 / resources.gpu + 1e-9) if shares else self.gpus // resources.gpu)
        if resources.memory_bytes:
            fits = min(fits, self.memory_bytes / resources.memory_bytes)
        return int(fits + 1e-9)

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs and {self.memory_bytes / 1e9:.1f} GB"


@dataclass(frozen=True)
class Cluster:
    """The machines that trials can run on.

    Args:
        nodes: All of them.
        is_idle: Whether nothing else ran there when it was opened.
        cores: Those of this machine, where the cluster was started here for this process; None where it was there.
    """

    nodes: tuple[Node, ...]
    is_idle: bool = True
    cores: Cores | None = None

    def threads(self, cpus: float) -> int:
        """Threads that find a core of their own among CPUs of a machine."""
        return int(cpus if self.cores is None else min(cpus, self.cores.free))


@dataclass(frozen=True)
class Slots:
    """How trials share the cluster.

    Args:
        concurrency: Trials at once, >= 1.
        cpu: CPUs of one trial.
        gpu: GPUs of one trial, a share of one, several or none.
        threads: Torch threads of one trial: its share of the free cores, since more than that is many times slower.
        memory_bytes: Memory of one trial, or 0 where it is not counted.
    """

    concurrency: int
    cpu: float
    gpu: float
    threads: int
    memory_bytes: int = 0


@contextmanager
def open_cluster(
    address: str | None = None, *, watch: CoresWatch | None = None, verbose: bool = False
) -> Iterator[Cluster]:
    """Use the Ray cluster at hand, the one at ``address``, or start one on this machine for as long as needed.

    Args:
        address: ``"auto"`` or ``"HOST:PORT"``; None takes ``RAY_ADDRESS``, or starts a local one where that is not set,
            unless this process has one already. Its workers have the priority of this process, unless
            ``RAY_worker_niceness`` says otherwise.
        watch: What has watched this machine's cores; None watches for a moment.
        verbose: Whether what workers print and log is printed here as well, each line with its process.

    Raises:
        ConfigError: There is no cluster at ``address``, or it is a client address.
    """
    source = "`--address`" if address is not None else "`RAY_ADDRESS`"
    address = address if address is not None else os.environ.get("RAY_ADDRESS") or None
    if address is not None and address.startswith("ray://"):
        raise ConfigError(
            f"{source} must be auto or HOST:PORT, but got {address!r}. A ray:// client dies with its connection "
            "and its trials with it; start autoprune on a machine of the cluster."
        )
    os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})
    import ray

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # A failed trial is told by us, once, without a traceback.
    ours, cores = not ray.is_initialized(), None
    try:
        if ours:
            if address is None:
                cores = (watch or CoresWatch()).look()
            with _out_of_reach_of_signals():
                _connect(address, source, n_cpus=cores.allowed if cores is not None else None, verbose=verbose)
            if not verbose:  # What workers print comes by the same way.
                _leave_telling_to_us()
        yield dataclasses.replace(_survey(), cores=cores)
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _out_of_reach_of_signals() -> Iterator[None]:
    """Start Ray's processes in sessions of their own, and leave this process's handlers as they are.

    A terminal, `timeout`, Slurm and containers signal the whole process group of a driver: it can only wind down while
    the cluster still lives. Should the driver die, the kernel ends the cluster that it has started.
    """
    from ray._private import services, utils

    before = signal.getsignal(signal.SIGTERM)
    start, handle = services.ConsolePopen, utils.set_sigterm_handler
    services.ConsolePopen = functools.partial(start, start_new_session=True)
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        services.ConsolePopen, utils.set_sigterm_handler = start, handle
        if before is not None and threading.current_thread() is threading.main_thread():
            # Below Python, Ray has set a handler that prints a stack, and ends the process three seconds later.
            signal.signal(signal.SIGTERM, before)


def _leave_telling_to_us() -> None:
    """Keep Ray's own lines about workers and nodes that died off the terminal; no setting of Ray's does.

    What such a death means is told with the trials that it has cost.
    """
    from ray._private import worker

    def tell(data: dict[str, Any], ignore_prefix: bool) -> None:
        _log.info("Ray: %s", "; ".join(data["lines"]))

    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = tell


def _connect(address: str | None, source: str, *, n_cpus: int | None, verbose: bool) -> None:
    import ray

    quiet = {"log_to_driver": verbose, "logging_level": logging.CRITICAL}
    try:
        if address is None:
            with heard_here_alone(), _memory_for_training():
                ray.init(
                    address="local",  # Without it, Ray would join any cluster that is there on this machine.
                    num_cpus=n_cpus,  # It would count those that this process may not use.
                    object_store_memory=_OBJECT_STORE_BYTES,
                    configure_logging=True,
                    include_dashboard=False,
                    **quiet,
                )
        else:
            _check_reachable(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        why = str(error).split(". ")[0].rstrip(".")
        if address is None:
            raise ConfigError(f"Ray must be able to start on this machine, but could not: {why}.") from error
        raise ConfigError(
            f"{source} {address!r} must lead to a running Ray cluster that this machine belongs to, but does not: "
            f"{why}. Start one with `ray start --head`, or leave the address out. One that asks for a token takes it "
            "from RAY_AUTH_TOKEN or ~/.ray/auth_token, with RAY_AUTH_MODE=token."
        ) from error


@contextmanager
def _memory_for_training() -> Iterator[None]:
    """Have the processes that are started inside allot memory as training needs it, where glibc does that.

    Workers touch hundreds of megabytes in each step, which takes less time in pages of 2 MB; and they run trials in
    threads, whose own memory glibc gives back to the system at each step (see `pipeline.worker`). A process reads this
    when it starts, so that a worker can't do it for itself. What the user says of one of them holds.
    """
    before = os.environ.get(_TUNABLES)
    told = [] if before is None else [before]
    missing = [f"{name}={value}" for name, value in _FOR_TRAINING.items() if before is None or name not in before]
    os.environ[_TUNABLES] = ":".join([*told, *missing])
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TUNABLES]
        else:
            os.environ[_TUNABLES] = before


def _check_reachable(address: str) -> None:
    """Raise where nothing listens at ``HOST:PORT``; Ray itself would try for minutes and log all of it."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", or what Ray refuses in its own words.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_S).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers there ({error})") from error


def _survey() -> Cluster:
    import ray

    tables = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [Node(table.get("CPU", 0.0), table.get("GPU", 0.0), table.get("memory", 0.0)) for table in tables]
    total, free = ray.cluster_resources(), ray.available_resources()
    return Cluster(tuple(nodes), is_idle=all(free.get(kind, 0) >= total.get(kind, 0) for kind in ("CPU", "GPU")))


def plan_slots(cluster: Cluster, resources: ResourcesConfig) -> Slots:
    """Decide how many trials run at once, and with how many threads each.

    Raises:
        ConfigError: Not even one trial fits on one of the machines.
    """
    fits = [(node, node.trials(resources)) for node in cluster.nodes]
    n_fitting = sum(n for _, n in fits)
    if n_fitting < 1:
        memory = f" and {resources.memory_gb:g} GB" if resources.memory_gb else ""
        there = "; ".join(dict.fromkeys(map(str, cluster.nodes)))
        raise ConfigError(
            f"one trial must fit on one machine of the cluster, but it asks for {resources.cpu:g} CPUs, "
            f"{resources.gpu:g} GPUs{memory} where there are {there}. "
            f"Lower `cpu`, `gpu` or `memory_gb` in [resources]."
        )
    concurrency = min(n_fitting, resources.concurrency or n_fitting)
    # Ray may put as many trials on one machine as fit there, however few run in all.
    threads = min(cluster.threads(node.cpus) // min(n, concurrency) for node, n in fits if n)
    return Slots(concurrency, resources.cpu, resources.gpu, max(1, threads), resources.memory_bytes)


def plan_alone(cluster: Cluster, resources: ResourcesConfig) -> Slots:
    """What a task takes that runs while no trial of the study does: the largest machine that would take a trial.

    On a cluster that others use, too, a whole machine may never be free: there it takes what a trial takes.
    """
    slots = plan_slots(cluster, resources)
    if not cluster.is_idle:
        return dataclasses.replace(slots, concurrency=1)
    cpus = max(node.cpus for node in cluster.nodes if node.trials(resources))
    return Slots(1, cpus, max(1.0, slots.gpu) if slots.gpu else 0.0, max(1, cluster.threads(cpus)), slots.memory_bytes)
