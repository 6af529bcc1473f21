"""Handwritten digits of which half is hidden, and beside them a vector that says how dark each hidden row is."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune


class TwoBranches(nn.Module):
    """A branch for the image, one for the vector, and one class from both."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in ((1, 24), (24, 32), (32, 48)):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.image = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten())
        self.vector = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(48 * 16 + 32, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        """Logits, shape (N, 10)."""
        logits: Tensor = self.head(torch.cat([self.image(image), self.vector(vector)], 1))
        return logits


def network() -> nn.Module:
    """What is pruned."""
    return TwoBranches()


def task() -> autoprune.Task:
    """What it is for."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    hidden = images[:, 0, 4:].mean(2)
    images[:, :, 4:] = 0
    everything = images, hidden, torch.tensor(digits.target)

    def loader(first: int, last: int, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(*(part[first:last] for part in everything)), batch_size=64, shuffle=shuffle)

    return autoprune.Task(
        train=loader(0, 1_100, shuffle=True),
        validation=loader(1_100, 1_450),
        test=loader(1_450, 1_797),
        fingerprint="digits, half hidden, 1",
    )
