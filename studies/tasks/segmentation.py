"""A U-Net with skips and transposed convolutions on drawn shapes: mean intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune
from studies.tasks.shapes import N_CLASSES, draw

SIZE, WIDTHS = 48, (16, 32, 64)


def block(n_in: int, n_out: int) -> nn.Sequential:
    """Two convolutions."""
    layers: list[nn.Module] = []
    for fan_in in (n_in, n_out):
        layers += [nn.Conv2d(fan_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down, and up again, with what was there at each size beside what comes from below."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.down1, self.down2, self.bottom = block(3, first), block(first, second), block(second, third)
        self.pool = nn.MaxPool2d(2)
        self.rise2, self.up2 = nn.ConvTranspose2d(third, second, 2, 2), block(2 * second, second)
        self.rise1, self.up1 = nn.ConvTranspose2d(second, first, 2, 2), block(2 * first, first)
        self.head = nn.Conv2d(first, N_CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes of all pixels, shape (N, classes, H, W)."""
        one = self.down1(x)
        two = self.down2(self.pool(one))
        low = self.bottom(self.pool(two))
        two = self.up2(torch.cat([self.rise2(low), two], 1))
        one = self.up1(torch.cat([self.rise1(two), one], 1))
        logits: Tensor = self.head(one)
        return logits


def network() -> nn.Module:
    """What is pruned."""
    return UNet()


def task() -> autoprune.Task:
    """What it is for."""

    def loader(n: int, *, seed: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
        images, masks, _ = draw(n, size=SIZE, seed=seed)
        return DataLoader(TensorDataset(images, masks), batch_size=16, shuffle=shuffle)

    return autoprune.Task(
        kind="segmentation",
        train=loader(512, seed=0, shuffle=True),
        validation=loader(128, seed=1),
        test=loader(128, seed=2),
        fingerprint="shapes of 48 pixels, 1",
    )
