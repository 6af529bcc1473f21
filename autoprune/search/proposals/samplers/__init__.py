"""Samplers, each of which makes one proposal of observations and a seed; one file each."""

import inspect
from collections.abc import Mapping

from autoprune.errors import ConfigError, unknown_name
from autoprune.importing import import_named, is_own
from autoprune.search.proposals.samplers._contract import Draw, Sampler
from autoprune.search.proposals.samplers._gp import GP
from autoprune.search.proposals.samplers._nsga2 import NSGA2
from autoprune.search.proposals.samplers._quasi_random import QuasiRandom
from autoprune.search.proposals.samplers._random import Random
from autoprune.search.proposals.samplers._tpe import TPE

__all__ = ["GP", "NSGA2", "SAMPLERS", "TPE", "Draw", "QuasiRandom", "Random", "Sampler", "sampler_named"]

SAMPLERS: Mapping[str, Sampler] = {
    "tpe": TPE(),
    "nsga2": NSGA2(),
    "gp": GP(),
    "quasi_random": QuasiRandom(),
    "random": Random(),
}


def sampler_named(name: str) -> Sampler:
    """The sampler ``name``, or one of somebody's own class ``package.module:Class``.

    Raises:
        ConfigError: There is none of this name, or the class is no sampler.
    """
    if not is_own(name):
        if name not in SAMPLERS:
            raise ConfigError(unknown_name("sampler", name, SAMPLERS))
        return SAMPLERS[name]
    kind = import_named(name, key="sampler", what="class")
    if not (isinstance(kind, type) and issubclass(kind, Sampler)) or inspect.isabstract(kind):
        raise ConfigError(f"`sampler`: {name!r} must be a class of a sampler, with all that these ask for.")
    sampler: Sampler = kind()
    return sampler
