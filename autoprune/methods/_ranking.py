"""No sparse training: channels of the dense network are ranked as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from autoprune.config import check, option
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Importance, Method, PhasePlan
from autoprune.importances import NORMALISATIONS, normalise, require_scales
from autoprune.widths import Damages, Scores

__all__ = ["Ranking"]


@dataclass(frozen=True)
class Ranking(Method):
    """The dense network, ranked as it is.

    Args:
        importance: What scores; its hyper-parameters are the method's, too.
        normalisation: What scores are divided by before channels of different layers are compared; see
            `importances.normalise`.
    """

    part: ClassVar[str] = "importance"
    trains: ClassVar[bool] = False

    importance: Importance
    normalisation: str = option("mean", choices=NORMALISATIONS)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Nothing to prepare.

        Raises:
            NetworkError: The channels of a group pass through no BatchNorm, where the importance needs one.
        """
        if self.importance.needs_scales:
            require_scales(traced)
        return Hooks()

    def damages(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Damages | None:
        """Those of the importance."""
        return self.importance.damages(model, traced, batches=batches)

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """The scores by group."""
        return normalise(self.importance.score(model, traced, batches=batches), self.normalisation, traced.cost)
