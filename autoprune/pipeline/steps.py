"""The steps of a trial: parent → choice → cut → tuned. A repetition takes the same ones."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from autoprune.config import Progressed, TrainSpec, TrialSpec, seed_of
from autoprune.cost import CostModel
from autoprune.engine.asking import joined
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Method
from autoprune.engine.files import Phase, PhaseStore, with_state
from autoprune.engine.folding import compensate, fold_constants
from autoprune.engine.surgery import cut
from autoprune.engine.training import Checkpoint, Training
from autoprune.pipeline.answers import answers_of, assert_same
from autoprune.pipeline.choosing import Ranking
from autoprune.pipeline.lineage import Inherited, inherit
from autoprune.pipeline.progress import Pulse, Reporter
from autoprune.pipeline.teacher import teacher_of
from autoprune.pipeline.workbench import Workbench
from autoprune.widths import Kept

__all__ = [
    "Choice",
    "Cut",
    "Parent",
    "choose",
    "compensated",
    "cut_from",
    "finetuning",
    "is_untouched",
    "parent_of",
    "recalibrated",
]

# Any moments make a fold exact; measured ones give BatchNorm statistics that training can go on from. Not a setting,
# since a phase depends on them.
_FOLDING_IMAGES = 1_280
_COMPENSATION_IMAGES = 256


@dataclass(frozen=True, eq=False)
class Parent:
    """What channels are cut from.

    Args:
        method: The trial's.
        dense: The dense phase.
        phase: The method's sparsify phase, or the dense one where it has none.
        inherited: The network of a finished trial, which stands before both.
    """

    method: Method
    dense: Phase
    phase: Phase
    inherited: Inherited | None = None

    @property
    def sha256(self) -> str:
        """Hash of the file that its weights lie in."""
        return self.phase.sha256 if self.inherited is None else self.inherited.sha256

    def opened(self, workbench: Workbench) -> tuple[nn.Module, Traced]:
        """A copy of its network, on the runtime's device, in evaluation mode, and what is known of it."""
        if self.inherited is None:
            return workbench.with_weights(self.phase.weights), workbench.traced
        return copy.deepcopy(self.inherited.network).eval(), self.inherited.traced

    def within(self, kept: Kept) -> Kept:
        """Channels of the dense network as channels of this one."""
        return kept if self.inherited is None else self.inherited.within(kept)

    def in_dense(self, kept: Kept) -> Kept:
        """Channels of this network as channels of the dense one."""
        return kept if self.inherited is None else self.inherited.in_dense(kept)


@dataclass(frozen=True, eq=False)
class Choice:
    """The channels that stay, and what they cost.

    Args:
        cost: The dense network's cost model.
        kept: By group, counted in the dense network.
        findings: What the width rule found on the way.
    """

    cost: CostModel
    kept: Kept
    findings: Mapping[str, float] = field(default_factory=dict)

    @property
    def widths(self) -> dict[str, int]:
        """Width by group."""
        return {name: len(indices) for name, indices in self.kept.items()}

    @property
    def macs(self) -> int:
        """MACs of the pruned network."""
        return int(self.cost.macs(self.widths))

    @property
    def macs_ratio(self) -> float:
        """Pruned / dense MACs."""
        return self.macs / self.cost.dense_macs

    @property
    def channels(self) -> dict[str, list[int]]:
        """The kept channels as plain lists."""
        return {name: indices.tolist() for name, indices in self.kept.items()}


@dataclass(frozen=True, eq=False)
class Cut:
    """A pruned network before it is fine-tuned.

    Args:
        folded: What it was cut from, of the parent's size: removed channels that say a constant have moved it to their
            readers.
        network: The pruned network, on the runtime's device.
        is_untouched: Whether it is the dense network as it was: more training would only move it off its optimum.
    """

    folded: nn.Module
    network: nn.Module
    is_untouched: bool


def parent_of(
    spec: TrialSpec, dense: Phase, *, method: Method, workbench: Workbench, phases: PhaseStore, report: Reporter
) -> Parent:
    """What a trial's channels are cut from; the sparsify phase is computed where it is not there.

    A trial that inherits a network takes it as it is, so its method must be one that only ranks.

    Args:
        spec: The trial; its method, hyper-parameters, limits and setting count.
        dense: The dense phase.
        method: The trial's, built.
        workbench: Opened on the trial's setting.
        phases: Where the phase is looked for, and kept once it is computed.
        report: Given the progress, and where the result lies.
    """
    key = workbench.sparsify_key(spec.method, spec.hyper, **_aims(spec))
    if key is None and spec.ancestors:
        return Parent(method, dense, dense, inherit(spec.ancestors, workbench=workbench))
    if key is None:
        return Parent(method, dense, dense)
    checkpoint = workbench.checkpoint("sparsify", key)
    compute = functools.partial(
        _sparsify, spec, method, dense, workbench=workbench, phases=phases, report=report, checkpoint=checkpoint
    )
    phase = phases.get("sparsify", key, compute)
    checkpoint.drop()
    report(Progressed(phase="sparsify", progress=1.0, phase_file=phase.file))
    return Parent(method, dense, phase)


