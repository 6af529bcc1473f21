"""The kind of task ``segmentation``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from autoprune.config import TrainSpec
from autoprune.engine.tasks.kinds._contract import Kind, Losses, Metric, shape_of, softened_apart, torchmetrics_at_hand
from autoprune.engine.training import AUXILIARY_WEIGHT, answer_of
from autoprune.errors import DataError

__all__ = ["Segmentation"]

_IGNORED = 255  # The class of pixels that belong to none, as in Pascal VOC and Cityscapes.


class Segmentation(Kind):
    """One class for each pixel: cross-entropy, mean intersection over union of the classes; 255 is no class."""

    name: ClassVar[str] = "segmentation"

    def loss(self, output: Any, targets: Any, spec: TrainSpec) -> Losses:
        """Cross-entropy of the logits, shape (N, K, H, W), and with less weight of those of auxiliary heads."""
        answer = answer_of(output)
        shape = answer.logits.shape
        if not isinstance(targets, Tensor) or targets.shape != (shape[0], *shape[2:]):
            raise DataError(
                "a batch of a segmentation must have one class for each pixel of the logits, whose shape is "
                f"{tuple(shape)}, but its masks are {shape_of(targets)}. Give masks of shape (N, H, W) in whole "
                "numbers, and let the network answer at that size."
            )
        smoothing, masks = spec.label_smoothing, targets.long()
        loss = F.cross_entropy(answer.logits.float(), masks, ignore_index=_IGNORED, label_smoothing=smoothing)
        for auxiliary in answer.auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(auxiliary.float(), masks, ignore_index=_IGNORED)
        return loss

    def metric(self, output: Any) -> Metric:
        """Of all pixels together: per class the share of those in either set that are in both, mean over classes."""
        n_classes = answer_of(output).logits.shape[1]
        with torchmetrics_at_hand():
            from torchmetrics.classification import MulticlassJaccardIndex
        metric: Metric = MulticlassJaccardIndex(n_classes, average="macro", ignore_index=_IGNORED)
        return metric

    def predictions(self, output: Any) -> Tensor:
        """The classes, shape (N, H, W)."""
        return answer_of(output).logits.argmax(1)

    def distill(self, student: Any, teacher: Any, *, temperature: float) -> Tensor:
        """Divergence of the softened classes, mean over pixels."""
        return softened_apart(student, teacher, temperature=temperature)
