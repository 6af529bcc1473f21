"""Non-dominated sorting genetic algorithm."""

from __future__ import annotations

import warnings
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIISampler
from optuna.samplers.nsgaii import BLXAlphaCrossover

from autoprune.search.samplers._contract import Draw, Sampler, searched, uniform
from autoprune.search.view import View

__all__ = ["NSGA2"]

with warnings.catch_warnings():
    # Here, once, because warning filters belong to the whole process, and proposals are made in several threads.
    warnings.simplefilter("ignore", ExperimentalWarning)
    _CROSSOVER = BLXAlphaCrossover()
_GENERATION = "NSGAIISampler:generation"  # The system attribute in which Optuna keeps a trial's generation.


class NSGA2(Sampler):
    """Crossover and mutation of the best trials so far, by front and crowding distance.

    Trials are numbered in the order in which they ended, and every ``population`` of them are a generation. The parents
    of the generation that is being made are the best of all trials of the generations before it; Optuna is shown only
    them. The first generation is drawn at random.

    Parents have values of all parameters of the space, the defaults where they do not use one, because crossover takes
    a child's parameters from both; a child uses those of its own method and rule, and on average one of them mutates.
    Numbers are crossed by BLX-α, which also looks beyond the parents and between them: with Optuna's uniform crossover,
    known problems of 8, 9 and 36 parameters (``tests/search/test_samplers.py``) came out worse.
    """

    population = 20
    """Optuna's own 50 would be most of a typical study."""

    def sample(self, view: View, draw: Draw) -> dict[str, Any]:
        """Values of all parameters.

        References:
            Deb et al. (2002), doi:10.1109/4235.996017; Eshelman and Schaffer (1993), FOGA 2, for BLX-α.
        """
        found = uniform(view.space.parameters, draw.seed)
        in_order = sorted(view.finished, key=lambda sight: (sight.ended_at, sight.number))
        n_older = len(in_order) // self.population * self.population
        if n_older == 0:
            return found
        parents = view.best(self.population, in_order[:n_older])
        n_used = sum(len(parent.params) for parent in parents) / len(parents)
        sampler = NSGAIISampler(
            seed=draw.seed, population_size=self.population, mutation_prob=1 / n_used, crossover=_CROSSOVER
        )
        marks = {parent.number: {_GENERATION: 0} for parent in parents}
        elite = View(view.space, view.objectives, tuple(sorted(parents, key=lambda sight: sight.number)))
        study, trial = elite.study(sampler, flat=True, marks=marks)
        # What mutates is left out by Optuna, to be drawn anew.
        return found | sampler.sample_relative(study, trial, searched(view.space.parameters))
