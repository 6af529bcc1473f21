"""The contracts of the engine's families: penalties, importances, compactors and methods."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.config import TrainSpec
from autoprune.cost import Limits
from autoprune.engine.channels import Traced
from autoprune.errors import ConfigError
from autoprune.widths import Damages, Scores

__all__ = [
    "Batches",
    "Compactor",
    "Hooks",
    "Importance",
    "Loss",
    "Method",
    "Penalty",
    "PhasePlan",
    "Stateful",
    "loss_on",
]

Batches = Iterable[tuple[Any, Any]]
"""A few training batches to measure on, inputs and targets on the network's device: of images (N, C, H, W), normalised,
and their classes (N,). Of any other task ``traced.forward(model, inputs)`` runs the network, and `loss_on` tells its
loss. They are the same each time they are gone through, and read only then."""

Loss = Callable[[nn.Module, Any, Any], Tensor]
"""The loss of a network on a batch, ``loss(model, inputs, targets)``, a scalar."""


def loss_on(batches: Batches) -> Loss:
    """The loss that goes with batches: their own ``loss``, or the cross-entropy of logits where they have none."""
    return getattr(batches, "loss", _cross_entropy)


def _cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).float(), targets)


class Penalty(ABC):
    """A scalar added to the loss that drives channels to zero.

    Subclasses are frozen dataclasses of hyper-parameters alone, each with its search range. What ``x`` holds, BatchNorm
    scales or norms of filters, is the method's affair; it comes in float32 or float64, and results have its type.
    """

    least_steps: ClassVar[int | None] = None
    """See `Method.least_steps`."""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """Sum of the penalty over ``x``, shape (C,), any sign; a scalar >= 0."""

    @abstractmethod
    def gradient(self, x: Tensor) -> Tensor:
        """Sub-gradient at ``x``, shape (C,); 0 where ``x`` is 0."""

    @abstractmethod
    def prox(self, x: Tensor, step: float) -> Tensor:
        """Minimiser over z of ``(z - x)**2 / 2 + step * value(z)``, elementwise, shape (C,), with exact zeros.

        A penalty that smooths value and gradient at zero gives the minimiser for its form without smoothing.

        Raises:
            ConfigError: The step is too long for a closed form.
        """

    @property
    def most_strength(self) -> float:
        """The largest ``strength`` that goes with its other hyper-parameters."""
        return 1.0

    def with_strength(self, strength: float) -> Self:
        """The same at another strength, or at `most_strength` where that is less.

        Raises:
            ConfigError: It has no hyper-parameter of that name.
        """
        mine: Any = self
        if not any(field.name == "strength" for field in dataclasses.fields(mine)):
            raise ConfigError(
                f"`reach` sets the `strength` of a penalty, but {type(self).__name__} has none. Drop `reach`."
            )
        changed: Self = dataclasses.replace(mine, strength=min(strength, self.most_strength))
        return changed


class Importance(ABC):
    """A score that ranks the channels of every group; subclasses are frozen dataclasses of hyper-parameters alone."""

    least_steps: ClassVar[int | None] = None
    """See `Method.least_steps`."""
    needs_scales: ClassVar[bool] = False
    """Whether there must be a BatchNorm with scales behind every prunable channel."""
    is_comparable: ClassVar[bool] = False
    """Whether scores of different groups compare as they are, so that nothing need be divided out."""

    @abstractmethod
    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """Score each channel, finite; higher stays. ``model`` is in evaluation mode and left as it is.

        Args:
            model: The network.
            traced: Its channel groups.
            batches: For scores that are measured on data.
        """

    def damages(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Damages | None:
        """What it does to remove channels together, for width rules that go by it; see `widths.Damages`.

        None, the default: the damage at the next layer.

        Args:
            model: The network; left as it is.
            traced: Its channel groups.
            batches: What it is measured on.
        """
        return None


class Compactor(nn.Module, ABC):
    """Mixes the channels of a group between a convolution's BatchNorm and what follows, and learns which can go.

    In evaluation mode it is one matrix, so that it folds into the convolution. It begins as the identity there.
    """

    @abstractmethod
    def forward(self, x: Tensor, norm: _BatchNorm) -> Tensor:
        """What follows in place of ``x``, the output of ``norm``; both of shape (N, C, H, W)."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """What it multiplies the channels by in evaluation mode, shape (C, C), detached, in float32 or wider."""


@dataclass(frozen=True)
class PhasePlan:
    """What a method is told of the sparsify phase before it begins.

    Args:
        recipe: The study's recipe of the phase.
        n_steps: Its length, >= 1 unless the recipe has no epochs.
        limits: What the trial's widths must keep; for methods that aim at it.
    """

    recipe: TrainSpec
    n_steps: int
    limits: Limits = field(default_factory=Limits)


class Stateful(Protocol):
    """State that a method trains or counts, to be saved with the phase."""

    def state_dict(self) -> dict[str, Tensor]:
        """All of it, by name."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""


