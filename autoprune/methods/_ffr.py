"""FFR: features that take a short and straight way through the network need fewer channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from autoprune.config import check, option
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.errors import NetworkError
from autoprune.importances import NORMALISATIONS, normalise
from autoprune.methods._by_group import scale_names
from autoprune.methods._flow import Flow, flow_curvature, flow_length
from autoprune.methods._scored_by import SCORED_BY, SEARCHED, scores_left
from autoprune.methods._sizes import Units
from autoprune.widths import Scores

__all__ = ["FFR"]

_STRENGTH = {"low": 1e-3, "high": 1.0, "scale": "log", "points": 4}


@dataclass(frozen=True)
class FFR(Method):
    """FFR (feature flow regularisation): the path of the features from layer to layer is kept short and straight.

    The loss gets ``length Σ mean |x_{l+1} - x_l| + curvature Σ mean |x_{l+1} - 2 x_l + x_{l-1}|``, where x_l is what
    the layers that combine prunable channels read: in a residual network the outputs of its blocks, so that the first
    term is what branches add to the stream. Channels are ranked by what is left of them.

    Args:
        length: k₁, of the path's length, >= 0.
        curvature: k₂, of how much it bends, >= 0.
        in_finetune: Whether the fine-tune phase has the penalty, too.
        scale_decay: Weight decay of every γ that a prunable channel passes; smaller γ make every path shorter.
        scored_by: What ranks the channels afterwards: ``"size"`` or ``"damage"``; see `Slimming`.
        normalisation: See `importances.normalise`.

    References:
        Wu et al. (2021), Feature flow regularization: improving structured sparsity in deep neural networks,
        arXiv 2106.02914. Means over elements, maps of unequal shapes that are averaged and filled up with zeros, the
        use in fine-tuning and ranking by damage are ours.
    """

    name: ClassVar[str] = "ffr"
    ranking: ClassVar[tuple[str, ...]] = ("in_finetune", "scored_by", "normalisation")

    length: float = option(0.1, low=0, high=100, search=_STRENGTH)
    curvature: float = option(0.1, low=0, high=100, search=_STRENGTH)
    in_finetune: bool = option(False)
    scale_decay: float = option(0.0, low=0, high=1)
    scored_by: str = option("size", choices=SCORED_BY, search=SEARCHED)
    normalisation: str = option("none", choices=NORMALISATIONS)

    def __post_init__(self) -> None:
        check(self)

    @property
    def accompanies(self) -> bool:
        """Where it is asked for."""
        return self.in_finetune

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Listen to what the layers read; `Hooks.fold` ends it.

        Raises:
            NetworkError: Prunable channels are read at one place only, so that there is no path.
        """
        return self._hooks(
            model,
            traced,
            weight_decay=dict.fromkeys(scale_names(traced), self.scale_decay),
            state=Units(model, traced),
        )

    def accompany(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """The same penalty on the pruned network.

        Raises:
            NetworkError: Prunable channels are read at one place only.
        """
        return self._hooks(model, traced)

    def _hooks(
        self,
        model: nn.Module,
        traced: Traced,
        *,
        weight_decay: Mapping[str, float] | None = None,
        state: Units | None = None,
    ) -> Hooks:
        flow = Flow(model, traced)
        n_points = flow.n_points()
        if n_points is not None and n_points < 2:
            flow.close()
            raise NetworkError(
                f"prunable channels must be read at two places one behind the other, but are at {n_points}. Use a "
                "method that looks at weights, such as slimming."
            )

        def penalty() -> Tensor:
            path = flow.take()
            if len(path) < 2:
                return next(model.parameters()).new_zeros(())
            return self.length * flow_length(path) + self.curvature * flow_curvature(path)

        return Hooks(extra_loss=penalty, weight_decay=weight_decay or {}, state=state, fold=lambda _: flow.close())

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """What is left of each channel: of its size, or of what it does."""
        scores = scores_left(model, traced, scored_by=self.scored_by, state=state, batches=batches)
        return normalise(scores, self.normalisation, traced.cost)
