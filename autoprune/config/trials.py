"""What a worker is told of one trial, and what it gives back, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.config.fields import check, option, read
from autoprune.config.recipes import TrainSpec
from autoprune.config.spec import SettingSpec

__all__ = ["Ancestor", "TrialResult", "TrialSpec"]


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A finished trial whose network a later one may start from.

    Args:
        number: The trial's number.
        weights: The file of its network, beside which the JSON record lies.
        sha256: Hash of that file.
    """

    number: int = option(low=0)
    weights: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that a worker needs to run one trial.

    Args:
        setting: What all trials of the study share.
        study: Name of the study.
        number: The trial's number in the study.
        seed_number: The number that with the study's seed seeds the fine-tune phase, the same for a trial and its
            retries. None: ``number``.
        method: Name of the method that sparsifies and ranks.
        hyper: The method's own hyper-parameters.
        width_rule: How widths follow from target and ranking, one of `widths.WIDTH_RULES`.
        macs_target: Upper bound of pruned / dense MACs, in (0, 1]; 1 keeps the dense network.
        multipliers: Of the keep ratio, by group, > 0, for the rules that sample them; an absent group has 1.
        params_limit: Most parameters that the pruned network may have, or None.
        activation_limit_bytes: Largest peak activation memory that it may have, or None.
        latency_limit_ms: Longest median time of one batch, or None; a slower network is not fine-tuned.
        ancestors: Trials whose network it may start from, its parent first; the first one that is there counts. None:
            it starts from the dense network, or from what its method's sparsify phase made of that.
        recipe: What of the setting's fine-tune phase this trial does otherwise, by the names of `RECIPE`.
        epochs: Length of its fine-tune phase; None: as the recipe says.
        time_limit_s: Seconds that the trial may take on its worker; its fine-tune phase is shortened to fit.
        data_digest: What tells the data and the split that the driver has opened; None: the worker's are not compared.
    """

    setting: SettingSpec
    study: str
    number: int = option(low=0)
    seed_number: int | None = option(None, low=0)
    method: str
    hyper: Mapping[str, Any] = option({})
    width_rule: str
    macs_target: float = option(above=0, high=1)
    multipliers: Mapping[str, float] = option({})
    params_limit: int | None = option(None, low=1)
    activation_limit_bytes: int | None = option(None, low=1)
    latency_limit_ms: float | None = option(None, above=0)
    ancestors: tuple[Ancestor, ...] = option(())
    recipe: Mapping[str, float] = option({})
    epochs: float | None = option(None, above=0)
    time_limit_s: float | None = option(None, above=0)
    data_digest: str | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def finetune(self) -> TrainSpec:
        """The recipe of its fine-tune phase."""
        recipe = self.setting.finetune.with_searched(self.recipe)
        return recipe if self.epochs is None else dataclasses.replace(recipe, epochs=self.epochs)

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON-serialisable data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> TrialSpec:
        """Rebuild what `to_dict` gave."""
        return read(TrialSpec, data, where="[trial]")


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """What a finished trial leaves behind, next to its files.

    Args:
        score: The study's metric on the validation split, after fine-tuning.
        metric: Its name, under which the score is stored.
        macs: MACs of the pruned network, convention ``convention``. flops = 2 * macs.
        params: Parameters of the pruned network.
        macs_ratio: ``macs`` / dense MACs.
        params_ratio: ``params`` / dense parameters.
        convention: Version of the cost convention.
        widths: Width by group.
        rungs: Accuracy by rung.
        weights: Path of the safetensors file, beside which the JSON record lies.
        sha256: Its hash.
        wall_s: Seconds by phase.
        peak_activation_bytes: The most that tensors take at once in a pass of one input, floats as float32
            (`cost.CostModel.peak_activation_bytes`).
        peak_activation_ratio: The same over the dense network's.
        latency_ms: Median time of one batch at rung 0, milliseconds, where the setting asks for it.
        latency_ratio: The same over the dense network's, measured in turn with it, so that it holds on a busy machine.
        images: Images that its fine-tune phase has seen, repetitions counted.
        started_from: Number of the trial whose network it was cut from; None for the dense network. It is another than
            the parent that was proposed where that one's file was gone or damaged.
        theta: Largest joint damage that the removed channels of a group do, where the width rule is ``aofp``.
        differences: How far answers moved where they must not, over the largest logit: when what the method put in was
            folded (``fold``), and when channels were cut from the masked network (``surgery``).
    """

    score: float
    metric: str = "accuracy"
    macs: int
    params: int
    macs_ratio: float
    params_ratio: float
    convention: str
    widths: Mapping[str, int]
    rungs: Mapping[str, float]
    weights: str
    sha256: str
    wall_s: Mapping[str, float]
    peak_activation_bytes: int | None = None
    peak_activation_ratio: float | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    images: int = 0
    started_from: int | None = None
    theta: float | None = None
    differences: Mapping[str, float] = option({})

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-serialisable data, the score under its metric's name, without what was not measured."""
        facts = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        score, metric = facts.pop("score"), facts.pop("metric")
        return {metric: score, **facts}
