"""A one-dimensional convolutional network that tells the waves in a noisy signal: root mean squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune

LENGTH = 128
N_WAVES = 3


def network() -> nn.Module:
    """What is pruned."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 32), (32, 48), (48, 64)):
        layers += [nn.Conv1d(n_in, n_out, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2 * N_WAVES)
    )


def task() -> autoprune.Task:
    """What it is for: frequency and decay of each of three decaying waves, in [-1, 1]."""

    def loader(n: int, *, seed: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(seed)
        pitch, decay, phase = (torch.rand(n, N_WAVES, 1, generator=generator) for _ in range(3))
        time = torch.linspace(0, 1, LENGTH)
        frequency = 3 + 10 * torch.arange(N_WAVES)[:, None] + 8 * pitch  # Each wave has a band of its own.
        waves = torch.sin(2 * torch.pi * (frequency * time + phase)) * torch.exp(-4 * decay * time)
        signals = waves.sum(1, keepdim=True) + 0.3 * torch.randn(n, 1, LENGTH, generator=generator)
        return DataLoader(
            TensorDataset(signals, 2 * torch.cat([pitch, decay], 1)[..., 0] - 1), batch_size=64, shuffle=shuffle
        )

    return autoprune.Task(
        kind="regression",
        train=loader(4_096, seed=0, shuffle=True),
        validation=loader(512, seed=1),
        test=loader(512, seed=2),
        fingerprint="three decaying waves, 1",
    )
