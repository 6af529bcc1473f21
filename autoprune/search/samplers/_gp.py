"""Gaussian processes with expected hypervolume improvement."""

from __future__ import annotations

from typing import Any

from optuna.samplers import GPSampler

from autoprune.search.samplers._contract import Draw, Sampler, searched, uniform
from autoprune.search.view import View

__all__ = ["GP"]


class GP(Sampler):
    """One Gaussian process for each objective; proposes where the hypervolume is expected to grow most.

    Running trials are counted in. Every trial has values of all parameters of the space, the defaults where it does not
    use one: a process needs one set of dimensions, and learns from all trials what they share.
    """

    n_draws = 3
    most_trials = 200
    """Beyond them the sampler sees the front and the newest: time grows with the cube of the number of trials."""

    def sample(self, view: View, draw: Draw) -> dict[str, Any]:
        """Values of all parameters.

        References:
            Daulton et al. (2020), arXiv 2006.05078; Ament et al. (2023), arXiv 2310.20708.
        """
        sampler = GPSampler(seed=draw.seed, n_startup_trials=10, warn_independent_sampling=False)
        study, trial = view.thinned(self.most_trials).study(sampler, flat=True)
        found = uniform(view.space.parameters, draw.seed)
        return found | sampler.sample_relative(study, trial, searched(view.space.parameters))
