"""ResRep: compactors whose rows are driven to zero while the network itself goes on remembering."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.compactors import Pointwise
from autoprune.config import check, option
from autoprune.cost import CostModel, Limits, fit
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.engine.folding import Inserted, fold_compactors, insert, sites
from autoprune.errors import ConfigError
from autoprune.importances import GroupNorm, normalise
from autoprune.methods._by_group import by_group, scale_names
from autoprune.methods._travel import travel
from autoprune.widths import Scores, keep_best, remove_least

__all__ = ["ResRep", "forgotten_rows", "row_gradients", "smallest"]

_WAY = 1.5
"""How far a row of norm 1 must be able to travel to come to rest at zero: its last steps are slower."""


def row_gradients(rows: Tensor, slopes: Tensor, remembered: Tensor, *, strength: Tensor | float) -> Tensor:
    """``m_j · ∂L/∂Q_j + λ Q_j / ‖Q_j‖`` for each row: a forgotten row (m_j = 0) feels the lasso alone.

    Args:
        rows: Q, shape (C, C).
        slopes: Gradient of the loss by Q, shape (C, C).
        remembered: m, 0 or 1, shape (C,).
        strength: λ, >= 0, the same for all rows or of shape (C, 1).
    """
    norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    total: Tensor = remembered[:, None] * slopes + strength * rows / norms
    return total


def forgotten_rows(norms: Scores, cost: CostModel, *, limits: Limits) -> dict[str, NDArray[np.bool_]]:
    """The rows to forget: the smallest of all groups together, as many as the limits ask for.

    Args:
        norms: Of the rows, by group, shape (C,).
        cost: The network's cost model.
        limits: What must be kept once the rows are gone; each group's largest rows are its smallest width.

    Returns:
        By group, shape (C,): whether the row is to be forgotten.

    Raises:
        InfeasibleError: Even the smallest widths cost more.
    """
    kept = keep_best(cost, norms, remove_least(cost, norms, limits))
    forgotten = {name: np.ones(len(norm), dtype=np.bool_) for name, norm in norms.items()}
    for name, indices in kept.items():
        forgotten[name][indices] = False
    return forgotten


def smallest(forgotten: Mapping[str, NDArray[np.bool_]], norms: Scores, *, most: int) -> dict[str, NDArray[np.bool_]]:
    """Of the rows to forget no more than some, those of the smallest norms; of equal ones the first.

    Args:
        forgotten: By group, shape (C,).
        norms: Of all rows, by group, shape (C,).
        most: How many at most, >= 0.
    """
    whole = np.concatenate(list(forgotten.values()))
    order = np.argsort(np.where(whole, np.concatenate([norms[name] for name in forgotten]), np.inf), kind="stable")
    whole[order[most:]] = False
    return dict(zip(forgotten, np.split(whole, np.cumsum([len(one) for one in forgotten.values()])[:-1]), strict=True))


@dataclass(frozen=True)
class ResRep(Method):
    """ResRep (re-parameterised forgetting): a 1×1 compactor behind each BatchNorm loses rows, the rest remembers.

    Every row Q_j of a compactor feels ``λ Q_j / ‖Q_j‖`` besides the task, and those chosen to be forgotten feel it
    alone, so they go straight to zero while the network trains on. Chosen are the least rows of all groups together
    until the trial's limits are kept, a few more at every update; a row can be taken back. At the end compactors
    are merged into their convolutions, and the forgotten rows are removed. A channel that a depthwise layer hands on
    may still say a constant then, through the BatchNorm behind that layer. It goes with the channel; BN recalibration
    makes up for it where a BatchNorm follows.

    Args:
        strength: λ of forgotten rows, > 0. Left out, it follows from the length of the phase: a row must be able to
            travel from 1 to 0 in the steps that remain once all rows are chosen,
            ``λ Σ rate / (1 - momentum) >= 1.5``.
        drive: Multiple of that least strength, >= 1.
        remembered_strength: λ of the rows that are remembered, >= 0.
        prior: What the norms of rows are multiplied by when rows are chosen: ``"magnitude"``, the group norms of the
            dense network's channels over their mean, or ``"none"``.
        momentum: Of the compactors, in [0, 1). 0.99 in the paper, whose phases are a hundred times as long.
        warmup: Share of the phase before the first rows are chosen, in [0, 1).
        choosing: Share of the phase after it within which all are chosen, in (0, 1).
        interval: Steps from one choice to the next.
        scale_decay: Weight decay of every γ that a prunable channel passes. Compactors have none.

    Raises:
        ConfigError: A value out of range.

    References:
        Ding et al. (2021), ResRep: lossless CNN pruning via decoupling remembering and forgetting, arXiv 2007.03260.
        There no residual sum is pruned; here one compactor serves all branches that write it. Rows are removed because
        they were chosen, not because they are below 1e-5, and the choice is that of the width rule ``global``. The
        paper has one λ of 1e-4 for all rows, which parts them over hundreds of epochs. In a short phase the λ that
        forgotten rows need would crush the others too, so those keep the paper's, and what has no time to show in the
        norms comes from the prior.
    """

    name: ClassVar[str] = "resrep"
    shares_batches: ClassVar[bool] = True
    least_steps: ClassVar[int | None] = 1_400
    aims: ClassVar[bool] = True

    strength: float | None = option(None, above=0, high=1)
    drive: float = option(1.0, low=1, high=1000, search={"values": (1.0, 2.0, 4.0), "scale": "log"})
    remembered_strength: float = option(1e-4, low=0, high=1)
    prior: str = option("magnitude", choices=("magnitude", "none"))
    momentum: float = option(0.9, low=0, below=1)
    warmup: float = option(0.05, low=0, below=1)
    choosing: float = option(0.4, above=0, below=1)
    interval: int = option(10, low=1, high=1_000_000)
    scale_decay: float = option(0.0, low=0, high=1)

    def __post_init__(self) -> None:
        check(self)
        if self.warmup + self.choosing >= 1:
            raise ConfigError(
                f"`warmup` and `choosing` must leave some of the phase, but are {self.warmup:g} and "
                f"{self.choosing:g}. Lower one of them."
            )

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Put an identity behind every BatchNorm of a prunable channel.

        Raises:
            NetworkError: The channels of a group are not written by convolutions with BatchNorms.
            ConfigError: Rows can't reach zero within the phase, or the recipe's optimizer is not SGD.
        """
        strength = self.strength_for(plan)
        places = sites(model, traced)
        inserted = insert(model, [(Pointwise(group.width), places[group.name]) for group in traced.groups])
        rows = _Rows(inserted, traced, plan=plan, method=self, strength=strength, prior=self._prior(model, traced))
        names = [f"{one.prefix}weight" for one in inserted]
        return Hooks(
            transform_gradients=rows.transform_gradients,
            after_step=rows.count_step,
            weight_decay=dict.fromkeys(scale_names(traced), self.scale_decay) | dict.fromkeys(names, 0.0),
            momentum=dict.fromkeys(names, self.momentum),
            state=rows,
            fold=lambda batches: fold_compactors(model, inserted, batches, forward=traced.forward),
        )

    def _prior(self, model: nn.Module, traced: Traced) -> Scores:
        if self.prior == "none":
            return {group.name: np.ones(group.width) for group in traced.groups}
        return normalise(GroupNorm().score(model, traced, batches=()), "mean", traced.cost)

    def strength_for(self, plan: PhasePlan) -> float:
        """λ for a phase.

        Raises:
            ConfigError: It is too weak for the length of the phase, or the recipe's optimizer is not SGD.
        """
        if plan.recipe.optimizer != "sgd":
            raise ConfigError(
                "resrep needs `optimizer` = 'sgd' in [train.sparsify], since its lasso counts on steps in proportion "
                f"to gradients, but got {plan.recipe.optimizer!r}. Change it."
            )
        first = math.ceil((self.warmup + self.choosing) * plan.n_steps)
        way = travel(plan.recipe, plan.n_steps, first=first, momentum=self.momentum)
        if way <= 0:
            raise ConfigError(
                "resrep needs steps that are left once all rows are chosen, but the sparsify phase has none. Raise "
                "`epochs` in [train.sparsify]."
            )
        if self.strength is None:
            return self.drive * _WAY / way
        if self.strength * way < _WAY:
            raise ConfigError(
                f"`strength` must drive rows to zero in time, strength · Σ rate / (1 - momentum) >= {_WAY}, but from "
                f"step {first} of {plan.n_steps} on it is {self.strength:g} · {way:.4g} = {self.strength * way:.3g}. "
                f"Give at least {1.01 * _WAY / way:.2g}, a longer phase, or no `strength`."
            )
        return self.strength

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """The norm of a channel's row times its prior; 0 or less where it was chosen to be forgotten."""
        norms, remembered = state["norm"].cpu().double().numpy(), state["remembered"].cpu().numpy() > 0
        least = np.finfo(np.float64).tiny
        return by_group(np.where(remembered, np.maximum(norms, least), norms - norms.max(initial=0.0)), traced)


