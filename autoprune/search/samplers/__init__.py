"""Samplers, each of which makes one proposal of a view and a seed; one file each."""

from collections.abc import Mapping

from autoprune.search.samplers._contract import Draw, Sampler
from autoprune.search.samplers._gp import GP
from autoprune.search.samplers._nsga2 import NSGA2
from autoprune.search.samplers._quasi_random import QuasiRandom
from autoprune.search.samplers._random import Random
from autoprune.search.samplers._tpe import TPE

__all__ = ["GP", "NSGA2", "SAMPLERS", "TPE", "Draw", "QuasiRandom", "Random", "Sampler"]

SAMPLERS: Mapping[str, Sampler] = {
    "tpe": TPE(),
    "nsga2": NSGA2(),
    "gp": GP(),
    "quasi_random": QuasiRandom(),
    "random": Random(),
}
