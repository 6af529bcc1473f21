"""The length of a phase, and the learning rate of each of its steps."""

from __future__ import annotations

import math

from autoprune.config import TrainSpec

__all__ = ["learning_rate", "n_steps_of"]


def n_steps_of(spec: TrainSpec, n_images: int) -> int:
    """Number of optimizer steps of a phase over ``n_images`` images."""
    return round(spec.epochs * n_images / min(spec.batch, n_images))


def learning_rate(spec: TrainSpec, step: float, n_steps: int) -> float:
    """The learning rate of one step of a phase.

    ``one_cycle`` rises from 1/25 of the peak for the ``warmup`` share of the phase, then falls to 1/250,000 of it, both
    along half a cosine; ``cosine`` only falls, to zero, and ``rise`` only rises.

    Args:
        spec: Schedule, its peak and its warmup.
        step: 0 is the first; ``n_steps`` would come after the last. A phase that was shortened goes in longer steps.
        n_steps: Of the whole phase, >= 1.

    References:
        Smith and Topin (2018), Super-convergence, arXiv 1708.07120, in the form of PyTorch's ``OneCycleLR``.
    """
    peak = spec.learning_rate

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    if spec.schedule == "constant":
        return peak
    if spec.schedule == "cosine":
        return between(peak, 0.0, step / n_steps)
    top = spec.warmup * (n_steps + 1) - 1  # The step of the peak; below 0 where the warmup is shorter than a step.
    if top > 0 and step <= top:
        return between(peak / 25, peak, step / top)
    if spec.schedule == "rise":
        return peak
    return between(peak, peak / 25 / 1e4, (step - top) / (n_steps - top))
