"""One proposal of a search space, as it is stored with its trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Point", "Value"]

Value: TypeAlias = float | str | bool
_STORED_MULTIPLIERS = "shape"  # Their name in the databases that there are.
_OPTIONAL = (
    "parent",
    "epochs",
    "recipe",
    "finetune_seed",
)  # Not stored where they say nothing: keys of earlier databases stay as they are.


@dataclass(frozen=True)
class Point:
    """One proposal of the space, as it is stored with its trial.

    Args:
        method: Name of the method.
        width_rule: Name of the width rule.
        macs_target: Upper bound of pruned / dense MACs, in (0, 1].
        hyper: The method's hyper-parameters.
        multipliers: Of the keep ratio, by what the rule samples (`widths.WidthRule.sampled`); none for most.
        parent: Number of the finished trial whose network it starts from; None for the dense network.
        epochs: Length of the fine-tune phase; None: as the recipe says.
        recipe: What of the study's fine-tune recipe it does otherwise, by the names of `config.RECIPE`.
        finetune_seed: Seeds the fine-tune phase in place of the trial's number, for trials that are compared by their
            recipes.
    """

    method: str
    width_rule: str
    macs_target: float
    hyper: Mapping[str, Value] = field(default_factory=dict)
    multipliers: Mapping[str, float] = field(default_factory=dict)
    parent: int | None = None
    epochs: float | None = None
    recipe: Mapping[str, float] = field(default_factory=dict)
    finetune_seed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The point as it is stored, JSON-serialisable."""
        facts = dataclasses.asdict(self)
        facts[_STORED_MULTIPLIERS] = facts.pop("multipliers")
        return {key: value for key, value in facts.items() if key not in _OPTIONAL or value not in (None, {})}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Point:
        """Read what `to_dict` gave."""
        facts = {key: value for key, value in stored.items() if key != _STORED_MULTIPLIERS}
        return cls(**facts, multipliers=stored.get(_STORED_MULTIPLIERS, {}))

    @property
    def params(self) -> dict[str, Value]:
        """Parameter values by the names that the sampler and the database know them by."""
        return {
            "method": self.method,
            "width_rule": self.width_rule,
            "macs_target": self.macs_target,
            **{f"{self.method}.{key}": value for key, value in self.hyper.items()},
            **{f"{self.width_rule}.{key}": value for key, value in self.multipliers.items()},
        }

    @property
    def hyper_text(self) -> str:
        """The method's hyper-parameters in a line for people."""
        texts = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in self.hyper.items()}
        return ", ".join(f"{key}={text}" for key, text in texts.items())
