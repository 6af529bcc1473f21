"""The handwritten digits as a task of one's own: ten numbers for each image, one of them 1, by their squared error."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune
from autoprune.architectures import build

__all__ = ["TABLES", "network", "task"]

TABLES: dict[str, Any] = {
    "data": None,
    "network": 'factory = "tests.digits_task:network"',
    "task": 'kind = "regression"\nfactory = "tests.digits_task:task"',
}
"""Tables of a study file that mean it."""


def network() -> nn.Module:
    """The network that studies of the digits have."""
    return build("resnet_digits", n_classes=10, in_channels=1)


def task() -> autoprune.Task:
    """Root mean squared error, which is minimised."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    targets = nn.functional.one_hot(torch.tensor(digits.target), 10).float()
    data = TensorDataset(images, targets)
    train, validation, test = torch.utils.data.random_split(data, [1_200, 237, 360], torch.Generator().manual_seed(0))
    loaders: list[DataLoader[Any]] = [DataLoader(part, batch_size=64) for part in (train, validation, test)]
    return autoprune.Task(kind="regression", train=loaders[0], validation=loaders[1], test=loaders[2])
