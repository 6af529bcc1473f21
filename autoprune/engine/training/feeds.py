"""What a phase trains on, batch by batch, and what the loss of a network is there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.config import DistillSpec, TrainSpec
from autoprune.engine.images import ImageSet, augment
from autoprune.engine.training.answers import AUXILIARY_WEIGHT, answer_of
from autoprune.engine.training.distillation import Teacher, distillation_loss
from autoprune.engine.training.runtime import Runtime
from autoprune.engine.training.samples import index_batches
from autoprune.engine.training.schedule import n_steps_of

__all__ = ["Feed", "ImageFeed", "Reader", "Shown", "image_loss"]

Reader = Callable[[int, int | None], Iterator[Any]]
"""The batches of a phase from one step up to another, ``reader(start, stop)``; None: to its end."""


class Feed(ABC):
    """What a phase trains on."""

    @abstractmethod
    def steps_a_pass(self, spec: TrainSpec) -> int:
        """Batches of one pass over all examples."""

    @abstractmethod
    def n_steps(self, spec: TrainSpec) -> int:
        """Steps of a phase of ``spec.epochs`` passes."""

    @abstractmethod
    def open(self, spec: TrainSpec, n_steps: int, *, generator: torch.Generator) -> Reader:
        """Draw the order of a phase.

        Args:
            spec: Its recipe.
            n_steps: Its length.
            generator: Source of randomness, on the CPU.
        """

    @abstractmethod
    def loss(
        self, model: nn.Module, batch: Any, spec: TrainSpec, *, runtime: Runtime, turn: int, generator: torch.Generator
    ) -> Tensor:
        """Run a network in training mode on a batch; a scalar.

        Args:
            model: The network.
            batch: One that a reader gave.
            spec: The recipe; label smoothing and augmentation count.
            runtime: Where and how the network runs.
            turn: Which pass over the examples it is.
            generator: Source of randomness, on the CPU.
        """

    def backward(self, loss: Tensor, scaler: torch.amp.GradScaler) -> None:
        """Add the gradients of a loss that `loss` gave, and of what was added to it, to those of the parameters.

        Args:
            loss: A scalar.
            scaler: Multiplies it, so that gradients of float16 do not vanish.
        """
        scaler.scale(loss).backward()


@dataclass(frozen=True, eq=False)
class Shown:
    """A batch of images as a network is to see them, all of it on the network's device.

    Args:
        images: Augmented bytes, shape (N, C, H, W).
        targets: Classes, shape (N,).
        soft: What the teacher says of them, shape (N, K), float32; None without one.
    """

    images: Tensor
    targets: Tensor
    soft: Tensor | None = None


def image_loss(
    model: nn.Module, shown: Shown, *, runtime: Runtime, distill: DistillSpec | None, label_smoothing: float
) -> Tensor:
    """Cross-entropy, with the teacher's share, and those of auxiliary heads; the mean over the images.

    Args:
        model: In training mode.
        shown: What it sees.
        runtime: Where and how it runs.
        distill: Of the teacher that said `Shown.soft`.
        label_smoothing: In [0, 1).
    """
    with runtime.autocast():
        answer = answer_of(model(runtime.inputs(shown.images)))
    logits, targets = answer.logits.float(), shown.targets
    if distill is None or shown.soft is None:
        loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    else:
        loss = distillation_loss(logits, shown.soft, targets, spec=distill, label_smoothing=label_smoothing)
    for auxiliary in answer.auxiliary:
        heads_loss = F.cross_entropy(auxiliary.float(), targets, label_smoothing=label_smoothing)
        loss = loss + AUXILIARY_WEIGHT * heads_loss
    return loss


class ImageFeed(Feed):
    """Labelled images, augmented as the recipe says.

    Args:
        images: What to train on.
        teacher: Whom the network learns from beside the labels; it may fix how images are augmented.
    """

    def __init__(self, images: ImageSet, *, teacher: Teacher | None = None) -> None:
        self._images, self._teacher = images, teacher

    def steps_a_pass(self, spec: TrainSpec) -> int:
        """Whole batches."""
        return len(self._images) // min(spec.batch, len(self._images))

    def n_steps(self, spec: TrainSpec) -> int:
        """As many as have that many images."""
        return n_steps_of(spec, len(self._images))

    def open(self, spec: TrainSpec, n_steps: int, *, generator: torch.Generator) -> Reader:
        """One permutation after another."""
        batches = list(index_batches(len(self._images), n_steps, batch=spec.batch, generator=generator))

        def read(start: int, stop: int | None) -> Iterator[tuple[Tensor, Tensor]]:
            wanted = batches[start:stop]
            return zip(wanted, self._images.read(wanted), strict=True)

        return read

    def loss(
        self, model: nn.Module, batch: Any, spec: TrainSpec, *, runtime: Runtime, turn: int, generator: torch.Generator
    ) -> Tensor:
        """Cross-entropy, with the teacher's share, and those of auxiliary heads."""
        shown = self.show(batch, spec, runtime=runtime, turn=turn, generator=generator)
        return image_loss(model, shown, runtime=runtime, distill=self.distill, label_smoothing=spec.label_smoothing)

    @property
    def distill(self) -> DistillSpec | None:
        """Weight and temperature of the teacher; None without one."""
        return None if self._teacher is None else self._teacher.spec

    def show(self, batch: Any, spec: TrainSpec, *, runtime: Runtime, turn: int, generator: torch.Generator) -> Shown:
        """Bring a batch to the device, augmented, with its classes and what the teacher says; see `Feed.loss`."""
        indices, pixels = batch
        pixels = pixels.to(runtime.device, non_blocking=True)
        teacher = self._teacher
        seen = None if teacher is None else teacher.show(pixels, indices, turn=turn)
        if seen is None:
            seen = augment(pixels, spec.augmentation, generator)
        targets = self._images.labels[indices].to(runtime.device, non_blocking=True)
        soft = None if teacher is None else teacher.logits(runtime.inputs(seen), indices, turn=turn)
        return Shown(seen, targets, soft)
