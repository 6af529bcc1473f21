"""The Ray cluster a driver uses, and how many trials fit on it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from autoprune.config import ResourcesConfig
from autoprune.errors import ConfigError

__all__ = ["Cluster", "Slots", "open_cluster", "plan_slots"]

# Read by Ray when it is first imported, so they are set before any import of it.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}
_REACHABLE_S = 5.0
_OBJECT_STORE_BYTES = 100 * 2**20  # Trials exchange a few numbers; Ray would reserve a third of the memory.


@dataclass(frozen=True)
class Cluster:
    """What the cluster has in all.

    Args:
        cpus: Logical CPUs.
        gpus: Logical GPUs.
    """

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Slots:
    """How trials share the cluster.

    Args:
        concurrency: Trials at once, >= 1.
        cpu: CPUs of one trial.
        gpu: GPUs of one trial, a share of one or none.
        threads: Torch threads of one trial: its share of the cores, since more than that is many times slower.
    """

    concurrency: int
    cpu: float
    gpu: float
    threads: int


@contextmanager
def open_cluster(address: str | None = None) -> Iterator[Cluster]:
    """Use the Ray cluster at hand, the one at ``address``, or start one on this machine for as long as needed.

    Args:
        address: ``"auto"`` or ``"HOST:PORT"``; None starts a local one, unless this process has one already.

    Raises:
        ConfigError: There is no cluster at ``address``, or it is a client address.
    """
    if address is not None and address.startswith("ray://"):
        raise ConfigError(
            f"`--address` must be auto or HOST:PORT, but got {address!r}. A ray:// client dies with its connection "
            "and its trials with it; start autoprune on a machine of the cluster."
        )
    os.environ.update({key: value for key, value in _ENVIRONMENT.items() if key not in os.environ})
    import ray

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # A failed trial is told by us, once, without a traceback.
    ours = not ray.is_initialized()
    if ours:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.CRITICAL}
        try:
            if address is None:
                ray.init(
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    configure_logging=True,
                    **quiet,
                )
            else:
                _check_reachable(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"`--address` {address!r} must lead to a running Ray cluster, but does not: {error}. "
                "Start one with `ray start --head`, or leave the flag out."
            ) from error
    try:
        total = ray.cluster_resources()
        yield Cluster(float(total.get("CPU", 0)), float(total.get("GPU", 0)))
    finally:
        if ours:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise where nothing listens at ``HOST:PORT``; Ray itself would try for minutes and log all of it."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return  # "auto", or what Ray refuses in its own words.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_S).close()
    except OSError as error:
        raise ConnectionError(f"nothing answers there ({error})") from error


def plan_slots(cluster: Cluster, resources: ResourcesConfig) -> Slots:
    """Decide how many trials run at once, and with how many threads each.

    Raises:
        ConfigError: Not even one trial fits on the cluster.
    """
    fits = cluster.cpus / resources.cpu
    if resources.gpu > 0:
        # A trial can't straddle two devices, so shares are counted per device.
        fits = min(fits, cluster.gpus * int(1 / resources.gpu + 1e-9))
    if fits < 1:
        raise ConfigError(
            f"one trial must fit on the cluster, but it asks for {resources.cpu:g} CPUs and {resources.gpu:g} GPUs "
            f"where there are {cluster.cpus:g} and {cluster.gpus:g}. Lower `cpu` or `gpu` in [resources]."
        )
    concurrency = min(int(fits + 1e-9), resources.concurrency or int(fits + 1e-9))
    return Slots(concurrency, resources.cpu, resources.gpu, threads=max(1, int(cluster.cpus // concurrency)))
