"""From a ranked network to the channels that stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, nn

from autoprune.cost import Limits
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Method
from autoprune.engine.folding import silent_channels
from autoprune.engine.measuring import measure_damages
from autoprune.errors import TrialError
from autoprune.widths import Damages, Evidence, Kept, Scores, keep_best, rule_named

__all__ = ["Ranking", "silent_last"]


@dataclass(frozen=True, eq=False)
class Ranking:
    """How channels are ranked.

    Args:
        name: Of the method, for people.
        method: Whose scores count.
        batches: For scores that are measured on data.
        state: What the method trained or counted in its sparsify phase.
    """

    name: str
    method: Method
    batches: Batches
    state: Mapping[str, Tensor] = field(default_factory=dict)

    def kept(
        self,
        model: nn.Module,
        traced: Traced,
        *,
        rule: str,
        limits: Limits,
        multipliers: Mapping[str, float] | None = None,
    ) -> tuple[Kept, Mapping[str, float]]:
        """The best channels of each group, as many as the rule says; and what the rule found on the way.

        Args:
            model: In evaluation mode; left as it is.
            traced: Its channel groups.
            rule: Name of the width rule.
            limits: What the widths must keep.
            multipliers: Of keep ratios, for rules that sample them.

        Raises:
            TrialError: A score is not a finite number.
            InfeasibleError: Even the smallest widths cost more than the limits.
        """
        device = next(model.parameters()).device
        state = {name: tensor.to(device) for name, tensor in self.state.items()}
        scores = self.method.rank(model, traced, state=state, batches=self.batches)
        scores = silent_last(scores, model, traced, silence=self.method.silence)
        for name, score in scores.items():
            if not np.isfinite(score).all():
                raise TrialError(
                    f"the importance of every channel must be a finite number, but {self.name} gave others in "
                    f"group {name!r}. The weights have diverged; lower the learning rate of [train.sparsify]."
                )
        evidence = Evidence(
            traced.cost,
            scores,
            multipliers=multipliers or {},
            measure=lambda: self._damages(model, traced),
        )
        widths = rule_named(rule)
        kept = keep_best(traced.cost, scores, widths.widths(evidence, limits))
        return kept, widths.findings(evidence, kept)

    def _damages(self, model: nn.Module, traced: Traced) -> Damages:
        own = self.method.damages(model, traced, batches=self.batches)
        return measure_damages(model, traced, batches=self.batches) if own is None else own


def silent_last(scores: Scores, model: nn.Module, traced: Traced, *, silence: float) -> Scores:
    """The same scores, but at most 0 for channels that only say a constant: it moves to their readers.

    Args:
        scores: By group, shape (C,).
        model: The network.
        traced: Its channel groups.
        silence: Scales up to this size, >= 0, are taken for zero.
    """
    silent = silent_channels(model, traced, silence=silence)
    return {name: np.where(silent[name], np.minimum(score, 0), score) for name, score in scores.items()}
