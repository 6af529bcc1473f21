"""Independent uniform sampling."""

from __future__ import annotations

from optuna.samplers import BaseSampler, RandomSampler

__all__ = ["random"]


def random(seed: int) -> BaseSampler:
    """Every parameter on its own, uniformly on its scale."""
    return RandomSampler(seed=seed)
