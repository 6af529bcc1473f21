"""One trial, from a spec to a pruned and fine-tuned network on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from autoprune import methods
from autoprune.config import Progressed, TrialResult, TrialSpec, seed_of
from autoprune.cost import CONVENTION
from autoprune.engine.files import Phase, PhaseStore, load_into, phase_key, publish, read_tensors
from autoprune.engine.measuring import measure
from autoprune.engine.surgery import cut, masked
from autoprune.errors import ConfigError, TrialError, TrialStoppedError
from autoprune.importing import told
from autoprune.pipeline.answers import answers_of, assert_same
from autoprune.pipeline.progress import Clock, Pulse, Reporter
from autoprune.pipeline.steps import (
    Choice,
    Cut,
    Parent,
    choose,
    compensated,
    cut_from,
    is_untouched,
    parent_of,
    recalibrated,
)
from autoprune.pipeline.teacher import teacher_of
from autoprune.pipeline.tuning import tune
from autoprune.pipeline.workbench import Workbench, open_workbench
from autoprune.widths import rule_named

__all__ = ["run_trial"]

_log = logging.getLogger(__name__)


def run_trial(spec: TrialSpec, report: Reporter, phases: PhaseStore) -> TrialResult:
    """Run one trial: dense → sparsify → rank → widths → surgery → BN recalibration → fine-tune → score → save.

    Args:
        spec: What to do.
        report: Given the progress and each rung; it may raise to stop the trial.
        phases: Where dense and sparsify results are shared.

    Returns:
        Score, cost and files of the pruned network.

    Raises:
        TrialStoppedError: The network is slower than the limit, so it is not fine-tuned.
        TrialError: An assertion of the engine does not hold, a score is not finite, or the data are not the driver's.
        AutopruneError: The setting is wrong; see `open_workbench`.
    """
    _check(spec)
    method = methods.build(spec.method, spec.hyper)
    deadline, clock, workbench = _deadline(spec), Clock(), _opened(spec)
    with clock.phase("dense"):
        dense = _dense(workbench, phases, report)
    with clock.phase("sparsify"):
        parent = parent_of(spec, dense, method=method, workbench=workbench, phases=phases, report=report)
    with clock.phase("surgery"):
        choice = choose(spec, parent, workbench=workbench)
        result_key = _result_key(spec, parent, choice, workbench=workbench)
        report(Progressed(phase="surgery", progress=0.0, macs_ratio=choice.macs_ratio, result_key=result_key))
        pruned = cut_from(parent, choice, workbench=workbench)
        differences = _differences(parent, choice, pruned, workbench=workbench)
        compensated(parent, choice, pruned, workbench=workbench)
    with clock.phase("recalibrate"):
        if not pruned.is_untouched:
            recalibrated(pruned.network, workbench=workbench)
    latency = {}
    if spec.setting.latency_batch is not None:
        with clock.phase("latency"):  # At rung 0: what is too slow shows before it costs a fine-tuning.
            latency = _latency(parent, pruned, workbench=workbench, batch=spec.setting.latency_batch)
        _keep_latency(spec, choice, pruned, {**latency, "wall_s": clock.wall_s}, workbench=workbench, report=report)
    teacher, seed = None, _finetune_seed(spec)
    with clock.phase("teacher"):
        if not pruned.is_untouched:
            teacher = teacher_of(spec.finetune, dense, workbench=workbench, phases=phases, report=report, seed=seed)
    checkpoint = workbench.checkpoint("finetune", phase_key("finetune", result_key, seed))
    with clock.phase("finetune"):
        tuned = tune(
            spec, choice, pruned, parent=parent, workbench=workbench, report=report,
            teacher=teacher, seed=seed, deadline=deadline, checkpoint=checkpoint,
        )  # fmt: skip
    clock.move(tuned.scoring_s, "finetune", "scoring")
    origin = {} if parent.inherited is None else {"started_from": parent.inherited.number}
    facts = {**_facts(spec, choice, tuned.rungs), "images": tuned.images, **origin}
    facts |= {**latency, **choice.findings, "differences": differences}
    with clock.phase("save"):
        path = Path(spec.setting.artifacts) / "trials" / spec.study / f"{spec.number:05d}.safetensors"
        record = {**facts, **_provenance(spec, parent, choice, workbench=workbench)}
        sha256 = _save(path, record, parent, choice, pruned.network, workbench=workbench)
        checkpoint.drop()
    metric, score = spec.setting.task.metric_name, facts.pop(spec.setting.task.metric_name)
    return TrialResult(metric=metric, score=score, **facts, weights=str(path), sha256=sha256, wall_s=clock.wall_s)


def _deadline(spec: TrialSpec) -> float | None:
    """When a trial that begins now must be over, by the monotonic clock."""
    return None if spec.time_limit_s is None else time.monotonic() + spec.time_limit_s


def _dense(workbench: Workbench, phases: PhaseStore, report: Reporter) -> Phase:
    images = workbench.work.examples_in(1, workbench.setting.dense)
    return workbench.dense(phases, Pulse(report, "dense", images=images))


def _check(spec: TrialSpec) -> None:
    rule_named(spec.width_rule)  # Refused before anything is computed.
    if spec.latency_limit_ms is not None and spec.setting.latency_batch is None:
        raise ConfigError("`latency_limit_ms` needs `latency_batch`, the number of images timed at once. Add it.")


def _finetune_seed(spec: TrialSpec) -> int:
    return seed_of("finetune", spec.setting.seed, spec.number if spec.seed_number is None else spec.seed_number)


def _opened(spec: TrialSpec) -> Workbench:
    """The workbench; refuses data that have changed since the driver opened them: no score on others may be told."""
    workbench = open_workbench(spec.setting)
    if spec.data_digest not in (None, workbench.data_digest):
        raise TrialError(
            "the data must stay as they were when the study was launched, but this worker reads others. Put them back "
            "and resume, or launch a study of another name on them."
        )
    return workbench


def _result_key(spec: TrialSpec, parent: Parent, choice: Choice, *, workbench: Workbench) -> str:
    """Hash of all that fixes the result but the seed of the fine-tuning: two trials that share it differ by chance."""
    setting = spec.setting
    silence = parent.method.silence
    recipe: list[Any] = [spec.finetune.to_dict(), setting.rungs, setting.recalibration_images, setting.seed, silence]
    if setting.compensate:
        recipe.append("compensated")
    if setting.merge:
        recipe.append("merged")
    if parent.method.accompanies:
        recipe.append([spec.method, methods.method_named(spec.method).hyper_of(parent.method)])
    recipe += workbench.norms_apart
    training: Any = "none" if is_untouched(parent, choice) else recipe
    measured = [workbench.setting.precision, setting.latency_batch]
    return phase_key("finetune", parent.sha256, choice.channels, workbench.data, measured, training)


def _differences(parent: Parent, choice: Choice, pruned: Cut, *, workbench: Workbench) -> dict[str, float]:
    """How far answers moved where they must not, over the largest logit: when channels were cut, and when folded."""
    inputs, forward = workbench.work.comparison(), workbench.work.forward
    groups = workbench.traced.groups if parent.inherited is None else parent.inherited.traced.groups
    silenced = answers_of(masked(pruned.folded, groups, parent.within(choice.kept)), inputs, forward)
    after = answers_of(pruned.network, inputs, forward)
    found = {"surgery": assert_same(silenced, after, tolerance=1e-4, what="surgery")}
    if "fold_difference" in parent.phase.record:
        found["fold"] = parent.phase.record["fold_difference"]
    _log.info("answers moved by %s of the largest logit where they must not", found)
    return found


def _latency(parent: Parent, pruned: Cut, *, workbench: Workbench, batch: int) -> dict[str, float]:
    """Median time of one batch, and its ratio to the dense network's; short, since other trials wait for the cores."""
    networks = {"dense": workbench.with_weights(parent.dense.tensors), "pruned": pruned.network}
    found = measure(
        networks, workbench.work.example, batch=batch, device=workbench.runtime.device, n_runs=20, time_limit_s=20.0,
        memory_format=workbench.runtime.memory_format, forward=workbench.work.forward,
    )  # fmt: skip
    ratio = found["pruned"].median_ms / found["dense"].median_ms
    return {"latency_ms": found["pruned"].median_ms, "latency_ratio": ratio}


