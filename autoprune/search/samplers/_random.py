"""Independent uniform sampling."""

from __future__ import annotations

from typing import Any

from autoprune.search.samplers._contract import Draw, Sampler, uniform
from autoprune.search.view import View

__all__ = ["Random"]


class Random(Sampler):
    """Every parameter on its own, uniformly on its scale; the history is not looked at."""

    n_draws = 500

    def sample(self, view: View, draw: Draw) -> dict[str, Any]:
        """Values of all parameters of the space."""
        return uniform(view.space.parameters, draw.seed)
