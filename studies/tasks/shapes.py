"""Drawn shapes: images of discs, squares and crosses on a noisy ground, with their masks and boxes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["N_CLASSES", "draw"]

N_CLASSES = 4
"""Ground, disc, square, cross."""


def draw(n: int, *, size: int, seed: int, most: int = 3) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Draw images, each with one shape or more that may hide one another.

    Args:
        n: How many.
        size: Height and width.
        seed: Of all that is drawn.
        most: Shapes of an image.

    Returns:
        Images, shape (n, 3, size, size), about zero; masks of classes, shape (n, size, size); boxes (x, y, x, y) and
        labels of the shapes.
    """
    generator = torch.Generator().manual_seed(seed)

    def between(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = 0.5 * torch.randn(n, 3, size, size, generator=generator)
    masks, targets = torch.zeros(n, size, size, dtype=torch.int64), []
    for image, mask in zip(images, masks, strict=True):
        boxes, labels = [], []
        for _ in range(int(torch.randint(1, most + 1, (), generator=generator))):
            label = int(torch.randint(1, N_CLASSES, (), generator=generator))
            radius = float(between(size / 10, size / 5, 1))
            x, y = (float(value) for value in between(radius, size - 1 - radius, 2))
            across, down = (columns - x).abs(), (rows - y).abs()
            inside = {
                1: across.square() + down.square() <= radius**2,
                2: torch.maximum(across, down) <= radius,
                3: (torch.minimum(across, down) <= radius / 3) & (torch.maximum(across, down) <= radius),
            }[label]
            image[:, inside] += between(0.5, 1.5, 3, 1)
            mask[inside] = label
            boxes.append([x - radius, y - radius, x + radius, y + radius])
            labels.append(label)
        targets.append({"boxes": torch.tensor(boxes), "labels": torch.tensor(labels)})
    return images, masks, targets
