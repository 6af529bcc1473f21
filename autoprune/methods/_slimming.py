"""Network slimming: a penalty on channels while training, which are then ranked by what is left of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.config import check, option
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Method, Penalty, PhasePlan
from autoprune.importances import NORMALISATIONS, normalise
from autoprune.methods._penalised import ACTS_ON, PenalisedValues, penalised
from autoprune.methods._scored_by import SCORED_BY, SEARCHED, scores_left
from autoprune.methods._travel import travel
from autoprune.widths import Scores

__all__ = ["Slimming"]


@dataclass(frozen=True)
class Slimming(Method):
    """A penalty on the scales γ of prunable channels, or on their filters where they have none, while training.

    The sub-gradient is added to the gradient, so it passes through momentum. The proximal form shrinks after each
    optimizer step instead and makes exact zeros; its step is ``rate / (1 - momentum)`` with SGD, which is as far as a
    constant gradient comes to move a weight in one step, so that a strength means the same in both forms. With Adam it
    is ``rate``.

    Args:
        penalty: What pulls; its hyper-parameters are the method's, too.
        reach: How far a slope of ``strength`` moves what is penalised within the phase, as a multiple of its median
            size as the phase begins: ``strength = reach · median |x| · (1 - momentum) / Σ rate``, and no more than the
            penalty's other hyper-parameters allow. 1 brings the typical channel to zero if the task does not mind,
            whatever the length of the phase is. None: ``strength`` as it is given.
        form: ``"subgradient"`` or ``"prox"``.
        acts_on: ``"scales"`` of BatchNorms, and in channel groups that pass none the ℓ2 norm of all filters that write
            a channel, divided by the group's mean norm and multiplied by the network's mean ``|γ|`` as they are when
            the phase begins (by 0.5 where there is no γ): in this unit a strength, a knee or a bend means the same for
            both. ``"group_scales"``: the same with one number for all scales of a channel, their ℓ2 norm, since a
            channel of a residual sum goes only when all of its scales are gone. Or ``"norms"``, those of all channels
            as they are; before a BatchNorm they have no effect. What is frozen is left alone.
        scale_decay: Weight decay of every γ that a prunable channel passes, >= 0; it pulls on top of the penalty, so it
            is chosen apart. β has the recipe's, as has everything where the penalty acts on norms.
        scored_by: What ranks the channels afterwards: ``"size"``, ``|γ|`` as in the paper, or the norm of the filters
            in that unit; or ``"damage"`` at the next layer, which counts what others make of a channel, too.
        normalisation: What scores are divided by before channels of different layers are compared; see
            `importances.normalise`.

    References:
        Liu et al. (2017), arXiv 1708.06519. Only prunable channels are penalised; the reference penalises every
        BatchNorm. Norms in the unit of scales, those of a channel's scales, reach and ranking by damage are ours.
    """

    part: ClassVar[str] = "penalty"
    shares_batches: ClassVar[bool] = True
    ranking: ClassVar[tuple[str, ...]] = ("scored_by", "normalisation")

    penalty: Penalty
    reach: float | None = option(None, above=0, high=1000, search={"values": (1.0, 2.0, 4.0, 8.0), "scale": "log"})
    form: str = option("subgradient", choices=("subgradient", "prox"), search={"values": ("prox", "subgradient")})
    acts_on: str = option("scales", choices=ACTS_ON)
    scale_decay: float = option(0.0, low=0, high=1)
    scored_by: str = option("size", choices=SCORED_BY, search=SEARCHED)
    normalisation: str = option("none", choices=NORMALISATIONS)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Find what is penalised; the network is not changed.

        Raises:
            NetworkError: All that it could act on is frozen, or there is none.
            ConfigError: The proximal step is too long at the recipe's learning rate.
        """
        target = penalised(model, traced, acts_on=self.acts_on)
        penalty = self._reaching(target, plan)
        decay = dict.fromkeys(target.scales, self.scale_decay)
        if self.form == "subgradient":
            return Hooks(
                transform_gradients=lambda: target.add_gradient(penalty.gradient(target.values())),
                weight_decay=decay,
                state=target.units,
            )
        gain = 1 / (1 - plan.recipe.momentum) if plan.recipe.optimizer == "sgd" else 1.0
        penalty.prox(torch.zeros(1), gain * plan.recipe.learning_rate)  # Refused before training, not in its midst.
        return Hooks(
            shrink=lambda rate: target.assign(penalty.prox(target.values(), gain * rate)),
            weight_decay=decay,
            state=target.units,
        )

    def _reaching(self, target: PenalisedValues, plan: PhasePlan) -> Penalty:
        """The penalty at the strength that comes so far."""
        way = travel(plan.recipe, plan.n_steps, momentum=plan.recipe.momentum if plan.recipe.optimizer == "sgd" else 0)
        typical = float(target.values().abs().median())
        if self.reach is None or not way or not typical:
            return self.penalty
        return self.penalty.with_strength(self.reach * typical / way)

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """What is left of each channel: of its size, or of what it does."""
        scores = scores_left(
            model, traced, scored_by=self.scored_by, state=state, batches=batches, acts_on=self.acts_on
        )
        return normalise(scores, self.normalisation, traced.cost)