def _aims(spec: TrialSpec) -> dict[str, Any]:
    """What the widths of a trial have to keep."""
    limits = {"params": spec.params_limit, "activation_bytes": spec.activation_limit_bytes}
    return {"macs_target": spec.macs_target, **limits}


def _sparsify(
    spec: TrialSpec,
    method: Method,
    dense: Phase,
    *,
    workbench: Workbench,
    phases: PhaseStore,
    report: Reporter,
    checkpoint: Checkpoint,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the record of a sparsify phase."""
    recipe, seed = spec.setting.sparsify, workbench.sparsify_seed
    teacher = teacher_of(recipe, dense, workbench=workbench, phases=phases, report=report, seed=seed)
    model, inputs = workbench.with_weights(dense.tensors), workbench.work.comparison()
    forward = workbench.work.forward
    before = answers_of(model, inputs, forward)
    plan = workbench.sparsify_plan(**_aims(spec))
    hooks = method.attach(model, workbench.traced, plan=plan)
    assert_same(before, answers_of(model, inputs, forward), tolerance=1e-6, what=f"attaching {spec.method}")
    feed = workbench.work.feed(teacher)
    training = Training(model, feed, recipe, runtime=workbench.runtime, seed=seed, hooks=hooks)
    checkpoint.restore(training)
    checkpoint.run(training, Pulse(report, "sparsify", images=workbench.work.examples_in(1, recipe)))
    record: dict[str, Any] = {"method": spec.method, "hyper": dict(spec.hyper)}
    state = hooks.state.state_dict() if hooks.state is not None else {}
    if hooks.fold is not None:
        trained = answers_of(model, inputs, forward)
        hooks.fold(_samples(workbench, n_images=_FOLDING_IMAGES))
        record["fold_difference"] = assert_same(
            trained, answers_of(model, inputs, forward), tolerance=1e-4, what=f"folding {spec.method}"
        )
    return with_state(model.state_dict(), state), record


def _samples(workbench: Workbench, *, n_images: int | None = None) -> Batches:
    """Training images that channels are measured on, as many as for recalibration by default."""
    setting = workbench.setting
    n_images = n_images or setting.recalibration_images
    return workbench.work.samples(n_images, seed=seed_of("rank", setting.seed))


def choose(spec: TrialSpec, parent: Parent, *, workbench: Workbench) -> Choice:
    """Rank the channels of the parent, and keep those that the width rule says.

    Raises:
        TrialError: A score is not a finite number.
        InfeasibleError: Even the smallest widths cost more than the trial's limits.
    """
    model, traced = parent.opened(workbench)
    limits = workbench.limits(**_aims(spec))
    if parent.inherited is not None and limits.keeps(traced.cost, {group.name: group.width for group in traced.groups}):
        return Choice(workbench.traced.cost, parent.inherited.kept)  # Trained on at the widths that it has.
    ranking = Ranking(spec.method, parent.method, _samples(workbench), parent.phase.state)
    kept, findings = ranking.kept(model, traced, rule=spec.width_rule, limits=limits, multipliers=spec.multipliers)
    return Choice(workbench.traced.cost, parent.in_dense(kept), findings)


def is_untouched(parent: Parent, choice: Choice) -> bool:
    """Whether the pruned network is the dense one: more training would only move it off its optimum."""
    has_trained = parent.method.trains or parent.inherited is not None
    return not has_trained and choice.macs == choice.cost.dense_macs


def cut_from(parent: Parent, choice: Choice, *, workbench: Workbench) -> Cut:
    """Remove all channels that do not stay from the parent's network."""
    model, traced = parent.opened(workbench)
    kept = parent.within(choice.kept)
    folded = fold_constants(model, traced, kept, silence=parent.method.silence)
    return Cut(folded, cut(folded, traced.groups, kept), is_untouched(parent, choice))


def compensated(parent: Parent, choice: Choice, pruned: Cut, *, workbench: Workbench) -> None:
    """Refit what reads removed channels, where the setting wants it; the pruned network is changed in place."""
    if not workbench.setting.compensate or pruned.is_untouched:
        return
    _, traced = parent.opened(workbench)
    inputs = joined([inputs for inputs, _ in _samples(workbench, n_images=_COMPENSATION_IMAGES)])
    compensate(pruned.network, pruned.folded, traced, kept=parent.within(choice.kept), inputs=inputs)


def recalibrated(network: nn.Module, *, workbench: Workbench) -> nn.Module:
    """The same network, its BatchNorm statistics estimated anew as in every trial of the study."""
    setting, seed = workbench.setting, seed_of("recalibrate", workbench.setting.seed)
    workbench.work.recalibrate(network, n_examples=setting.recalibration_images, seed=seed)
    return network


def finetuning(
    network: nn.Module, recipe: TrainSpec, *, workbench: Workbench, seed: int, teacher: Any = None
) -> Training:
    """The fine-tune phase of a network, before its first step.

    Args:
        network: Recalibrated; trained in place.
        recipe: Of the phase.
        workbench: Of the trial's setting.
        seed: Of the phase.
        teacher: Whom the network learns from beside the labels.
    """
    return Training(network, workbench.work.feed(teacher), recipe, runtime=workbench.runtime, seed=seed)
