"""The kind of task ``regression``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from autoprune.config import TrainSpec
from autoprune.engine.tasks.kinds._contract import Kind, Losses, Metric, alike, shape_of, torchmetrics_at_hand
from autoprune.engine.training import answer_of
from autoprune.errors import DataError

__all__ = ["Regression"]


class Regression(Kind):
    """Numbers for each example: mean squared error, and its root over all numbers as the metric, which is minimised."""

    name: ClassVar[str] = "regression"
    # A squared error may be of any size, and with it the gradient.
    recipe: ClassVar[TrainSpec] = TrainSpec(epochs=10, optimizer="adam", learning_rate=1e-3)

    def loss(self, output: Any, targets: Any, spec: TrainSpec) -> Losses:
        """Mean squared error; one number for each example may come with or without an axis of its own."""
        answer = answer_of(output).logits
        if not isinstance(targets, Tensor) or targets.numel() != answer.numel() or len(targets) != len(answer):
            raise DataError(
                "a batch of a regression must have as many numbers as the network answers with, in the shape "
                f"{tuple(answer.shape)}, but its targets are {shape_of(targets)}. Bring them to one shape."
            )
        return F.mse_loss(answer.float(), targets.float().view_as(answer))

    def metric(self, output: Any) -> Metric:
        """Root of the mean squared error."""
        with torchmetrics_at_hand():
            from torchmetrics.regression import MeanSquaredError
        metric: Metric = MeanSquaredError(squared=False)
        return metric

    def predictions(self, output: Any) -> Tensor:
        """The numbers."""
        return answer_of(output).logits.float()

    def measure(self, metric: Metric, output: Any, targets: Any) -> None:
        """Number by number, whether one for each example has an axis of its own or not."""
        said = self.predictions(output)
        metric.update(said, targets.float().view_as(said))

    def distill(self, student: Any, teacher: Any, *, temperature: float) -> Tensor:
        """Mean squared difference; there is nothing to soften."""
        return F.mse_loss(*alike(student, teacher))
