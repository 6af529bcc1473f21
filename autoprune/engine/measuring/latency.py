"""Measured speed: medians of interleaved runs on the device at hand."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import nn

from autoprune.engine.asking import Forward, ask, drawn_like, laid, moved, repeated
from autoprune.errors import ConfigError

__all__ = ["Latency", "find_device", "measure", "warning"]

_WARM_UPS = 3
_LEAST_RUNS = 4  # Quartiles of fewer say nothing.


@dataclass(frozen=True)
class Latency:
    """How long one batch takes.

    Args:
        batch: Its size.
        median_ms: Median, milliseconds.
        low_ms: Lower quartile, milliseconds.
        high_ms: Upper quartile, milliseconds.
        n_runs: How many runs these are of.
    """

    batch: int
    median_ms: float
    low_ms: float
    high_ms: float
    n_runs: int


def find_device(name: str) -> torch.device:
    """The device of this name, tried.

    Raises:
        ConfigError: This machine has no such device.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add_(1)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        raise ConfigError(
            f"`--device` must be a device of this machine, which has cpu{f' and {there.type}' if there else ''}, "
            f"but got {name!r}."
        ) from error
    return device


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure(
    networks: Mapping[str, nn.Module],
    example: Any,
    *,
    batch: int,
    device: torch.device,
    n_runs: int = 50,
    time_limit_s: float = 60.0,
    memory_format: torch.memory_format = torch.channels_last,
    forward: Forward = ask,
) -> dict[str, Latency]:
    """Time networks on random inputs, in turn, so that a drift of the machine meets all of them.

    Every other turn goes backwards, so that none always finds the caches as the same other one left them.

    Args:
        networks: By name; copied to ``device`` in float32 and evaluation mode.
        example: A batch of one or more inputs, of which the structure matters.
        batch: Inputs at once, >= 1.
        device: Where to measure; nothing else should run there.
        n_runs: Runs of each after three warm-ups, >= 4.
        time_limit_s: Make do with fewer runs, but no fewer than 4, once they have taken as long as this.
        memory_format: Layout of weights and maps.
        forward: Runs a network.

    Returns:
        Latency by name.

    Raises:
        ConfigError: ``batch`` or ``n_runs`` is too small.
    """
    if batch < 1 or n_runs < _LEAST_RUNS:
        raise ConfigError(
            f"`batch` must be at least 1 and `n_runs` at least {_LEAST_RUNS}, but got batch={batch}, n_runs={n_runs}."
        )
    inputs = laid(moved(drawn_like(repeated(example, batch), torch.Generator().manual_seed(0)), device), memory_format)
    ready = {
        name: copy.deepcopy(model).to(device, torch.float32, memory_format=memory_format).eval()  # type: ignore[call-overload]
        for name, model in networks.items()
    }
    times: dict[str, list[float]] = {name: [] for name in ready}
    began = time.perf_counter()
    with torch.inference_mode():
        for turn in count():
            done = turn - _WARM_UPS
            if done >= n_runs or (done >= _LEAST_RUNS and time.perf_counter() - began > time_limit_s):
                break
            for name in list(ready)[:: 1 if turn % 2 else -1]:
                _wait(device)
                start = time.perf_counter()
                forward(ready[name], inputs)
                _wait(device)
                if done >= 0:
                    times[name].append(1000 * (time.perf_counter() - start))
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    return {name: Latency(batch, middle, low, high, done) for name, (low, middle, high) in quartiles.items()}


def warning(dense: Latency, pruned: Latency, *, macs_ratio: float) -> str | None:
    """A sentence where MACs fell by a tenth or more but the latency did not, else None.

    It did not fall where the pruned network's median lies no lower than the dense one's lower quartile.

    Args:
        dense: Latency of the dense network.
        pruned: Latency of the pruned one, measured in the same run.
        macs_ratio: Pruned / dense MACs.
    """
    if macs_ratio > 0.9 or pruned.median_ms < dense.low_ms:
        return None
    return (
        f"MACs fell to {macs_ratio:.2f} of the dense network's, but at batch {dense.batch} it takes "
        f"{pruned.median_ms:.2f} ms instead of {dense.median_ms:.2f} ms. Odd widths may be slow on this device: "
        "round them to multiples of 8 or 16 (`multiple` in [network]), or measure at the batch size that you will use."
    )
