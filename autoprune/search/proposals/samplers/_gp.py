"""Gaussian processes with expected hypervolume improvement."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from optuna.samplers import GPSampler

from autoprune.search.proposals.observations import Observations
from autoprune.search.proposals.samplers._contract import Draw, Sampler, searched, uniform
from autoprune.search.proposals.samplers._tpe import TPE
from autoprune.search.storage import quiet

__all__ = ["GP"]


_ATTEMPTS = 3
_CHATTY = "optuna._gp.optim_mixed"


class GP(Sampler):
    """One Gaussian process for each objective; proposes where the hypervolume is expected to grow most.

    Running trials are counted in. Every trial has values of all parameters of the space, the defaults where it does not
    use one: a process needs one set of dimensions, and learns from all trials what they share.

    An attempt that was tried before counts as running at the next one. As every attempt takes long, few are made; then
    TPE goes on.
    """

    most_trials: ClassVar[int] = 200
    """Beyond them the sampler sees the front and the newest: time grows with the cube of the number of trials."""

    def attempts(self, observations: Observations, draw: Draw) -> Iterator[dict[str, Any]]:
        """Values of all parameters.

        References:
            Daulton et al. (2020), arXiv 2006.05078; Ament et al. (2023), arXiv 2310.20708.
        """
        space, seen = observations.space, observations.thinned(self.most_trials)
        for attempt in range(_ATTEMPTS):
            seed = draw.seed(attempt)
            study, trial = seen.study(flat=True)
            sampler, found = GPSampler(seed=seed), uniform(space.parameters, seed)
            # Where nothing promises a gain, Optuna divides by zero and says so; it then proposes the least loss.
            with np.errstate(divide="ignore", invalid="ignore"), quiet(_CHATTY, up_to=logging.WARNING):
                found |= sampler.sample_relative(study, trial, searched(space.parameters))
            yield found
            seen = seen.with_running(space.point(found).params)
        yield from TPE().attempts(observations, draw)
