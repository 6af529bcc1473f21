"""Implicit sparsity: an adaptive optimizer and plain L2 starve channels that few images excite."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.config import check, option
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.engine.folding import silent_channels
from autoprune.errors import DataError
from autoprune.methods._penalised import penalised
from autoprune.methods._scored_by import SCORED_BY, SEARCHED, scores_left
from autoprune.widths import Scores

__all__ = ["Implicit", "universality"]

_OPTIMIZERS = {"adam_l2": "adam", "adamw": "adamw", "sgd_l2": "sgd"}
_SILENT = 1e-3  # Share of a channel's largest activation below which an image counts as one that does not excite it.


@dataclass(frozen=True)
class Implicit(Method):
    """Implicit sparsity: no penalty, but Adam with L2 in the gradient, which starves channels that few images excite.

    Adam divides by the size of the gradient. Where a channel gets none from the task, it moves γ by the full learning
    rate towards zero, however weak the decay: from 0.5 to 1e-3 in 1,396 steps at rate 1e-3, where AdamW with decay 0.1
    takes 62,143. What protects a channel is the activity of its gradient. Where a channel passes no BatchNorm, its
    filters starve, each weight by itself.

    Args:
        optimizer: Of the sparsify phase: ``"adam_l2"``; ``"adamw"``, whose decay is outside of the division, and
            ``"sgd_l2"`` to compare with.
        decay: Weight decay of all parameters, γ and β included, >= 0. For AdamW it is multiplied by the learning rate.
        learning_rate: Its peak for Adam and AdamW, > 0; SGD has the recipe's.
        threshold: Size of γ up to which a channel is dead; of the norm of its filters, where it has none. Dead channels
            are decided against, the least universal first, and folded into their readers.
        scored_by: What ranks the others: ``"size"``, ``|γ|`` as in the paper, or the norm of filters in its unit; or
            ``"damage"``. See `Slimming`.

    References:
        Mehta, Kim and Theobalt (2019), On implicit filter level sparsity in convolutional neural networks,
        arXiv 1811.12495. Folding β is ours, the reference drops it; so is ranking by damage.
    """

    name: ClassVar[str] = "implicit"
    shares_batches: ClassVar[bool] = True
    ranking: ClassVar[tuple[str, ...]] = ("threshold", "scored_by")

    optimizer: str = option("adam_l2", choices=tuple(_OPTIMIZERS), search={"values": ("adamw", "sgd_l2", "adam_l2")})
    decay: float = option(1e-4, low=0, high=1, search={"low": 1e-6, "high": 1e-2, "scale": "log", "points": 5})
    learning_rate: float = option(
        1e-3, above=0, high=1, search={"low": 1e-4, "high": 1e-2, "scale": "log", "points": 3}
    )
    threshold: float = option(1e-3, low=0, high=1)
    scored_by: str = option("size", choices=SCORED_BY, search=SEARCHED)

    def __post_init__(self) -> None:
        check(self)

    @property
    def silence(self) -> float:
        """Removed channels that are dead move into their readers."""
        return self.threshold

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Exchange the optimizer.

        Raises:
            NetworkError: All that could starve is frozen, or there is none.
        """
        units = penalised(model, traced, acts_on="scales").units
        changes: dict[str, Any] = {"optimizer": _OPTIMIZERS[self.optimizer], "weight_decay": self.decay}
        if self.optimizer != "sgd_l2":
            changes["learning_rate"] = self.learning_rate
        return Hooks(recipe=dataclasses.replace(plan.recipe, **changes), state=units)

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """Size or damage; of dead channels ``universality - 1``, which is at most 0."""
        scores = scores_left(model, traced, scored_by=self.scored_by, state=state, batches=batches)
        dead = silent_channels(model, traced, silence=self.silence)
        if not any(channels.any() for channels in dead.values()):
            return scores
        shares = universality(model, traced, batches=batches)
        return {name: np.where(dead[name], shares[name] - 1, score) for name, score in scores.items()}


@torch.no_grad()
def universality(model: nn.Module, traced: Traced, *, batches: Batches) -> dict[str, NDArray[np.float64]]:
    """Share of images that excite each channel, in [0, 1], shape (C,) by group.

    A channel is excited where its largest activation over the map, as any of its readers sees it, is more than 0.001
    of the largest over all images.

    Args:
        model: In evaluation mode; left as it is.
        traced: Its channel groups.
        batches: What it is shown.

    Raises:
        DataError: There is no batch.
    """
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().abs()
            over = tuple(range(2, x.dim())) if isinstance(module, _ConvNd) else tuple(range(1, x.dim() - 1))
            seen[name] = (x.amax(over) if over else x).cpu().double()

        return hook

    readers = {m.module for group in traced.groups for m in group.members if m.axis == "in"}
    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in sorted(readers)]
    largest: dict[str, list[Tensor]] = {group.name: [] for group in traced.groups}
    try:
        for inputs, _ in batches:
            traced.forward(model, inputs)
            for group in traced.groups:
                views = [seen[m.module][:, torch.from_numpy(m.index)].amax(2) for m in group.members if m.axis == "in"]
                largest[group.name].append(torch.stack(views).amax(0))  # (N, C)
    finally:
        for handle in handles:
            handle.remove()
    if not all(largest.values()):
        raise DataError("universality must be measured on at least one batch, but got none. Give training images.")
    shares = {}
    for name, parts in largest.items():
        activity = torch.cat(parts)
        shares[name] = np.asarray((activity > _SILENT * activity.amax(0)).double().mean(0).numpy(), dtype=np.float64)
    return shares
