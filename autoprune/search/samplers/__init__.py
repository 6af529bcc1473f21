"""Samplers, each built anew for one proposal from a seed; one file each."""

from collections.abc import Callable

from optuna.samplers import BaseSampler

from autoprune.search.samplers._random import random
from autoprune.search.samplers._tpe import tpe

__all__ = ["SAMPLERS", "random", "tpe"]

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {"random": random, "tpe": tpe}
