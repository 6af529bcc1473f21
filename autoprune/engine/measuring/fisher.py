"""What the loss is expected to rise by without channels, to the second order: the Fisher matrix of gates on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.engine.asking import size_of
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, loss_on
from autoprune.engine.gating import gate_readers
from autoprune.errors import DataError

__all__ = ["measure_fisher"]

_N_IMAGES = 1_024


def measure_fisher(
    model: nn.Module, traced: Traced, *, batches: Batches, n_images: int = _N_IMAGES
) -> Mapping[str, NDArray[np.float64]]:
    """A matrix for each group that gives what the loss rises by when any of its channels go together.

    ``G[c, d] = E[s_c s_d] / 2``, where s_c is the derivative of an image's loss by a gate on channel c at all places
    where it is read. To remove the channels R costs ``sum(G[R][:, R])``, in units of the loss: as bad in one layer as
    in another. Unlike the damage at the next layer it knows what becomes of an error further on.

    Args:
        model: In evaluation mode; left as it is.
        traced: Its channel groups.
        batches: What it is shown; their loss is a mean over examples.
        n_images: After so many no further batch is begun, >= 1.

    Returns:
        By group, shape (C, C), symmetric.

    Raises:
        DataError: There is no batch.
        NetworkError: A layer reads rows that are no examples.

    References:
        Theis et al. (2018), Faster gaze prediction with dense networks and Fisher pruning, arXiv 1801.05787, who have
        the diagonal.
    """
    device, loss = next(model.parameters()).device, loss_on(batches)
    names = [group.name for group in traced.groups]
    found = {group.name: torch.zeros(group.width, group.width, dtype=torch.float64) for group in traced.groups}
    n_seen = 0
    for inputs, targets in batches:
        n = size_of(inputs)
        gates = {group.name: torch.ones(n, group.width, device=device, requires_grad=True) for group in traced.groups}
        handles = gate_readers(model, traced, lambda name, _, gates=gates: gates[name])  # type: ignore[misc]
        try:
            total = n * loss(model, inputs, targets)  # Images don't see each other: the gradient of each is its own.
        finally:
            for handle in handles:
                handle.remove()
        slopes = torch.autograd.grad(total, [*gates.values()], allow_unused=True, materialize_grads=True)
        for name, slope in zip(names, slopes, strict=True):
            own = slope.detach().cpu().double()
            found[name] += own.T @ own
        n_seen += n
        if n_seen >= n_images:
            break
    if not n_seen:
        raise DataError("the Fisher matrix must be measured on at least one batch, but got none. Give training images.")
    return {name: np.asarray((matrix / (2 * n_seen)).numpy()) for name, matrix in found.items()}
