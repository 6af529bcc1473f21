"""The kind of task ``detection``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from autoprune.config import TrainSpec
from autoprune.engine.asking import ask, moved
from autoprune.engine.tasks.kinds._contract import Kind, Losses, Metric, torchmetrics_at_hand
from autoprune.errors import ConfigError, DataError, NetworkError

__all__ = ["Detection"]


class Detection(Kind):
    """Boxes in images, as torchvision's detectors have it.

    In training mode ``model(images, targets)`` gives losses by name, in evaluation mode ``model(images)`` gives a list
    of boxes, labels and scores; images are a list of tensors of any sizes, targets a list of mappings. The metric is
    the mean average precision over thresholds from 0.5 to 0.95 of COCO.
    """

    name: ClassVar[str] = "detection"
    teaches: ClassVar[bool] = False

    def parts(self, batch: Any) -> tuple[Any, Any]:
        """Lists of images and of their targets.

        Raises:
            DataError: The batch is not made so.
        """
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise DataError(
                "a batch of a detection must be a tuple (images, targets), but is a "
                f"{type(batch).__name__}. Collate with `lambda examples: tuple(zip(*examples))`."
            )
        return list(batch[0]), list(batch[1])

    def core(self, model: nn.Module, inputs: Any) -> Any:
        """Backbone and heads: what chooses boxes by their scores is beyond what a trace can follow."""
        backbone, head = getattr(model, "backbone", None), _head(model)
        if backbone is None or head is None:
            raise ConfigError(
                "a detector must have `backbone` and `head` (or `rpn`), as torchvision's have, to be pruned up to "
                f"where boxes are chosen, but {type(model).__name__} has not. Give the Task `submodule`, the part to "
                "prune."
            )
        features = backbone(self.exported(model, inputs))
        return head(list(features.values()) if isinstance(features, Mapping) else [features])

    def exported(self, model: nn.Module, inputs: Any) -> Any:
        """Images brought to one size and scaled by the detector, shape (N, 3, H, W); a tensor is that already."""
        transform: Any = getattr(model, "transform", None)
        return inputs if transform is None or isinstance(inputs, Tensor) else transform(list(inputs))[0].tensors

    def trained(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        """The losses."""
        return model(list(inputs), list(targets))

    def whole(self, model: nn.Module, inputs: Any) -> Any:
        """The boxes of each image."""
        return ask(model, list(inputs))

    def loss(self, output: Any, targets: Any, spec: TrainSpec) -> Losses:
        """All of the detector's losses."""
        if not isinstance(output, Mapping) or not output:
            raise NetworkError(
                "a detector must answer with its losses by name in training mode, but gave "
                f"{type(output).__name__}. Give the Task `loss`, a function of network and batch."
            )
        return {str(name): loss for name, loss in output.items() if isinstance(loss, Tensor)}

    def metric(self, output: Any) -> Metric:
        """Mean average precision."""
        with torchmetrics_at_hand():
            from torchmetrics.detection import MeanAveragePrecision

            metric = MeanAveragePrecision()  # What it needs itself is imported here.
        return _MeanAveragePrecision(metric)

    def predictions(self, output: Any) -> Any:
        """The boxes, where the metric counts them."""
        if not isinstance(output, list) or not all(isinstance(each, Mapping) for each in output):
            raise DataError(
                "a detector must answer with a list of boxes, labels and scores in evaluation mode, but gave "
                f"{type(output).__name__}. Give the Task `evaluate`, a function of network and loader."
            )
        return output


class _MeanAveragePrecision:
    """torchmetrics' on the CPU, its one value of many."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def update(self, preds: Any, target: Any) -> None:
        """Take in a batch."""
        cpu = torch.device("cpu")
        self._inner.update(moved([dict(each) for each in preds], cpu), moved([dict(each) for each in target], cpu))

    def compute(self) -> float:
        """In [0, 1]; 0 where there is no box to be found."""
        return max(0.0, float(self._inner.compute()["map"]))

    def reset(self) -> None:
        """Forget all batches."""
        self._inner.reset()


def _head(model: nn.Module) -> Any:
    head = getattr(model, "head", None)
    return head if head is not None else getattr(getattr(model, "rpn", None), "head", None)
