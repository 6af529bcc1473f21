"""What a kind of task is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from autoprune.config import TrainSpec
from autoprune.engine.asking import ask
from autoprune.engine.training import answer_of, divergence
from autoprune.errors import ConfigError, DataError

__all__ = ["Kind", "Losses", "Metric", "alike", "shape_of", "softened_apart", "torchmetrics_at_hand"]

_TARGETS = ("labels", "label", "targets", "target", "masks", "mask")

Losses = Tensor | Mapping[str, Tensor]
"""A scalar, or some by name, which are added."""


class Metric(Protocol):
    """What torchmetrics calls one: it is shown batch after batch."""

    def update(self, preds: Any, target: Any) -> None:
        """Take in a batch."""

    def compute(self) -> Any:
        """The value over all batches."""

    def reset(self) -> None:
        """Forget them."""


class Kind(ABC):
    """What goes without saying for tasks of a kind: how a network is run, its loss, its metric. Kinds have no state.

    The name and direction of each one's metric stand in `config.TASKS`.
    """

    name: ClassVar[str]
    recipe: ClassVar[TrainSpec] = TrainSpec(epochs=10, learning_rate=0.01)
    """How pruned networks are trained where nobody says; gentle, since nothing is known of the network."""
    teaches: ClassVar[bool] = True
    """Whether `distill` knows what is learnt from a teacher."""

    def parts(self, batch: Any) -> tuple[Any, Any]:
        """Inputs and targets of a batch; targets are None where it has none.

        Args:
            batch: A mapping, whose targets are those of `_TARGETS`; or a tuple or list that ends with the targets, what
                comes before being one input or several.
        """
        if isinstance(batch, Mapping):
            named = next((name for name in _TARGETS if name in batch), None)
            return {key: value for key, value in batch.items() if key != named}, None if named is None else batch[named]
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            return batch, None
        inputs = batch[0] if len(batch) == 2 else tuple(batch[:-1])
        # torch's own collation makes lists of tuples.
        return (tuple(inputs) if isinstance(inputs, list) else inputs), batch[-1]

    def core(self, model: nn.Module, inputs: Any) -> Any:
        """Run as much of a network as can be pruned; what comes out stays as it is."""
        return ask(model, inputs)

    def exported(self, model: nn.Module, inputs: Any) -> Any:
        """Inputs as a file of `core` takes them, made of those that the network takes."""
        return inputs

    def whole(self, model: nn.Module, inputs: Any) -> Any:
        """Run all of a network in evaluation mode; what its metric is shown."""
        return ask(model, inputs)

    def trained(self, model: nn.Module, inputs: Any, targets: Any) -> Any:
        """Run a network in training mode; what its loss is computed of."""
        return ask(model, inputs)

    @abstractmethod
    def loss(self, output: Any, targets: Any, spec: TrainSpec) -> Losses:
        """The loss of what `trained` gave.

        Args:
            output: Of the network.
            targets: Of the batch.
            spec: The recipe; label smoothing counts.

        Raises:
            DataError: Output and targets don't fit.
        """

    @abstractmethod
    def metric(self, output: Any) -> Metric:
        """A fresh metric for networks that answer with the like of ``output``, which `whole` gave."""

    @abstractmethod
    def predictions(self, output: Any) -> Any:
        """What the metric is shown of what `whole` gave."""

    def measure(self, metric: Metric, output: Any, targets: Any) -> None:
        """Show the metric a batch: what `whole` gave, and the targets."""
        metric.update(self.predictions(output), targets)

    def distill(self, student: Any, teacher: Any, *, temperature: float) -> Tensor:
        """How far what `trained` gave for the student is from what `whole` gave for the teacher; a scalar.

        Raises:
            ConfigError: There is nothing that students of this kind learn by default.
        """
        raise ConfigError(
            f"`distill` can't be used with a task of the kind {self.name!r} unless the task says what is learnt from a "
            "teacher. Give the Task `distill`, a function of what student and teacher answer, or drop it."
        )


def alike(student: Any, teacher: Any) -> tuple[Tensor, Tensor]:
    """What student and teacher answer, in float32, which must be of one shape.

    Raises:
        DataError: It is not.
    """
    ours, theirs = (answer_of(output).logits.float() for output in (student, teacher))
    if ours.shape != theirs.shape:
        raise DataError(
            f"`distill` needs a student and a teacher whose answers have one shape, but they have {tuple(ours.shape)} "
            f"and {tuple(theirs.shape)}. Let the network answer alike in training and evaluation mode, or give the "
            "Task `distill`."
        )
    return ours, theirs


def softened_apart(student: Any, teacher: Any, *, temperature: float) -> Tensor:
    """``T^2 KL(softmax(t / T) || softmax(s / T))`` of what both answer, mean over all but the classes, on axis 1."""
    ours, theirs = (logits.movedim(1, -1).flatten(0, -2) for logits in alike(student, teacher))
    return temperature * temperature * divergence(ours, theirs, temperature=temperature)


def shape_of(targets: Any) -> Any:
    """The shape of a batch's targets, or what they are where they are no tensor, for people."""
    return tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__


@contextmanager
def torchmetrics_at_hand() -> Iterator[None]:
    """Tells who needs torchmetrics, which is not needed for anything else, that it is not installed.

    Raises:
        ConfigError: Something within could not be imported.
    """
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"the metric of this kind of task needs torchmetrics, but it can't be imported ({error}). Run: pip install "
            "autoprune[tasks], or give the Task a `metric` of your own."
        ) from None
