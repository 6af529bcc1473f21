"""A one-dimensional convolutional network that tells frequency and decay of noisy signals: root mean squared error."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune

LENGTH = 128


def network() -> nn.Module:
    """What is pruned."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((1, 32), (32, 48), (48, 64)):
        layers += [nn.Conv1d(n_in, n_out, 7, stride=2, padding=3, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2)
    )


def task() -> autoprune.Task:
    """What it is for."""

    def loader(n: int, *, seed: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(seed)
        said, phase = torch.rand(n, 2, generator=generator), torch.rand(n, 1, generator=generator)
        time = torch.linspace(0, 1, LENGTH)
        waves = torch.sin(2 * torch.pi * ((3 + 12 * said[:, :1]) * time + phase)) * torch.exp(-4 * said[:, 1:] * time)
        signals = (waves + 0.3 * torch.randn(n, LENGTH, generator=generator))[:, None]
        return DataLoader(TensorDataset(signals, 2 * said - 1), batch_size=64, shuffle=shuffle)

    return autoprune.Task(
        kind="regression",
        train=loader(2_048, seed=0, shuffle=True),
        validation=loader(512, seed=1),
        test=loader(512, seed=2),
        fingerprint="decaying waves, 1",
    )
