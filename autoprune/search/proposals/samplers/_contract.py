"""What a sampler is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from autoprune.config import seed_of
from autoprune.search.proposals.observations import Observations
from autoprune.search.proposals.parameters import Parameter

__all__ = ["Draw", "Sampler", "searched", "uniform"]


@dataclass(frozen=True)
class Draw:
    """Which proposal is wanted; with the observations, all that a sampler may depend on.

    Args:
        study_seed: The study's seed.
        number: How many first tries the study has had.
    """

    study_seed: int
    number: int

    def seed(self, attempt: int) -> int:
        """A seed in [0, 2**31), another one for every attempt at every proposal."""
        return seed_of("proposal", self.study_seed, self.number, attempt)


class Sampler(ABC):
    """Proposes values of the space's parameters; a sampler keeps nothing from one proposal to the next."""

    @abstractmethod
    def attempts(self, observations: Observations, draw: Draw) -> Iterator[dict[str, Any]]:
        """Values by parameter, at least of those that the point which they name has.

        One attempt after another, until the caller has found one that was not tried before, or this sampler gives up.
        The same observations and draw give the same attempts, to the last bit. Values lie in the ranges; grids are not
        looked at, since values are snapped afterwards.
        """


def uniform(parameters: Mapping[str, Parameter], seed: int) -> dict[str, Any]:
    """Every parameter on its own, uniformly on its scale."""
    shares = np.random.default_rng(seed).random(len(parameters))
    return {name: p.at(share) for (name, p), share in zip(parameters.items(), shares.tolist(), strict=True)}


def searched(parameters: Mapping[str, Parameter]) -> dict[str, BaseDistribution]:
    """The distributions of the parameters that have more than one value."""
    return {name: parameter.distribution for name, parameter in parameters.items() if parameter.is_open}