def _nothing() -> None:
    return None


def _nothing_at(_: float) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a method does in each step of the sparsify phase; what it does not name does nothing.

    One step: forward, loss + ``extra_loss``, backward, ``transform_gradients``, optimizer, ``shrink``, ``after_step``.
    Where the gradients overflowed in float16, the last three are left out. After the last step comes ``fold``.

    Args:
        recipe: Trains the phase instead of the study's recipe; as many epochs and the same batches.
        extra_loss: A differentiable scalar added to the loss, or None.
        transform_gradients: Edits ``.grad`` in place.
        shrink: Proximal or clamping step on the parameters, given the learning rate.
        after_step: Schedules, running statistics, masks.
        weight_decay: Weight decay by parameter name, where it differs from the recipe's.
        momentum: Momentum by parameter name, where it differs from the recipe's.
        state: What must be saved with the phase beyond the network's weights.
        fold: Takes out again what `Method.attach` put into the network, so that it has its own layers and no others;
            its outputs stay as they are (to 1e-4). The network is in evaluation mode. None where nothing was put in.
    """

    recipe: TrainSpec | None = None
    extra_loss: Callable[[], Tensor] | None = None
    transform_gradients: Callable[[], None] = _nothing
    shrink: Callable[[float], None] = _nothing_at
    after_step: Callable[[], None] = _nothing
    weight_decay: Mapping[str, float] = field(default_factory=dict)
    momentum: Mapping[str, float] = field(default_factory=dict)
    state: Stateful | None = None
    fold: Callable[[Batches], None] | None = None


class Method(ABC):
    """A named recipe: what is penalised, by what, how channels are ranked afterwards.

    Subclasses are frozen dataclasses; their fields are the hyper-parameters, each with its search range.
    """

    name: ClassVar[str]
    least_steps: ClassVar[int | None] = None
    """Steps of a sparsify phase from which on it acts and ``methods = ["*"]`` means it, too; None: by name alone."""
    trains: ClassVar[bool] = True
    """Whether there is a sparsify phase at all."""
    aims: ClassVar[bool] = False
    """Whether the sparsify phase depends on the trial's limits; trials of different limits then share none."""
    shares_batches: ClassVar[bool] = False
    """Whether several processes may train its sparsify phase, each on a share of every batch. `Hooks` then run in one
    of them, on the gradients of the whole batch; nothing of theirs may depend on what passes through the network."""
    part: ClassVar[str] = ""
    """The field that holds the penalty or importance which the method is made with; empty where it has none."""
    ranking: ClassVar[tuple[str, ...]] = ()
    """Hyper-parameters that only `rank` and `accompany` look at: trials that differ in no others share their sparsify
    phase."""

    @abstractmethod
    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Prepare ``model`` in place for the sparsify phase; its outputs in evaluation mode stay as they are (to 1e-6).

        Args:
            model: The dense network, on the device that it will be trained on.
            traced: Its channel groups.
            plan: Recipe and length of the phase.

        Raises:
            NetworkError: The method has nothing to work on: all of it is frozen, or it needs layers that are not there.
            ConfigError: Hyper-parameters and recipe do not go together.
        """

    @abstractmethod
    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """Score the channels of every group after the sparsify phase, comparable between groups.

        A method that decides by itself gives 0 or less to the channels that it decided against, in the order in which
        it would take them back; the width rule ``learned`` then removes these and no others.

        Args:
            model: The network with the phase's weights, in evaluation mode; left as it is.
            traced: Its channel groups.
            state: What `Hooks.state` held at the end of the phase; empty where it is None.
            batches: For scores that are measured on data.
        """

    def damages(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Damages | None:
        """What it does to remove channels together after the phase; as `Importance.damages`.

        Args:
            model: The network with the phase's weights; left as it is.
            traced: Its channel groups.
            batches: What it is measured on.
        """
        return None

    @property
    def accompanies(self) -> bool:
        """Whether it has a part in the fine-tune phase, too: see `accompany`."""
        return False

    def accompany(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """What it does in the fine-tune phase of the pruned network; nothing unless it `accompanies`.

        Args:
            model: The pruned network, on the device that it will be trained on.
            traced: Its channel groups, as wide as they are now.
            plan: Recipe and length of the phase. Its ``hooks.recipe`` plays no part.

        Raises:
            NetworkError: There is nothing left to work on.
        """
        return Hooks()

    @property
    def silence(self) -> float:
        """Removed channels of at most this size count as constants, which move to their readers.

        All of a channel's scales are at most that, or where it has none the norm of its filters is.
        """
        return 0.0