def _keep_latency(
    spec: TrialSpec, choice: Choice, pruned: Cut, found: Mapping[str, Any], *, workbench: Workbench, report: Reporter
) -> None:
    """Stop a trial whose network is too slow, with its accuracy at rung 0."""
    if spec.latency_limit_ms is None or found["latency_ms"] <= spec.latency_limit_ms:
        return
    score = workbench.work.score(pruned.network)
    report(Progressed(phase="latency", progress=1.0, rung=0, score=score, macs_ratio=choice.macs_ratio))
    raise TrialStoppedError(
        f"`latency_ms` must be at most {spec.latency_limit_ms:g}, but is {found['latency_ms']:.4g}", found
    )


def _facts(spec: TrialSpec, choice: Choice, rungs: Mapping[str, float]) -> dict[str, Any]:
    """What the trial found, as far as every trial finds it."""
    params = int(choice.cost.params(choice.widths))
    peak = choice.cost.peak_activation_bytes(choice.widths)
    return {
        spec.setting.task.metric_name: rungs[str(len(rungs) - 1)],
        "macs": choice.macs,
        "params": params,
        "macs_ratio": choice.macs_ratio,
        "params_ratio": params / choice.cost.dense_params,
        "peak_activation_bytes": peak,
        "peak_activation_ratio": peak / choice.cost.dense_peak_activation_bytes,
        "convention": CONVENTION,
        "widths": choice.widths,
        "rungs": rungs,
    }


