"""OrthoReg: filters that are orthogonal to each other, so that what single channels are worth adds up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.config import check, option
from autoprune.engine.channels import Traced, is_per_conv_group
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.engine.training import wide
from autoprune.errors import NetworkError
from autoprune.importances import NORMALISATIONS, Taylor, normalise
from autoprune.methods._by_group import scale_names
from autoprune.methods._scored_by import SCORED_BY, scores_left
from autoprune.methods._sizes import Units, trained
from autoprune.widths import Scores

__all__ = ["OrthoReg", "orthogonality_gap", "share_of_diagonal"]


def orthogonality_gap(filters: Tensor) -> Tensor:
    """``‖W Wᵀ - I‖₁``, entry by entry, a scalar; of ``Wᵀ W`` where there are more filters than numbers in each.

    Args:
        filters: W, one filter a row, shape (..., O, I); of several matrices the sum.
    """
    products = _products(filters)
    return (products - torch.eye(products.shape[-1], dtype=products.dtype, device=products.device)).abs().sum()


def share_of_diagonal(filters: Tensor) -> Tensor:
    """``‖diag W Wᵀ‖₁ / ‖W Wᵀ‖₁``, a scalar in (0, 1]: 1 where all filters are orthogonal.

    Args:
        filters: See `orthogonality_gap`.
    """
    products = _products(filters).abs()
    return products.diagonal(dim1=-2, dim2=-1).sum() / products.sum()


def _products(filters: Tensor) -> Tensor:
    return filters @ filters.mT if filters.shape[-2] <= filters.shape[-1] else filters.mT @ filters


@dataclass(frozen=True)
class OrthoReg(Method):
    """OrthoReg: the filters of each layer are driven to be orthonormal, and channels ranked by the loss.

    The loss gets ``strength Σ ω ‖W Wᵀ - I‖₁`` over the layers that write prunable channels, with ω in proportion to
    the square root of the rank that W can have, and these have no weight decay. What the loss is expected to rise by
    without a channel then adds up over channels, where filters that say the same would each count as dispensable.

    Args:
        strength: Of the penalty, > 0.
        in_finetune: Whether the fine-tune phase has the penalty, too.
        scale_decay: Weight decay of every γ that a prunable channel passes.
        scored_by: ``"taylor"``, by the loss as in the paper, or ``"size"`` or ``"damage"`` as in `Slimming`.
        normalisation: See `importances.normalise`.

    References:
        Lubana et al. (2020), OrthoReg: robust network pruning using orthonormality regularization, arXiv 2009.05014.
        There the first-order change is squared for the mean gradient of 5,000 images, here it is taken batch by batch
        and not squared. Only layers that write prunable channels are penalised. The use in fine-tuning is ours.
    """

    name: ClassVar[str] = "orthoreg"
    ranking: ClassVar[tuple[str, ...]] = ("in_finetune", "scored_by", "normalisation")

    strength: float = option(0.01, above=0, high=10, search={"low": 1e-3, "high": 1e-1, "scale": "log", "points": 3})
    in_finetune: bool = option(False)
    scale_decay: float = option(0.0, low=0, high=1)
    scored_by: str = option("taylor", choices=("taylor", *SCORED_BY), search={"values": ("taylor", "damage")})
    normalisation: str = option("none", choices=NORMALISATIONS)

    def __post_init__(self) -> None:
        check(self)

    @property
    def accompanies(self) -> bool:
        """Where it is asked for."""
        return self.in_finetune

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Find the filters; the network is not changed.

        Raises:
            NetworkError: No filters that write prunable channels train.
        """
        layers = _written_by(model, traced)
        decay = dict.fromkeys(scale_names(traced), self.scale_decay) | {f"{name}.weight": 0.0 for name in layers}
        return Hooks(extra_loss=self._penalty(model, layers), weight_decay=decay, state=Units(model, traced))

    def accompany(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """The same penalty on the pruned network, with the recipe's weight decay.

        Raises:
            NetworkError: No filters that write prunable channels train.
        """
        return Hooks(extra_loss=self._penalty(model, _written_by(model, traced)))

    def _penalty(self, model: nn.Module, layers: Sequence[str]) -> _Gaps:
        return _Gaps(model, layers, strength=self.strength)

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """What the loss rises by without a channel, or what is left of its size or of what it does."""
        if self.scored_by == "taylor":
            scores = Taylor().score(model, traced, batches=batches)
        else:
            scores = scores_left(model, traced, scored_by=self.scored_by, state=state, batches=batches)
        return normalise(scores, self.normalisation, traced.cost)


class _Gaps:
    """The penalty, called in each step."""

    def __init__(self, model: nn.Module, layers: Sequence[str], *, strength: float) -> None:
        self._modules = [model.get_submodule(name) for name in layers]
        roots = [math.sqrt(min(_filters(module).shape[-2:])) for module in self._modules]
        self._factors = [strength * root / sum(roots) for root in roots]

    def __call__(self) -> Tensor:
        gaps = [
            factor * orthogonality_gap(_filters(module))
            for factor, module in zip(self._factors, self._modules, strict=True)
        ]
        return torch.stack(gaps).sum()


def _filters(module: nn.Module) -> Tensor:
    """W of each conv group, shape (conv groups, O, I · K)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    flat: Tensor = wide(weight).flatten(1).unflatten(0, (int(getattr(module, "groups", 1)), -1))
    return flat


def _written_by(model: nn.Module, traced: Traced) -> list[str]:
    """The layers that write prunable channels with filters that train and read more than one channel."""
    names = dict.fromkeys(m.module for group in traced.groups for m in group.members if m.axis == "out")
    found = []
    for name in names:
        module = model.get_submodule(name)
        is_dense = isinstance(module, nn.Linear) or (
            isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd) and not is_per_conv_group(module)
        )
        if is_dense and trained(model, name) is not None:
            found.append(name)
    if not found:
        raise NetworkError(
            "some prunable channel must be written by filters that train, but none is: they are frozen, depthwise or "
            "transposed. Use a method that ranks the network as it is, such as magnitude."
        )
    return found
