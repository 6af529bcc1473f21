"""Classification of the images of [data], which is what a study does unless it has a task of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from autoprune.config import TrainSpec
from autoprune.engine.asking import ask
from autoprune.engine.contracts import Batches
from autoprune.engine.images import ImageSet, Splits
from autoprune.engine.tasks.workload import TestData, Workload
from autoprune.engine.training import Feed, ImageFeed, Runtime, Samples, accuracy, recalibrate

__all__ = ["ImageWorkload"]

_N_COMPARED = 16


class ImageWorkload(Workload):
    """Labelled images of one size, held as bytes, augmented and normalised by us.

    Args:
        splits: Training and validation images.
        runtime: Where and how networks run.
        load_test: Opens the test split; its images, and the hash of their content.
    """

    def __init__(self, splits: Splits, runtime: Runtime, *, load_test: Callable[[], tuple[ImageSet, str]]) -> None:
        self.splits, self._runtime, self._load_test = splits, runtime, load_test
        self.forward = ask
        self.n_examples, self.n_validation = len(splits.train), len(splits.validation)

    def run_by(self, runtime: Runtime) -> Self:
        """The same images, which are read once."""
        other = copy.copy(self)
        other._runtime = runtime
        return other

    @property
    def about(self) -> list[Any]:
        """Hashes of content and indices, mean and deviation."""
        preprocess = self.splits.preprocess
        return [self.splits.fingerprint, self.splits.indices_digest, preprocess.mean, preprocess.std]

    @property
    def example(self) -> Tensor:
        """An empty image."""
        return torch.zeros(1, *self.splits.train.shape)

    @property
    def described(self) -> str:
        """Channels, height and width."""
        return f"{' x '.join(str(size) for size in self.splits.train.shape)} images"

    def record(self) -> dict[str, Any]:
        """Number of classes, shape and normalisation."""
        preprocess = self.splits.preprocess
        return {
            "n_classes": self.splits.n_classes,
            "image_shape": list(self.splits.train.shape),
            "normalisation": {"mean": list(preprocess.mean), "std": list(preprocess.std)},
        }

    def comparison(self) -> Tensor:
        """A few validation images, normalised."""
        images = self.splits.validation
        return self._runtime.inputs(next(images.read([torch.arange(min(_N_COMPARED, len(images)))])))

    def feed(self, teacher: Any = None) -> Feed:
        """The training images."""
        return ImageFeed(self.splits.train, teacher=teacher)

    def samples(self, n_examples: int, *, seed: int) -> Batches:
        """Some of the training images."""
        return Samples(self.splits.train, self._runtime, n_examples, seed)

    def recalibrate(self, model: nn.Module, *, n_examples: int, seed: int) -> None:
        """On training images without augmentation."""
        recalibrate(model, self.samples(n_examples, seed=seed), runtime=self._runtime)

    def score(self, model: nn.Module) -> float:
        """Top-1 accuracy on the validation images."""
        return accuracy(model, self.splits.validation, runtime=self._runtime)

    def test(self) -> TestData:
        """The test images."""
        images, content = self._load_test()
        return TestData(content, len(images), lambda model: accuracy(model, images, runtime=self._runtime))

    def examples_in(self, n_steps: int, recipe: TrainSpec) -> int:
        """Whole batches."""
        return n_steps * min(recipe.batch, self.n_examples)
