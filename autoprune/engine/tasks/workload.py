"""What a study's networks are trained and scored on, whatever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from autoprune.config import TrainSpec
from autoprune.engine.asking import Forward
from autoprune.engine.contracts import Batches
from autoprune.engine.training import Feed, Runtime

__all__ = ["TestData", "Workload"]


@dataclass(frozen=True, eq=False)
class TestData:
    """What networks are scored on once the search is over.

    Args:
        fingerprint: Tells it from other data.
        n_examples: How many there are.
        score: The metric of a network on them, which is left in evaluation mode.
    """

    fingerprint: str
    n_examples: int
    score: Callable[[nn.Module], float]


class Workload(ABC):
    """Data, loss and score of a study. Built-in images are one, a user's Task is another."""

    forward: Forward
    """Runs as much of a network as is traced and can be pruned."""
    n_examples: int
    """Training examples of a pass."""
    n_validation: int
    """Validation examples."""

    @abstractmethod
    def run_by(self, runtime: Runtime) -> Self:
        """The same data with its networks run otherwise."""

    @property
    @abstractmethod
    def about(self) -> list[Any]:
        """What tells data, split and how they are seen from others, in this order, JSON-serialisable."""

    @property
    @abstractmethod
    def example(self) -> Any:
        """Inputs to trace on, a batch of one or more, on the CPU."""

    @property
    @abstractmethod
    def described(self) -> str:
        """Shapes of the inputs, for people."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What the record beside a network says of how to build and feed it, JSON-serialisable."""

    @abstractmethod
    def comparison(self) -> Any:
        """A batch of validation inputs to compare answers on, on the device."""

    @abstractmethod
    def feed(self, teacher: Any = None) -> Feed:
        """What phases train on.

        Args:
            teacher: Whom the network learns from; what `pipeline.teacher` made for this workload.
        """

    @abstractmethod
    def samples(self, n_examples: int, *, seed: int) -> Batches:
        """Training batches without augmentation of ours to measure on.

        Args:
            n_examples: How many, at least one batch.
            seed: Fixes which, where that is ours to say.
        """

    @abstractmethod
    def recalibrate(self, model: nn.Module, *, n_examples: int, seed: int) -> None:
        """Re-estimate the running statistics of every BatchNorm; see `engine.training.recalibrate`."""

    @abstractmethod
    def score(self, model: nn.Module) -> float:
        """The metric on the validation data; ``model`` is left in evaluation mode."""

    @abstractmethod
    def test(self) -> TestData:
        """The test data, which no part of the search may see.

        Raises:
            ConfigError: There is none.
            DataError: It is missing, unreadable, or not like what was trained on.
        """

    @abstractmethod
    def examples_in(self, n_steps: int, recipe: TrainSpec) -> int:
        """How many examples so many steps of a phase have seen, repetitions counted."""
