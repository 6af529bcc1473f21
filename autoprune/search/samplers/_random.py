"""Independent uniform sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoprune.search.samplers._contract import Draw, Sampler, uniform
from autoprune.search.view import View

__all__ = ["Random"]

_ATTEMPTS = 500


class Random(Sampler):
    """Every parameter on its own, uniformly on its scale; the history is not looked at."""

    def attempts(self, view: View, draw: Draw) -> Iterator[dict[str, Any]]:
        """Values of all parameters of the space."""
        for attempt in range(_ATTEMPTS):
            yield uniform(view.space.parameters, draw.seed(attempt))
