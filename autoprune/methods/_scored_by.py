"""What ranks channels after a sparsify phase: the size of what was shrunk, or the damage that their removal does."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches
from autoprune.importances import Damage, FilterNorm
from autoprune.methods._sizes import sizes
from autoprune.widths import Scores

__all__ = ["SCORED_BY", "SEARCHED", "scores_left"]

SCORED_BY = ("size", "damage")
SEARCHED = {"values": SCORED_BY}


def scores_left(
    model: nn.Module,
    traced: Traced,
    *,
    scored_by: str,
    state: Mapping[str, Tensor],
    batches: Batches,
    acts_on: str = "scales",
) -> Scores:
    """What is left of each channel after the phase, shape (C,) by group.

    Args:
        model: The network.
        traced: Its channel groups.
        scored_by: One of `SCORED_BY`; ``"size"`` is that of what the method acts on.
        state: What was saved with the phase.
        batches: For damage.
        acts_on: ``"scales"`` of BatchNorms, and filters where there are none (`sizes`), or ``"norms"`` of filters.
    """
    if scored_by == "damage":
        return Damage().score(model, traced, batches=batches)
    if acts_on == "norms":
        return FilterNorm().score(model, traced, batches=batches)
    return sizes(model, traced, state=state)
