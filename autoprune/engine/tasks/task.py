"""A task of one's own: data, loss and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from autoprune.config import DIRECTIONS, TASKS
from autoprune.engine.asking import Forward
from autoprune.engine.tasks.kinds import KINDS, Losses, Metric
from autoprune.errors import ConfigError, unknown_name

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What networks are trained and scored on, and how.

    A batch is what a loader gives: a tuple whose last entry are the targets, or a mapping whose targets are named
    ``labels``, ``label``, ``targets``, ``target``, ``masks`` or ``mask``. What is left is given to the network, as one
    argument, as several, or by name.

    Args:
        train: Batches to train on; gone through again and again, so a DataLoader or a list, not a generator. It is
            shuffled where it shuffles itself, by torch's global generator.
        validation: Batches that score the search.
        test: Batches that `autoprune.evaluate` scores on.
        example_inputs: Inputs of one example or more, as the network takes them; None: those of the first training
            batch.
        kind: Says what goes without saying: ``"classification"``, ``"segmentation"``, ``"detection"`` (as
            torchvision's detectors have it) or ``"regression"``.
        forward: ``forward(model, inputs)`` runs the network in evaluation mode; by default it is called on the inputs.
        loss: ``loss(model, batch)`` → a scalar, or scalars by name, which are added; the network is in training mode.
        metric: An object of torchmetrics' form (``update``, ``compute``, ``reset``), or a function that makes one. It
            is shown what the network answers and the targets.
        evaluate: ``evaluate(model, loader)`` → the score, in place of a metric.
        metric_name: What the score is called; by default as the kind's metric.
        direction: ``"maximize"`` or ``"minimize"``; by default that of the kind's metric.
        distill: ``distill(student, teacher)`` → how far the student's answer is from the teacher's, a scalar.
        submodule: Name of the part to prune; by default all of the network, of detectors what comes before boxes are
            chosen.
        fingerprint: Tells the data from others; by default not asked, and the study trusts that they stay the same.

    Raises:
        ConfigError: Arguments that don't go together.
    """

    train: Iterable[Any]
    validation: Iterable[Any]
    test: Iterable[Any] | None = None
    example_inputs: Any = None
    kind: str = "classification"
    forward: Forward | None = None
    loss: Callable[[nn.Module, Any], Losses] | None = None
    metric: Metric | Callable[[], Metric] | None = None
    evaluate: Callable[[nn.Module, Iterable[Any]], float] | None = None
    metric_name: str | None = None
    direction: str | None = None
    distill: Callable[[Any, Any], Tensor] | None = None
    submodule: str | None = None
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"Task: `kind`: {unknown_name('kind of task', self.kind, KINDS)}")
        if self.metric is not None and self.evaluate is not None:
            raise ConfigError("Task: `metric` and `evaluate` both score networks. Give one of them.")
        if self.direction not in (None, *DIRECTIONS):
            raise ConfigError(
                f'Task: `direction` must be "maximize" or "minimize", but got {self.direction!r}. Give one of them.'
            )
        if self.metric_name not in (None, TASKS[self.kind][0]) and self.direction is None:
            raise ConfigError(
                f"Task: `metric_name` = {self.metric_name!r} needs `direction`, since it is not the metric of the kind "
                f'{self.kind!r}. Add direction="maximize" or "minimize".'
            )

    @property
    def teaches(self) -> bool:
        """Whether it is known what is learnt from a teacher."""
        return self.distill is not None or KINDS[self.kind].teaches

    @property
    def score_name(self) -> str:
        """What the score is called."""
        return self.metric_name or TASKS[self.kind][0]

    @property
    def score_direction(self) -> str:
        """``"maximize"`` or ``"minimize"``."""
        return self.direction or TASKS[self.kind][1]
