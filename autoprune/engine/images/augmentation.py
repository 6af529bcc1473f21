"""Augmentation of whole batches: at random, or by one of a few fixed views of every image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.config import seed_of

__all__ = ["View", "augment", "fixed_view"]


@dataclass(frozen=True, eq=False)
class View:
    """What is drawn to augment N images: where each is cropped, and whether it is flipped.

    Args:
        offsets: Row and column of the crop within the padded image, shape (N, 2).
        flips: Whether columns are reversed, shape (N,).
    """

    offsets: Tensor
    flips: Tensor

    def of(self, images: Tensor, indices: Tensor | None = None) -> Tensor:
        """Augment a uint8 batch, shape (N, C, H, W), where it lies.

        Args:
            images: The batch.
            indices: Which of the images that the view was drawn for they are; None: all, in order.
        """
        offsets, flips = (self.offsets, self.flips) if indices is None else (self.offsets[indices], self.flips[indices])
        device = images.device
        offsets, flips = offsets.to(device, non_blocking=True), flips.to(device, non_blocking=True)
        n, _, height, width = images.shape
        pad = _padding(height)
        padded = F.pad(images, (pad, pad, pad, pad))
        rows = offsets[:, :1] + torch.arange(height, device=device)
        columns = offsets[:, 1:] + torch.arange(width, device=device)
        columns = torch.where(flips[:, None], columns.flip(1), columns)
        every = torch.arange(n, device=device)[:, None, None]
        picked = padded[every, :, rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2)


def _padding(height: int) -> int:
    return max(1, height // 8)


def _draw(kind: str, n: int, height: int, generator: torch.Generator) -> View:
    offsets = torch.randint(0, 2 * _padding(height) + 1, (n, 2), generator=generator)
    flips = torch.rand(n, generator=generator) < 0.5 if kind == "crop_flip" else torch.zeros(n, dtype=torch.bool)
    return View(offsets, flips)


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Augment a whole uint8 batch at once.

    Args:
        images: Shape (N, C, H, W).
        kind: ``"none"``, ``"shift"`` (random crop after padding by H // 8) or ``"crop_flip"`` (the
            same and a random horizontal flip).
        generator: Source of randomness, on the CPU: what is drawn does not depend on where the images lie.

    Returns:
        Images of the same shape.
    """
    if kind == "none":
        return images
    return _draw(kind, len(images), images.shape[2], generator).of(images)


def fixed_view(kind: str, k: int, *, n: int, height: int) -> View | None:
    """The ``k``-th view of all images of a set: a function of these arguments alone.

    Args:
        kind: As for `augment`; None for ``"none"``, since there is but one view then.
        k: Which, 0, 1, ...
        n: How many images the set has.
        height: Their height.
    """
    if kind == "none":
        return None
    return _draw(kind, n, height, torch.Generator().manual_seed(seed_of("view", kind, k)))
