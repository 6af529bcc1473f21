"""Tree-structured Parzen estimator over parameters that belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial

from autoprune.search.proposals.observations import Observations
from autoprune.search.proposals.parameters import Parameter
from autoprune.search.proposals.samplers._contract import Draw, Sampler, searched, uniform
from autoprune.search.proposals.space import Space

__all__ = ["TPE"]

_CANDIDATES = (24, 12, 6, 3, *(1,) * 16)


class TPE(Sampler):
    """Multivariate TPE, group by group, that counts running trials as poor ones.

    Optuna's own default for two objectives samples each parameter alone, as if a strength had nothing to do with its
    method. Here the parameters that every point has are drawn together, then those of the drawn method, then those of
    the drawn width rule, each from the trials that have them. Optuna's ``group=True`` draws the same groups, but
    of all methods and rules, and finds them in the history rather than in the space. One group of all that a point has
    is worse for two objectives: its draws stay near the points of the front, target and all.

    The best of 24 candidates is often a point of the grids that was tried. Then the best of fewer is taken, down to one
    candidate, which is any draw from the density of the good trials.
    """

    most_trials: ClassVar[int] = 1_000
    """Beyond them the sampler sees the front and the newest: its own weights fade the oldest anyway, and every trial
    costs time at every attempt."""

    def attempts(self, observations: Observations, draw: Draw) -> Iterator[dict[str, Any]]:
        """Values of all parameters; those outside of the drawn method and rule are left at random.

        References:
            Bergstra et al. (2011), NeurIPS 24; Watanabe (2023), arXiv 2304.11127.
        """
        study, trial = observations.thinned(self.most_trials).study()
        for attempt, n_candidates in enumerate(_CANDIDATES):
            seed = draw.seed(attempt)
            sampler = TPESampler(seed=seed, multivariate=True, constant_liar=True, n_ei_candidates=n_candidates)
            yield _sample(sampler, study, trial, observations.space, uniform(observations.space.parameters, seed))


def _sample(
    sampler: TPESampler, study: optuna.Study, trial: FrozenTrial, space: Space, found: dict[str, Any]
) -> dict[str, Any]:
    def draw_together(parameters: Mapping[str, Parameter]) -> None:
        found.update(sampler.sample_relative(study, trial, searched(parameters)))

    draw_together(space.root)
    draw_together(space.hyper(found["method"]))
    draw_together(space.multipliers(found["width_rule"]))
    return found