class _Rows:
    """Which rows are remembered, and the gradients of all."""

    def __init__(
        self,
        inserted: Sequence[Inserted],
        traced: Traced,
        *,
        plan: PhasePlan,
        method: ResRep,
        strength: float,
        prior: Scores,
    ) -> None:
        self._weights = [one.compactor.weight for one in inserted if isinstance(one.compactor, Pointwise)]
        self._cost, self._plan, self._method, self._strength = traced.cost, plan, method, strength
        device = next((weight.device for weight in self._weights), torch.device("cpu"))
        self._remembered = torch.ones(sum(traced.cost.dense), device=device)
        whole = np.concatenate([np.zeros(0), *(prior[name] for name in traced.cost.groups)])
        self._prior = torch.from_numpy(whole).to(self._remembered)
        self._step = 0
        any_width = dataclasses.replace(plan.limits, multiple=1)
        n_least = sum(traced.cost.dense) - sum(fit(traced.cost, any_width).values())
        self._n_updates = max(1, int(method.choosing * plan.n_steps / method.interval))
        self._granularity = max(1, math.ceil(2 * n_least / self._n_updates))  # A ranking mostly takes more than `fit`.

    def transform_gradients(self) -> None:
        """The lasso on all rows, the task on those remembered."""
        for weight, part in zip(self._weights, self._split(self._remembered), strict=True):
            if weight.grad is not None:
                strengths = torch.where(part > 0, self._method.remembered_strength, self._strength)[:, None]
                weight.grad = row_gradients(weight.detach(), weight.grad, part, strength=strengths)

    def count_step(self) -> None:
        """Choose anew where it is time."""
        since = self._step - round(self._method.warmup * self._plan.n_steps)
        if since >= 0 and since % self._method.interval == 0:
            self._choose(n_left=max(1, self._n_updates - since // self._method.interval))
        self._step += 1

    def _choose(self, *, n_left: int) -> None:
        """Forget some more rows, so many that all are forgotten after ``n_left`` updates, this one counted."""
        cost, parts = self._cost, self._split(self._remembered)
        norms = dict(zip(cost.groups, np.split(self._sizes().cpu().double().numpy(), self._ends()), strict=True))
        widths = {name: int(part.sum()) for name, part in zip(cost.groups, parts, strict=True)}
        chosen = forgotten_rows(norms, cost, limits=self._plan.limits)
        if not self._plan.limits.keeps(cost, widths):
            n_forgotten = sum(cost.dense) - sum(widths.values())
            n_missing = sum(int(part.sum()) for part in chosen.values()) - n_forgotten
            n_more = max(self._granularity, math.ceil(n_missing / n_left))
            chosen = smallest(chosen, norms, most=n_forgotten + n_more)
        remembered = np.concatenate([~chosen[name] for name in cost.groups])
        self._remembered.copy_(torch.from_numpy(remembered))

    def _sizes(self) -> Tensor:
        return torch.cat([weight.detach().norm(dim=1) for weight in self._weights]) * self._prior

    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self._cost.dense)[:-1]

    def _split(self, values: Tensor) -> Sequence[Tensor]:
        return torch.tensor_split(values, self._ends().tolist())

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered and how large all rows are, each of shape (all channels,), and the count of steps."""
        return {"remembered": self._remembered, "norm": self._sizes(), "step": torch.tensor(self._step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off; sizes come with the compactors."""
        self._remembered.copy_(state["remembered"])
        self._step = int(state["step"])
