"""The kind of task ``classification``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from autoprune.config import TrainSpec
from autoprune.engine.tasks.kinds._contract import Kind, Losses, Metric, softened_apart, torchmetrics_at_hand
from autoprune.engine.training import AUXILIARY_WEIGHT, answer_of
from autoprune.errors import DataError

__all__ = ["Classification"]


class Classification(Kind):
    """One class for each example: cross-entropy, top-1 accuracy."""

    name: ClassVar[str] = "classification"

    def loss(self, output: Any, targets: Any, spec: TrainSpec) -> Losses:
        """Cross-entropy of the logits, shape (N, K), and with less weight of those of auxiliary heads."""
        answer = answer_of(output)
        if not isinstance(targets, Tensor) or targets.shape != answer.logits.shape[:1]:
            raise DataError(
                "a batch of a classification must have one class for each row of logits, whose shape is "
                f"{tuple(answer.logits.shape)}, but its targets are {_told(targets)}. Give classes as whole numbers."
            )
        smoothing = spec.label_smoothing
        loss = F.cross_entropy(answer.logits.float(), targets.long(), label_smoothing=smoothing)
        for auxiliary in answer.auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(
                auxiliary.float(), targets.long(), label_smoothing=smoothing
            )
        return loss

    def metric(self, output: Any) -> Metric:
        """The share of examples whose largest logit is that of their class."""
        n_classes = answer_of(output).logits.shape[1]
        with torchmetrics_at_hand():
            from torchmetrics.classification import MulticlassAccuracy
        metric: Metric = MulticlassAccuracy(n_classes, average="micro")
        return metric

    def predictions(self, output: Any) -> Tensor:
        """The classes."""
        return answer_of(output).logits.argmax(1)

    def distill(self, student: Any, teacher: Any, *, temperature: float) -> Tensor:
        """Divergence of the softened classes."""
        return softened_apart(student, teacher, temperature=temperature)


def _told(targets: Any) -> str:
    return f"of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else f"a {type(targets).__name__}"
