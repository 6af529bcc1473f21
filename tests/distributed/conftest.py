"""One real Ray cluster of logical CPUs and GPUs for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from autoprune.distributed import Cluster, open_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    import os

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    import ray

    ray.init(
        num_cpus=2, num_gpus=1, _memory=4 * 10**9, include_dashboard=False, log_to_driver=False,
        object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    with open_cluster() as found:
        yield found
    ray.shutdown()
