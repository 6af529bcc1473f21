"""No sparse training: channels of the dense network are ranked as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from autoprune.engine.contracts import Batches, Hooks, Importance, Method, PhasePlan, Scores
from autoprune.engine.groups import Traced
from autoprune.fields import check, option
from autoprune.importances import NORMALISATIONS, normalise, require_scales
from autoprune.methods._composed import composed, part_of

__all__ = ["Ranking", "ranking"]


@dataclass(frozen=True)
class Ranking(Method):
    """The dense network, ranked as it is.

    Args:
        normalisation: What scores are divided by before channels of different layers are compared; see
            `importances.normalise`.
    """

    part: ClassVar[type[Importance]]
    trains: ClassVar[bool] = False

    normalisation: str = option("mean", choices=NORMALISATIONS)

    def __post_init__(self) -> None:
        check(self)
        part_of(self, self.part)

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Nothing to prepare.

        Raises:
            NetworkError: The channels of a group pass through no BatchNorm, where the importance needs one.
        """
        if self.part.needs_scales:
            require_scales(traced)
        return Hooks()

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """The scores by group."""
        importance: Importance = part_of(self, self.part)
        return normalise(importance.score(model, traced, batches=batches), self.normalisation, traced.cost)


def ranking(importance: str, kind: type[Importance]) -> type[Ranking]:
    """The method of one importance. That of the group norm is magnitude, whose name studies know."""
    name = "magnitude" if importance == "group_norm" else importance
    first = (kind.__doc__ or "").splitlines()[0].rstrip(".")
    summary = f"{first}; ranks the dense network as it is."
    return composed(Ranking, kind, name=name, summary=summary, normalisation="none" if kind.is_comparable else "mean")
