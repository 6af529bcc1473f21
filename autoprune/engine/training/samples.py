"""Batches of indices for training, and of training images to measure on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.engine.images import ImageSet
from autoprune.engine.training.runtime import Runtime

__all__ = ["Samples", "index_batches"]

_SAMPLED_BATCH = 64  # Small, so that a few thousand images give the 100 batches that the averages need.


def index_batches(n_images: int, n_steps: int, *, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of indices from one permutation after another; a permutation's short rest is dropped."""
    size = min(batch, n_images)
    done = 0
    while done < n_steps:
        for indices in torch.randperm(n_images, generator=generator).split(size):
            if len(indices) < size or done == n_steps:
                break
            yield indices
            done += 1


@dataclass(frozen=True)
class Samples:
    """A few batches of training images without augmentation, the same each time they are gone through.

    Args:
        images: Training images.
        runtime: Device, precision, normalisation.
        n_images: How many, at least one batch.
        seed: Fixes which.
    """

    images: ImageSet
    runtime: Runtime
    n_images: int
    seed: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (N, C, H, W) and their classes (N,), on the runtime's device."""
        n_steps = max(1, round(self.n_images / min(_SAMPLED_BATCH, len(self.images))))
        generator = torch.Generator().manual_seed(self.seed)
        batches = list(index_batches(len(self.images), n_steps, batch=_SAMPLED_BATCH, generator=generator))
        for indices, pixels in zip(batches, self.images.read(batches), strict=True):
            yield (
                self.runtime.inputs(pixels),
                self.images.labels[indices].to(self.runtime.device),
            )
