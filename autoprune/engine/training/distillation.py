"""A pruned network learns from the dense one: the loss, and where the teacher's logits come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.config import DistillSpec
from autoprune.engine.images import View
from autoprune.engine.training.runtime import Runtime

__all__ = ["OnlineTeacher", "StoredTeacher", "Teacher", "distillation_loss", "divergence"]


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, *, spec: DistillSpec, label_smoothing: float = 0.0
) -> Tensor:
    """``(1 - w) CE(s, labels) + w T^2 KL(softmax(t / T) || softmax(s / T))``, mean over the batch.

    T^2 keeps the size of the second gradient as T grows: it tends to ``w (s - t) / K`` with logits centred.

    Args:
        student: Logits s, shape (N, K).
        teacher: Logits t, shape (N, K).
        labels: Classes, shape (N,).
        spec: Weight w and temperature T.
        label_smoothing: Of the first term, in [0, 1).

    References:
        Hinton, Vinyals and Dean (2015), Distilling the knowledge in a neural network, arXiv 1503.02531, equation 4.
    """
    hard = F.cross_entropy(student, labels, label_smoothing=label_smoothing)
    t = spec.temperature
    return (1 - spec.weight) * hard + spec.weight * t * t * divergence(student, teacher, temperature=t)


def divergence(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """``KL(softmax(t / T) || softmax(s / T))``, mean over the rows, shape (N, K) both; a scalar."""
    ours, theirs = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


class Teacher(ABC):
    """Gives the logits of the dense network for what the student sees.

    Args:
        spec: Weight and temperature.
    """

    def __init__(self, spec: DistillSpec) -> None:
        self.spec = spec

    @abstractmethod
    def show(self, pixels: Tensor, indices: Tensor, *, turn: int) -> Tensor | None:
        """The images as the student is to see them, uint8, shape (N, C, H, W); None: however they are augmented.

        Args:
            pixels: The images themselves.
            indices: Which of the training images they are, shape (N,).
            turn: Which pass over the training images it is.
        """

    @abstractmethod
    def logits(self, inputs: Tensor, indices: Tensor, *, turn: int) -> Tensor:
        """Logits (N, K), float32, on the device of ``inputs``, which are what the student sees, normalised."""


class StoredTeacher(Teacher):
    """Logits computed beforehand for fixed views of every training image; each pass takes the next view.

    Args:
        spec: Weight and temperature.
        logits: By view, each of shape (N, K), float16.
        views: How each view augments the images; None leaves them as they are.
        first: Which view the first pass takes.
    """

    def __init__(
        self, spec: DistillSpec, logits: Sequence[Tensor], views: Sequence[View | None], *, first: int
    ) -> None:
        super().__init__(spec)
        self._logits, self._views, self._first = logits, views, first

    def show(self, pixels: Tensor, indices: Tensor, *, turn: int) -> Tensor | None:
        """The images by the view of this pass."""
        view = self._views[self._at(turn)]
        return pixels if view is None else view.of(pixels, indices)

    def logits(self, inputs: Tensor, indices: Tensor, *, turn: int) -> Tensor:
        """What the teacher said of them."""
        return self._logits[self._at(turn)][indices].to(inputs.device, non_blocking=True).float()

    def _at(self, turn: int) -> int:
        return (self._first + turn) % len(self._views)


class OnlineTeacher(Teacher):
    """The dense network, asked about every batch.

    Args:
        spec: Weight and temperature.
        network: On the runtime's device, in evaluation mode.
        runtime: Its precision.
    """

    def __init__(self, spec: DistillSpec, network: nn.Module, *, runtime: Runtime) -> None:
        super().__init__(spec)
        self._network, self._runtime = network, runtime

    def show(self, pixels: Tensor, indices: Tensor, *, turn: int) -> Tensor | None:
        """Teacher and student see one batch, whatever is done to it."""
        return None

    def logits(self, inputs: Tensor, indices: Tensor, *, turn: int) -> Tensor:
        """What the teacher says of them."""
        with torch.no_grad(), self._runtime.autocast():
            found: Tensor = self._network(inputs)
        return found.float()
