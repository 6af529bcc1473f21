"""What widths cost, as plain data, what they must keep, and the widest ones within limits."""

from autoprune.cost.forms import LinearForm
from autoprune.cost.inverse import fit
from autoprune.cost.limits import Limits, allowed_widths
from autoprune.cost.model import CONVENTION, CostModel, LayerCost
from autoprune.cost.peaks import undominated

__all__ = ["CONVENTION", "CostModel", "LayerCost", "Limits", "LinearForm", "allowed_widths", "fit", "undominated"]
