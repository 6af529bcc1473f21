"""Importance by what the loss is expected to rise by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance, Loss, loss_on
from autoprune.errors import DataError
from autoprune.importances._channel_sums import sum_by_channel, weighing_members
from autoprune.widths import Scores

__all__ = ["Taylor"]


@dataclass(frozen=True)
class Taylor(Importance):
    """First-order change of the loss when nobody reads a channel any more.

    ``|sum(w * dL/dw)|`` over the weights ``w`` that read the channel, averaged over batches. It is the derivative by a
    gate on the channel where it is read, so behind BatchNorm and ReLU it equals ``|γ dL/dγ + β dL/dβ|``, and it needs
    neither.

    References:
        Molchanov et al. (2019), Importance estimation for neural network pruning, arXiv 1906.10771, there squared.
    """

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """Mean over the batches of the absolute change of the mean loss, shape (C,).

        Raises:
            DataError: There is no batch.
        """
        readers = {
            group.name: [pair for pair in weighing_members(group, model) if pair[0].reads] for group in traced.groups
        }
        names = sorted({str(member.weight) for pairs in readers.values() for member, _ in pairs})
        # Copies that ask for gradients, so that the network's own parameters and gradients are left as they are.
        weights = {name: model.get_parameter(name).detach().clone().requires_grad_() for name in names}
        totals = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in traced.groups}
        n_batches = 0
        asked = _Loss(model, loss_on(batches))
        swapped = {f"model.{name}": weight for name, weight in weights.items()}
        for inputs, targets in batches:
            n_batches += 1
            loss = torch.func.functional_call(asked, swapped, (inputs, targets))
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
            changes = {
                name: (weight.detach() * gradient).cpu().double()
                for name, weight, gradient in zip(names, weights.values(), gradients, strict=True)
            }
            for group_name, pairs in readers.items():
                parts = [sum_by_channel(changes[str(member.weight)], module, member) for member, module in pairs]
                totals[group_name] += torch.stack(parts).sum(0).abs()
        if n_batches == 0:
            raise DataError(
                "a Taylor score must be measured on at least one batch, but got none. Give training images."
            )
        return {name: np.asarray((total / n_batches).numpy(), dtype=np.float64) for name, total in totals.items()}


class _Loss(nn.Module):
    """A network's loss as a module, so that it can be computed with other weights in place of its own."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs: Any, targets: Any) -> Tensor:
        return self.loss(self.model, inputs, targets)
