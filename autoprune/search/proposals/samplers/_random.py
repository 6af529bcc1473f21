"""Independent uniform sampling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoprune.search.proposals.observations import Observations
from autoprune.search.proposals.samplers._contract import Draw, Sampler, uniform

__all__ = ["Random"]

_ATTEMPTS = 500


class Random(Sampler):
    """Every parameter on its own, uniformly on its scale; the history is not looked at."""

    def attempts(self, observations: Observations, draw: Draw) -> Iterator[dict[str, Any]]:
        """Values of all parameters of the space."""
        for attempt in range(_ATTEMPTS):
            yield uniform(observations.space.parameters, draw.seed(attempt))
