"""Networks and data as people bring them, which `forward` makes unlike our own."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

N_CLASSES = 4
SHAPE = (3, 8, 8)

Outputs = namedtuple("Outputs", ["logits", "aux"])


def colours() -> dict[str, Any]:
    """Images whose class is where they are bright; what a study file's data `factory` names."""
    rng = np.random.default_rng(0)
    parts = {}
    for name, n in (("train", 120), ("test", 40)):
        labels = np.arange(n) % N_CLASSES
        images = rng.integers(0, 128, (n, *SHAPE), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 4 * (label // 2) :][:, :4, 4 * (label % 2) :][:, :, :4] += 96
        parts[name] = (images, labels)
    return parts


class Plain(nn.Module):
    """What the others differ from in one thing; they say how by what they override."""

    def __init__(self, *, in_channels: int = SHAPE[0], n_classes: int = N_CLASSES) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 16, n_classes)

    def first(self, x: Tensor) -> Tensor:
        return F.relu(self.norm1(self.conv1(x)))

    def maps(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(self.first(x))))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.maps(x).flatten(1))


class Viewing(Plain):
    """Flattens with `view`, which channels-last maps have no place for."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(x)
        return self.fc(x.view(x.size(0), -1))


class Helped(Plain):
    """An auxiliary head behind the first layer, in training mode only.

    Args:
        gather: Makes one answer of both.
    """

    def __init__(self, gather: Callable[[Tensor, Tensor], Any] = lambda main, aux: (main, aux)) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 36, N_CLASSES))
        self.gather = gather

    def forward(self, x: Tensor) -> Any:
        first = self.first(x)
        main = self.fc(F.relu(self.norm2(self.conv2(first))).flatten(1))
        return self.gather(main, self.head(first)) if self.training else main


class Lazy(Plain):
    """A layer that takes its size from what it is first shown."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(N_CLASSES)


def lazy() -> nn.Module:
    return Lazy()


def plain() -> nn.Module:
    return Plain()


def normed() -> nn.Module:
    """Layers that compute their weights."""
    model = Plain()
    torch.nn.utils.parametrizations.weight_norm(model.conv2)
    torch.nn.utils.parametrizations.weight_norm(model.fc)
    return model


def viewing() -> nn.Module:
    return Viewing()


def helped() -> nn.Module:
    return Helped()


class Changed(Plain):
    """A network whose `forward` is given.

    Args:
        forward: Of the network and the images.
        layers: Put into it by name.
    """

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.given = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.given(self, x)


def pixels(n: int = 8) -> Tensor:
    """uint8 images, shape (N, C, H, W)."""
    return torch.from_numpy(colours()["train"][0][:n])