def _provenance(spec: TrialSpec, parent: Parent, choice: Choice, *, workbench: Workbench) -> dict[str, Any]:
    """What the record beside a network says of where it comes from, and of how to build and feed it."""
    network = workbench.setting.network
    return {
        "study": spec.study,
        "trial": spec.number,
        "method": spec.method,
        "hyper": dict(spec.hyper),
        "width_rule": spec.width_rule,
        "macs_target": spec.macs_target,
        "architecture": network.architecture,
        "factory": told(network.factory),
        **workbench.work.record(),
        "memory_format": str(workbench.runtime.memory_format).removeprefix("torch."),
        "dense": parent.dense.key,
        "parent_sha256": parent.sha256,
        "kept": choice.channels,
    }


def _save(
    path: Path,
    record: Mapping[str, Any],
    parent: Parent,
    choice: Choice,
    network: nn.Module,
    *,
    workbench: Workbench,
) -> str:
    """Write the network with its record, and read it back; the hash of its file.

    Raises:
        TrialError: Its answers are not finite, or those of what was read back are others.
    """
    inputs, forward = workbench.work.comparison(), workbench.work.forward
    after = answers_of(network, inputs, forward)
    if not all(bool(answer.isfinite().all()) for answer in after):
        raise TrialError(
            "the pruned network's answers must be finite numbers, but some are not. The weights have diverged; "
            "lower the learning rate of [train.finetune]."
        )
    sha256 = publish(path, network.state_dict(), record)
    reloaded = cut(workbench.with_weights(parent.dense.tensors), workbench.traced.groups, choice.kept)
    load_into(reloaded, read_tensors(path), source=str(path))
    workbench.runtime.place(reloaded)  # As the other one: layouts round apart.
    assert_same(after, answers_of(reloaded, inputs, forward), tolerance=1e-6, what="saving and loading")
    return sha256
