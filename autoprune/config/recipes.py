"""How a phase trains: optimizer, schedule, length, teacher; and what of it can be searched."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.config.fields import check, option
from autoprune.errors import ConfigError

__all__ = ["RECIPE", "DistillSpec", "TrainSpec", "check_dense", "check_undropped"]


@dataclass(frozen=True, kw_only=True)
class DistillSpec:
    """Learning from the dense network, the teacher, beside the labels.

    Args:
        weight: Of the teacher's share of the loss; the labels have the rest.
        temperature: That both logits are divided by.
        views: Fixed augmented views of every image, for which the teacher's logits are stored; 0 asks the teacher
            about every batch.
    """

    weight: float = option(0.9, above=0, high=1)
    temperature: float = option(4.0, above=0, high=100)
    views: int = option(4, low=0, high=64)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One training phase: optimizer, schedule, length, teacher.

    Args:
        epochs: Length, in passes over the training images; a part of one, too. 0: nothing is trained.
        batch: Images a step.
        optimizer: ``adam`` has its weight decay in the gradient, ``adamw`` beside it.
        learning_rate: At its peak.
        schedule: ``one_cycle`` rises to the peak and falls to zero, ``cosine`` falls from it, and ``rise`` rises to it
            and stays there, for a phase that another one follows: two anneals in a row waste one.
        warmup: Share of the steps in which the rate rises, for ``one_cycle`` and ``rise``.
        momentum: Of ``sgd``, Nesterov's; of the others, the decay of the gradient's mean.
        weight_decay: Of every weight that the method gives no other.
        label_smoothing: Share of the label that is spread over all classes.
        augmentation: ``shift`` moves images by some pixels, ``crop_flip`` also mirrors them.
        drop_channels: Share of the prunable channels that each image does without, others in each step (DropFilter);
            for ``sparsify``.
        distill: A teacher; for ``finetune`` and ``sparsify``. ``{}`` takes all its defaults.
    """

    epochs: float = option(10.0, low=0, high=100_000)
    batch: int = option(128, low=1, high=1_000_000)
    optimizer: str = option("sgd", choices=("sgd", "adam", "adamw"))
    learning_rate: float = option(0.05, above=0, high=100)
    schedule: str = option("one_cycle", choices=("one_cycle", "cosine", "constant", "rise"))
    warmup: float = option(0.15, low=0, below=1)
    momentum: float = option(0.9, low=0, below=1)
    weight_decay: float = option(5e-4, low=0)
    label_smoothing: float = option(0.0, low=0, below=1)
    augmentation: str = option("none", choices=("none", "shift", "crop_flip"))
    drop_channels: float = option(0.0, low=0, below=1)
    distill: DistillSpec | None = None

    def __post_init__(self) -> None:
        check(self)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-serialisable data: what keys of phases and trials are made of."""
        recipe = dataclasses.asdict(self)
        if self.distill is None:
            del recipe["distill"]  # As before there were teachers, so that the keys of those studies stay.
        if not self.drop_channels:
            del recipe["drop_channels"]  # Likewise.
        return recipe

    def searched(self, names: Iterable[str]) -> dict[str, float]:
        """The recipe's own values of what is searched of it.

        Args:
            names: Some of `RECIPE`; those of a teacher only where there is one.
        """
        teacher = {} if self.distill is None else vars(self.distill)
        flat = {**vars(self), **{_TEACHER + key: value for key, value in teacher.items()}}
        return {name: float(flat[name]) for name in names}

    def with_searched(self, values: Mapping[str, float]) -> TrainSpec:
        """The recipe with some of what is searched of it replaced.

        Args:
            values: By the names of `RECIPE`.

        Raises:
            ConfigError: A value is out of its range, or of a teacher that there is none of.
        """
        own: dict[str, Any] = {name: value for name, value in values.items() if name in RECIPE and "." not in name}
        teacher: dict[str, Any] = {
            name.removeprefix(_TEACHER): v for name, v in values.items() if name.startswith(_TEACHER)
        }
        if teacher and self.distill is None:
            raise ConfigError(
                f"`{_TEACHER}{next(iter(teacher))}` can be searched where there is a teacher, but [train.finetune] has "
                "none. Add `distill = {}` there."
            )
        distill = self.distill if self.distill is None else dataclasses.replace(self.distill, **teacher)
        return dataclasses.replace(self, **own, distill=distill)


_TEACHER = "distill."
RECIPE = ("learning_rate", "epochs", f"{_TEACHER}weight", f"{_TEACHER}temperature")
"""What of a fine-tune phase can be searched."""


def check_dense(recipe: TrainSpec) -> None:
    """Refuse what the dense network can't be trained by.

    Raises:
        ConfigError: It has a teacher.
    """
    if recipe.distill is not None:
        raise ConfigError(
            "`distill` lets pruned networks learn from the dense one, so [train.dense] can't have it. Put it into "
            "[train.finetune] or [train.sparsify]."
        )


def check_undropped(recipe: TrainSpec, phase: str) -> None:
    """Refuse to drop channels in a phase that does not prepare for their removal.

    Raises:
        ConfigError: It drops channels.
    """
    if recipe.drop_channels:
        raise ConfigError(
            f"`drop_channels` makes networks ready for a cut, so [train.{phase}] can't have it, but it is "
            f"{recipe.drop_channels:g} there. Put it into [train.sparsify]."
        )
