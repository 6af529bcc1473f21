"""Measured speed: medians of interleaved runs on the device at hand."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Latency", "measure", "warning"]

_WARM_UPS = 3


@dataclass(frozen=True)
class Latency:
    """How long one batch takes.

    Args:
        batch: Its size.
        median_ms: Median, milliseconds.
        low_ms: Lower quartile, milliseconds.
        high_ms: Upper quartile, milliseconds.
    """

    batch: int
    median_ms: float
    low_ms: float
    high_ms: float


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure(
    networks: Mapping[str, nn.Module], image_shape: Sequence[int], *, batch: int, device: torch.device, n_runs: int = 30
) -> dict[str, Latency]:
    """Time networks on random images, in turn, so that a drift of the machine meets all of them.

    Args:
        networks: By name; copied to ``device`` in float32, channels-last, evaluation mode.
        image_shape: (C, H, W).
        batch: Images at once, >= 1.
        device: Where to measure; nothing else should run there.
        n_runs: Runs of each after three warm-ups, >= 4.

    Returns:
        Latency by name.
    """
    images: Tensor = torch.randn(batch, *image_shape, generator=torch.Generator().manual_seed(0))
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    ready = {
        name: copy.deepcopy(model).to(device, torch.float32, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        for name, model in networks.items()
    }
    times: dict[str, list[float]] = {name: [] for name in ready}
    with torch.inference_mode():
        for run in range(_WARM_UPS + n_runs):
            for name, model in ready.items():
                _wait(device)
                start = time.perf_counter()
                model(images)
                _wait(device)
                if run >= _WARM_UPS:
                    times[name].append(1000 * (time.perf_counter() - start))
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    return {name: Latency(batch, middle, low, high) for name, (low, middle, high) in quartiles.items()}


def warning(dense: Latency, pruned: Latency, *, macs_ratio: float) -> str | None:
    """A sentence where MACs fell by a tenth or more but the latency did not, else None.

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
        "round them to multiples of 8 or 16, or measure at the batch size that you will use."
    )
