from __future__ import annotations

import socket

import pytest

from autoprune.config import ResourcesConfig
from autoprune.distributed import Cluster, Slots, open_cluster, plan_slots
from autoprune.errors import ConfigError


@pytest.mark.parametrize(
    ("cluster", "resources", "slots"),
    [
        (Cluster(2, 0), ResourcesConfig(), Slots(2, 1, 0, 1)),
        (Cluster(16, 0), ResourcesConfig(cpu=4), Slots(4, 4, 0, 4)),
        (Cluster(16, 0), ResourcesConfig(concurrency=2), Slots(2, 1, 0, 8)),
        (Cluster(16, 2), ResourcesConfig(gpu=0.5), Slots(4, 1, 0.5, 4)),
        # Three shares of 0.4 would fit on one device by their sum, but not two of them on each without a rest.
        (Cluster(16, 2), ResourcesConfig(gpu=0.4), Slots(4, 1, 0.4, 4)),
        (Cluster(2, 8), ResourcesConfig(gpu=1), Slots(2, 1, 1, 1)),
        (Cluster(1, 0), ResourcesConfig(cpu=0.5, concurrency=9), Slots(2, 0.5, 0, 1)),
    ],
)
def test_trials_share_the_cluster(cluster, resources, slots):
    assert plan_slots(cluster, resources) == slots


@pytest.mark.parametrize("resources", [ResourcesConfig(cpu=4), ResourcesConfig(gpu=0.5)])
def test_a_trial_that_fits_nowhere_is_refused(resources):
    with pytest.raises(
        ConfigError, match=r"one trial must fit on the cluster, but it asks for .* where there are 2 and 0"
    ):
        plan_slots(Cluster(2, 0), resources)


def test_an_address_where_nothing_listens_is_refused_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        pytest.raises(ConfigError, match=r"must lead to a running Ray cluster, but does not: nothing answers there"),
        open_cluster(address),
    ):
        pass


def test_a_client_address_is_refused_with_the_reason():
    with (
        pytest.raises(ConfigError, match=r"must be auto or HOST:PORT, but got 'ray://head:10001'.*connection"),
        open_cluster("ray://head:10001"),
    ):
        pass
