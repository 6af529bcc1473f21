"""Importance by the damage that is left after compensation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import nn

from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Importance
from autoprune.engine.measuring import measure_removals
from autoprune.widths import Damages, Scores

__all__ = ["OBS"]


@dataclass(frozen=True)
class OBS(Importance):
    """Damage at the next layer that is left once its readers are refitted, when channels leave one by one.

    ``ΔL_c = Σ tr(W_c (H⁻¹_cc)⁻¹ W_cᵀ) / ‖z‖²`` over the layers that read channel c, with H the moments of what they
    read; each time the channel that adds the least goes, and the readers make up for it before the next one. What the
    others can say as well costs nothing: the ranking for studies with `compensate`.

    References:
        Hassibi and Stork (1993), Second order derivatives for network pruning: optimal brain surgeon; layer by layer by
        Dong et al. (2017), Learning to prune deep neural networks via layer-wise optimal brain surgeon,
        arXiv 1705.07565. Whole channels in place of weights, over several readers, are ours.
    """

    is_comparable: ClassVar[bool] = True

    def score(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Scores:
        """What is lost of the readers' outputs once the channel and all before it are gone, shape (C,).

        Raises:
            DataError: There is no batch.
        """
        scores = {}
        for name, (order, added) in measure_removals(model, traced, batches=batches).items():
            scores[name] = np.empty(len(order))
            scores[name][order] = np.cumsum(added)
        return scores

    def damages(self, model: nn.Module, traced: Traced, *, batches: Batches) -> Damages:
        """On the diagonal what each channel adds in this order, which is the one that rules ask about."""
        found = {}
        for name, (order, added) in measure_removals(model, traced, batches=batches).items():
            found[name] = np.zeros((len(order), len(order)))
            found[name][order, order] = added
        return found
