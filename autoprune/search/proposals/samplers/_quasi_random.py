"""Low-discrepancy points, spread more evenly than random ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autoprune.search.proposals.observations import Observations
from autoprune.search.proposals.samplers._contract import Draw, Sampler

__all__ = ["QuasiRandom"]

_ATTEMPTS = 500


class QuasiRandom(Sampler):
    """The points of one scrambled Halton sequence over all parameters of the space, in order.

    Every proposal reads on from the number of trials that the study has had, so that drivers need no memory of the
    sequence; what was tried is skipped. The sequence is that of the study's seed. Parameters of another method or rule
    are coordinates that a point does not use; what is left of it is a projection, and those of a low-discrepancy
    sequence are even as well. Halton rather than Sobol, because it is as even from any index on; Sobol's points are at
    their best in blocks of a power of two, and a study starts in the middle of one.

    References:
        Halton (1960), doi:10.1007/BF01386213; Owen (2017), arXiv 1706.02808.
    """

    def attempts(self, observations: Observations, draw: Draw) -> Iterator[dict[str, Any]]:
        """Values of all parameters of the space."""
        from scipy.stats import qmc  # Slow to import, and few studies need it.

        parameters = observations.space.parameters
        sequence = qmc.Halton(len(parameters), scramble=True, rng=draw.study_seed)
        sequence.fast_forward(draw.number)
        for _ in range(_ATTEMPTS):
            shares = sequence.random(1)[0].tolist()
            yield {name: p.at(share) for (name, p), share in zip(parameters.items(), shares, strict=True)}
