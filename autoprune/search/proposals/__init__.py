"""What to try next: the search space, the history as samplers see it, and the samplers."""

from autoprune.search.proposals.observations import Observation, Observations
from autoprune.search.proposals.pace import Pace, TimeLeft
from autoprune.search.proposals.planner import Budget, Planner
from autoprune.search.proposals.proposer import Proposer, imported_points, opening
from autoprune.search.proposals.recipe import RecipeSearch
from autoprune.search.proposals.samplers import GP, TPE, Draw, Random, Sampler, sampler_named
from autoprune.search.proposals.space import Space

__all__ = [
    "GP",
    "TPE",
    "Budget",
    "Draw",
    "Observation",
    "Observations",
    "Pace",
    "Planner",
    "Proposer",
    "Random",
    "RecipeSearch",
    "Sampler",
    "Space",
    "TimeLeft",
    "imported_points",
    "opening",
    "sampler_named",
]
