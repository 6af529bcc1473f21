"""Latencies: what is told of them, and ratios of measurements that no machine can get wrong."""

import pytest
import torch
from torch import nn

from autoprune.engine.measuring import Latency, find_device, measure, warning
from autoprune.errors import ConfigError

torch.set_num_threads(1)

CPU = torch.device("cpu")


def latency(median, *, spread=0.1, batch=1):
    return Latency(batch, median, median * (1 - spread), median * (1 + spread), 50)


@pytest.mark.parametrize(
    ("dense", "pruned", "macs_ratio", "warned"),
    [
        (10.0, 10.0, 0.5, True),  # MACs were halved, and nothing was won
        (10.0, 14.0, 0.5, True),  # slower, even
        (10.0, 9.5, 0.5, True),  # within the dense network's own spread
        (10.0, 8.9, 0.5, False),
        (10.0, 5.0, 0.5, False),
        (10.0, 10.0, 0.95, False),  # there was little to win
        (10.0, 12.0, 1.0, False),  # the dense network itself
    ],
)
def test_a_warning_where_macs_fell_and_latency_did_not(dense, pruned, macs_ratio, warned):
    told = warning(latency(dense, batch=8), latency(pruned, batch=8), macs_ratio=macs_ratio)
    assert (told is not None) == warned
    if told is not None:
        assert told.startswith(
            f"MACs fell to {macs_ratio:.2f} of the dense network's, but at batch 8 it takes {pruned:.2f} ms "
            f"instead of {dense:.2f} ms."
        )
        assert "multiples of 8 or 16" in told


class Loop(nn.Module):
    """As much work as is asked for."""

    def __init__(self, times):
        super().__init__()
        self.times, self.conv = times, nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        for _ in range(self.times):
            x = self.conv(x)
        return x


def test_twenty_times_the_work_takes_longer():
    networks = {"little": Loop(1), "much": Loop(20)}
    found = measure(networks, torch.zeros(1, 8, 16, 16), batch=4, device=CPU, n_runs=20)
    assert found["little"].median_ms * 4 < found["much"].median_ms
    for timed in found.values():
        assert 0 < timed.low_ms <= timed.median_ms <= timed.high_ms
        assert (timed.batch, timed.n_runs) == (4, 20)


def test_a_network_beside_itself_is_as_fast():
    network = Loop(4)
    found = measure({"one": network, "other": network}, torch.zeros(1, 8, 16, 16), batch=2, device=CPU, n_runs=40)
    # Interleaved, so a busy machine meets both alike.
    assert 0.5 < found["one"].median_ms / found["other"].median_ms < 2


class Witness(nn.Module):
    def __init__(self, name, seen):
        super().__init__()
        self.name, self.seen = name, seen

    def __deepcopy__(self, memo):
        return self  # so that what the copy sees is seen here

    def forward(self, x):
        self.seen.append((self.name, tuple(x.shape), x.dtype, x.is_contiguous(memory_format=torch.channels_last)))
        assert not self.training
        return x


def test_networks_take_turns_forwards_and_backwards():
    seen = []
    measure({name: Witness(name, seen) for name in "ab"}, torch.zeros(1, 3, 4, 4), batch=2, device=CPU, n_runs=4)
    assert [name for name, *_ in seen] == list("baabbaabbaabba")  # seven turns, of which three warm up
    assert set(seen) == {(name, (2, 3, 4, 4), torch.float32, True) for name in "ab"}


def test_networks_are_timed_in_the_layout_that_they_can_do():
    seen = []
    networks = {"a": Witness("a", seen)}
    measure(networks, torch.zeros(1, 3, 4, 4), batch=2, device=CPU, n_runs=4, memory_format=torch.contiguous_format)
    assert {is_last for *_, is_last in seen} == {False}


def test_the_time_limit_leaves_four_runs():
    found = measure({"a": nn.Identity()}, torch.zeros(1, 1, 2, 2), batch=1, device=CPU, time_limit_s=0)
    assert found["a"].n_runs == 4


def test_the_networks_are_left_as_they_are():
    network = Loop(1).double().train()
    measure({"net": network}, torch.zeros(1, 8, 4, 4), batch=1, device=CPU, n_runs=4)
    assert network.training
    assert network.conv.weight.dtype == torch.float64


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"batch": 1, "n_runs": 3}])
def test_too_few_images_or_runs_are_refused(wrong):
    with pytest.raises(ConfigError, match="`batch` must be at least 1 and `n_runs` at least 4"):
        measure({"a": nn.Identity()}, torch.zeros(1, 1, 2, 2), device=CPU, **wrong)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "meta?"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match=r"`--device` must be a device of this machine, which has cpu"):
        find_device(name)
    assert find_device("cpu") == CPU
