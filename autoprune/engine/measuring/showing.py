"""Networks are shown batches while somebody listens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches
from autoprune.errors import DataError

__all__ = ["N_BATCHES", "Hear", "show"]

N_BATCHES = 4
"""Enough for products and moments, which settle fast: an image has as many samples as its map has places."""

Hear = Callable[[nn.Module, tuple[Tensor, ...]], Any]
"""A forward pre-hook: (layer, what it is called with)."""


def show(
    model: nn.Module,
    traced: Traced,
    batches: Batches,
    *,
    listeners: Iterable[tuple[str, Hear]],
    n_batches: int,
    what: str,
) -> None:
    """Run the network on some batches; each layer's listeners hear what it reads, and are gone afterwards.

    Args:
        model: In evaluation mode; left as it is.
        traced: Its channel groups.
        batches: What it is shown.
        listeners: Names of layers, and who hears them.
        n_batches: How many batches at most, >= 1.
        what: Is measured, for people.

    Raises:
        DataError: There is no batch.
    """
    handles = [model.get_submodule(name).register_forward_pre_hook(hear) for name, hear in listeners]
    n_seen = 0
    try:
        for inputs, _ in itertools.islice(batches, n_batches):
            traced.forward(model, inputs)
            n_seen += 1
    finally:
        for handle in handles:
            handle.remove()
    if not n_seen:
        raise DataError(f"{what} must be measured on at least one batch, but got none. Give training images.")
