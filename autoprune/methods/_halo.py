"""HALO: a lasso whose strength for each channel is trained beside the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.config import check, option
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.importances import NORMALISATIONS, normalise
from autoprune.methods._by_group import by_group
from autoprune.methods._penalised import ACTS_ON, PenalisedValues, penalised
from autoprune.methods._scored_by import SCORED_BY, SEARCHED, scores_left
from autoprune.widths import Scores

__all__ = ["Halo", "halo_gradients", "halo_value"]

_STRENGTHS = {"low": 1e-5, "high": 1e-2, "scale": "log", "points": 4}  # Few, so that trials share phases.
_SMALLEST, _LARGEST = 1e-2, 1e2  # 1 / λ**2 must not explode, and a channel must be able to come back.


def halo_value(x: Tensor, scale: Tensor, *, strength: float, price: float) -> Tensor:
    """``sum(strength |x| / λ**2 + price |λ|)``, a scalar.

    Args:
        x: What is driven to zero, shape (C,).
        scale: λ, shape (C,), not 0.
        strength: ξ, of the lasso where λ is 1.
        price: ψ, of a large λ.
    """
    return (strength * x.abs() / scale.square() + price * scale.abs()).sum()


def halo_gradients(x: Tensor, scale: Tensor, *, strength: float, price: float) -> tuple[Tensor, Tensor]:
    """Gradients of `halo_value` by ``x`` and by λ, each of shape (C,)."""
    by_x = strength * torch.sign(x) / scale.square()
    by_scale = price * torch.sign(scale) - 2 * strength * x.abs() / scale**3
    return by_x, by_scale


@dataclass(frozen=True)
class Halo(Method):
    """HALO (hierarchical adaptive lasso): important channels earn a weak penalty, the others a strong one.

    The loss gets ``sum(strength |x| / λ**2 + ψ λ)`` with a trained λ for each channel and ``ψ = 2 strength pivot``. At
    the best λ for a given x, ``λ* = (|x| / pivot)**(1/3)``, this is an ℓ_{1/3} penalty: channels below the pivot feel
    more than ``strength``, those above it less. λ is trained by SGD with momentum 0.9 and kept in [0.01, 100]. It has
    no weight decay, which would turn the penalty into ℓ_{1/2} and leave ψ without effect.

    Args:
        strength: ξ, the slope where λ is 1, > 0.
        pivot: The size of a scale or norm at which λ comes to rest at 1, > 0.
        start: λ before the first step, in [0.01, 100]. None: where each comes to rest, ``(|x| / pivot)**(1/3)``, since
            in a phase of a few hundred steps it would not come there.
        rate: Learning rate of λ as a multiple of the network's, > 0.
        acts_on: ``"scales"`` of BatchNorms, and filters in their unit where there are none, ``"group_scales"``, or
            ``"norms"`` of filters; see `Slimming`. Where a channel has several scales, they share its λ, which sees
            their mean.
        scale_decay: Weight decay of every γ that a prunable channel passes; as in `Slimming`.
        scored_by: ``"size"`` of what was penalised, ``"lambda"``, which forgets more slowly, or ``"damage"``; see
            `Slimming`.
        normalisation: See `importances.normalise`.

    References:
        Seto, Wells and Zhang (2021), HALO: learning to prune neural networks with shrinkage, arXiv 2008.10183. There
        each weight has its λ, which starts at 1, and λ the network's weight decay; one for each channel, its pivot,
        its start, its clamp and ranking by damage are ours.
    """

    name: ClassVar[str] = "halo"
    shares_batches: ClassVar[bool] = True
    ranking: ClassVar[tuple[str, ...]] = ("scored_by", "normalisation")

    strength: float = option(1e-3, above=0, high=1, search=_STRENGTHS)
    pivot: float = option(0.2, above=0, high=100, search={"values": (0.02, 0.2, 2.0), "scale": "log"})
    start: float | None = option(None, low=_SMALLEST, high=_LARGEST)
    rate: float = option(1.0, above=0, high=1000)
    acts_on: str = option("scales", choices=ACTS_ON)
    scale_decay: float = option(0.0, low=0, high=1)
    scored_by: str = option("size", choices=("lambda", *SCORED_BY), search=SEARCHED)
    normalisation: str = option("none", choices=NORMALISATIONS)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Make the λ of every channel; the network itself is not changed.

        Raises:
            NetworkError: All that it could act on is frozen, or there is none.
        """
        target = penalised(model, traced, acts_on=self.acts_on)
        strengths = _Strengths(target, self)
        return Hooks(
            transform_gradients=strengths.add_gradients,
            shrink=strengths.move,
            weight_decay=dict.fromkeys(target.scales, self.scale_decay),
            state=strengths,
        )

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """What is left of each channel: of its size, or of what it does; or λ, small where it was forgotten."""
        if self.scored_by == "lambda":
            scores = by_group(state["lambda"].cpu().double().numpy(), traced)
        else:
            scores = scores_left(
                model, traced, scored_by=self.scored_by, state=state, batches=batches, acts_on=self.acts_on
            )
        return normalise(scores, self.normalisation, traced.cost)


class _Strengths:
    """λ of every channel, and how it moves."""

    def __init__(self, target: PenalisedValues, method: Halo) -> None:
        self._target, self._method = target, method
        channels = target.channels
        self._count = torch.zeros(target.n_channels, device=channels.device)
        self._count.index_add_(0, channels, torch.ones(len(channels), device=channels.device))
        self._lambda = self._at_rest() if method.start is None else torch.full_like(self._count, method.start)
        self._velocity, self._slope = torch.zeros_like(self._lambda), torch.zeros_like(self._lambda)

    def _at_rest(self) -> Tensor:
        """λ* of every channel, for the mean size of what it has; 1 where it has nothing."""
        total = torch.zeros_like(self._count)
        total.index_add_(0, self._target.channels, self._target.values().abs().to(total.dtype))
        found = (total / self._count.clamp_min(1) / self._method.pivot) ** (1 / 3)
        return torch.where(self._count > 0, found.clamp(_SMALLEST, _LARGEST), 1.0)

    def add_gradients(self) -> None:
        """Both gradients at the same point: the network's is added, that of λ waits for its step."""
        method, channels, x = self._method, self._target.channels, self._target.values()
        price = 2 * method.strength * method.pivot
        by_x, by_lambda = halo_gradients(x, self._lambda[channels], strength=method.strength, price=price)
        self._target.add_gradient(by_x)
        total = torch.zeros_like(self._lambda).index_add_(0, channels, by_lambda.float())
        self._slope = total / self._count.clamp_min(1)

    def move(self, rate: float) -> None:
        """A step of SGD for λ."""
        # At a small λ the slope is that of 1 / λ**3: one such step would throw it to the other end of its range.
        self._velocity.mul_(0.9).add_(self._slope.clamp(-1, 1))
        self._lambda.sub_(rate * self._method.rate * self._velocity).clamp_(_SMALLEST, _LARGEST)

    def state_dict(self) -> dict[str, Tensor]:
        """λ and its momentum, each of shape (all channels,); and the units of filters, where there are some."""
        units = {} if self._target.units is None else self._target.units.state_dict()
        return {"lambda": self._lambda, "velocity": self._velocity, **units}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        self._lambda.copy_(state["lambda"])
        self._velocity.copy_(state["velocity"])
        if self._target.units is not None:
            self._target.units.load_state_dict(state)
