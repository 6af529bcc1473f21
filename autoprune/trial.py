"""One trial, from a spec to a pruned and fine-tuned network on disk; here names become torch objects."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune import methods
from autoprune.cost import CONVENTION
from autoprune.engine.contracts import Hooks, Method, Scores
from autoprune.engine.damage import measure_damages
from autoprune.engine.groups import Traced
from autoprune.engine.latency import measure
from autoprune.engine.phases import Phase, PhaseStore, phase_key, with_state
from autoprune.engine.surgery import cut, fold_constants, masked, silent_channels
from autoprune.engine.training import Samples, accuracy, recalibrate, train
from autoprune.engine.weights import load_into, publish, read_tensors
from autoprune.errors import ConfigError, TrialError, TrialStoppedError, unknown_name
from autoprune.spec import RungReport, TrialResult, TrialSpec, seed_of
from autoprune.widths import RULES, Kept, Limits, keep_best, largest_damage
from autoprune.workbench import Workbench, open_workbench

__all__ = ["Report", "folded", "is_untouched", "recalibrated", "run_trial", "silent_last", "sparsified"]

_log = logging.getLogger(__name__)

Report = Callable[[RungReport], None]
# Any moments make a fold exact; measured ones give BatchNorm statistics that training can go on from. Not a setting,
# since a phase depends on them.
_FOLDING_IMAGES = 1_280
_TOLD_EVERY_S = 2.0  # Between rungs, so that a stop is obeyed within seconds.


class _Clock:
    """Seconds spent in each phase."""

    def __init__(self) -> None:
        self.wall_s: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.wall_s[name] = round(time.monotonic() - start, 3)


def _throttled(report: Report, phase: str) -> Callable[[float], None]:
    told_at = -math.inf

    def on_step(share: float) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _TOLD_EVERY_S:
            told_at = time.monotonic()
            report(RungReport(phase=phase, progress=share))

    return on_step


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    # In full float32: what TensorFloat-32 leaves out is more than what is compared here.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        logits: Tensor = model.eval()(inputs)
    return logits.cpu().double()  # Not every device has float64.


def _assert_same(before: Tensor, after: Tensor, tolerance: float, what: str) -> float:
    """The largest difference of the logits, over the largest logit; refused where it is above ``tolerance``."""
    scale = before.abs().max().clamp_min(1e-12)
    difference = float(((before - after).abs().max() / scale).item())
    if not difference <= tolerance:
        raise TrialError(
            f"{what} must not change the network's answers, but they differ by {difference:.2e} of the largest logit "
            f"(allowed {tolerance:.0e}). This is a bug of the engine; please report it with the study file."
        )
    return difference


def _example(workbench: Workbench) -> Tensor:
    images = next(workbench.splits.validation.read([torch.arange(min(16, len(workbench.splits.validation)))]))
    return workbench.bench.preprocess(images, workbench.bench.device)


def sparsified(
    spec: TrialSpec, method: Method, dense: Phase, *, workbench: Workbench, phases: PhaseStore, report: Report
) -> Phase:
    """What a trial's channels are cut from: the method's sparsify phase, or the dense one where it has none.

    Args:
        spec: The trial; its method, hyper-parameters and setting count.
        method: The same method, built.
        dense: The dense phase.
        workbench: Opened on the trial's setting.
        phases: Where the phase is looked for, and kept once it is computed.
        report: Told the progress, and where the result lies.
    """
    key = workbench.sparsify_key(spec.method, spec.hyper, spec.macs_target)
    if key is None:
        return dense

    def compute() -> tuple[dict[str, Tensor], dict[str, Any]]:
        model = workbench.with_weights(dense.tensors)
        inputs = _example(workbench)
        before = _logits(model, inputs)
        hooks: Hooks = method.attach(model, workbench.traced, plan=workbench.sparsify_plan(spec.macs_target))
        _assert_same(before, _logits(model, inputs), 1e-6, f"attaching {spec.method}")
        train(
            model, workbench.splits.train, spec.setting.sparsify,
            bench=workbench.bench, seed=workbench.sparsify_seed, hooks=hooks, on_step=_throttled(report, "sparsify"),
        )  # fmt: skip
        record: dict[str, Any] = {"method": spec.method, "hyper": dict(spec.hyper)}
        state = hooks.state.state_dict() if hooks.state is not None else {}
        if hooks.fold is not None:
            trained = _logits(model, inputs)
            hooks.fold(_samples(workbench, n_images=_FOLDING_IMAGES))
            record["fold_difference"] = _assert_same(trained, _logits(model, inputs), 1e-4, f"folding {spec.method}")
        return with_state(model.state_dict(), state), record

    phase = phases.get("sparsify", key, compute)
    report(RungReport(phase="sparsify", progress=1.0, phase_file=phase.file))
    return phase


def _samples(workbench: Workbench, *, n_images: int | None = None) -> Samples:
    """Training images that channels are measured on, as many as for recalibration unless told."""
    setting = workbench.setting
    n_images = n_images or setting.recalibration_images
    return Samples(workbench.splits.train, workbench.bench, n_images, seed_of("rank", setting.seed))


def _rank(method: Method, model: nn.Module, parent: Phase, workbench: Workbench) -> Scores:
    state = {name: tensor.to(workbench.bench.device) for name, tensor in parent.state.items()}
    scores = method.rank(model, workbench.traced, state=state, batches=_samples(workbench))
    return silent_last(scores, model, workbench.traced, silence=method.silence)


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


def folded(model: nn.Module, method: Method, kept: Kept, *, workbench: Workbench) -> nn.Module:
    """The network to cut: what removed channels say, where that is constant, has moved to those that read it."""
    # No layer gets a bias that it had not: the file of weights must fit the network that it was cut from.
    return fold_constants(model, workbench.traced, kept, silence=method.silence, new_biases=False)


def is_untouched(method: Method, *, macs: int, workbench: Workbench) -> bool:
    """Whether the pruned network is the dense one: more training would only move it off its optimum."""
    return not method.trains and macs == workbench.traced.cost.dense_macs


def recalibrated(network: nn.Module, workbench: Workbench) -> nn.Module:
    """The same network, its BatchNorm statistics estimated anew as in every trial of the study."""
    setting, seed = workbench.setting, seed_of("recalibrate", workbench.setting.seed)
    images, n_images = workbench.splits.train, setting.recalibration_images
    recalibrate(network, images, bench=workbench.bench, n_images=n_images, seed=seed)
    return network


def _choose(spec: TrialSpec, model: nn.Module, scores: Scores, workbench: Workbench) -> tuple[Kept, dict[str, float]]:
    """The channels that stay, and what the width rule found on the way."""
    for name, score in scores.items():
        if not np.isfinite(score).all():
            raise TrialError(
                f"the importance of every channel must be a finite number, but {spec.method} gave others in group "
                f"{name!r}. The weights have diverged; lower the learning rate of [train.sparsify]."
            )
    cost = workbench.traced.cost
    limits = Limits(
        macs=spec.macs_target * cost.dense_macs,
        params=spec.params_limit,
        min_widths=workbench.min_widths(),
        multiple=spec.setting.network.multiple,
    )
    measure = functools.cache(lambda: measure_damages(model, workbench.traced, batches=_samples(workbench)))
    kept = keep_best(cost, scores, RULES[spec.width_rule](cost, scores, limits, spec.shape, measure))
    return kept, {"theta": largest_damage(measure(), kept)} if spec.width_rule == "aofp" else {}


def _result_key(
    spec: TrialSpec, parent: Phase, kept: Kept, *, silence: float, workbench: Workbench, untouched: bool
) -> str:
    """Hash of all that fixes the result but the seed of the fine-tuning: two trials that share it differ by chance."""
    setting = spec.setting
    recipe = [setting.finetune.to_dict(), setting.rungs, setting.recalibration_images, setting.seed, silence]
    channels = {name: indices.tolist() for name, indices in kept.items()}
    measured = [setting.precision, setting.latency_batch]
    return phase_key("finetune", parent.sha256, channels, workbench.data, measured, "none" if untouched else recipe)


def _finetune(
    spec: TrialSpec, model: nn.Module, macs_ratio: float, *, workbench: Workbench, report: Report
) -> dict[str, float]:
    """Train the pruned network; accuracy at each rung, the last one after the whole phase."""
    splits, bench = workbench.splits, workbench.bench
    reached: dict[str, float] = {}
    waiting = list(spec.setting.rungs)

    def score(share: float) -> None:
        rung = len(reached)
        reached[str(rung)] = accuracy(model, splits.validation, bench=bench)
        report(
            RungReport(phase="finetune", progress=share, rung=rung, accuracy=reached[str(rung)], macs_ratio=macs_ratio)
        )

    tell = _throttled(report, "finetune")

    def on_step(share: float) -> None:
        if waiting and waiting[0] <= share < 1:
            while waiting and waiting[0] <= share:
                waiting.pop(0)
            score(share)
        else:
            tell(share)

    score(0.0)
    number = spec.number if spec.seed_number is None else spec.seed_number
    seed = seed_of("finetune", spec.setting.seed, number)
    train(model, splits.train, spec.setting.finetune, bench=bench, seed=seed, on_step=on_step)
    reached[str(len(reached))] = accuracy(model, splits.validation, bench=bench)
    return reached


def _latency(dense: nn.Module, pruned: nn.Module, workbench: Workbench, *, batch: int) -> dict[str, float]:
    """Median time of one batch, and its ratio to the dense network's; short, since other trials wait for the cores."""
    networks, shape = {"dense": dense, "pruned": pruned}, workbench.splits.train.shape
    found = measure(networks, shape, batch=batch, device=workbench.bench.device, n_runs=20, time_limit_s=20.0)
    ratio = found["pruned"].median_ms / found["dense"].median_ms
    return {"latency_ms": found["pruned"].median_ms, "latency_ratio": ratio}


def run_trial(spec: TrialSpec, report: Report, phases: PhaseStore) -> TrialResult:
    """Run one trial: dense → sparsify → rank → widths → surgery → BN recalibration → fine-tune → score → save.

    Args:
        spec: What to do.
        report: Told the progress and each rung; it may raise to stop the trial.
        phases: Where dense and sparsify results are shared.

    Returns:
        Score, cost and files of the pruned network.

    Raises:
        TrialStoppedError: The network is slower than the limit, so it is not fine-tuned.
        TrialError: An assertion of the engine does not hold, or a score is not finite.
        AutopruneError: The setting is wrong; see `open_workbench`.
    """
    clock, workbench = _Clock(), open_workbench(spec.setting)
    traced, cost, bench = workbench.traced, workbench.traced.cost, workbench.bench
    method = methods.build(spec.method, spec.hyper)
    if spec.width_rule not in RULES:
        raise ConfigError(unknown_name("width rule", spec.width_rule, RULES))
    if spec.latency_limit_ms is not None and spec.setting.latency_batch is None:
        raise ConfigError("`latency_limit_ms` needs `latency_batch`, the number of images timed at once. Add it.")
    with clock.phase("dense"):
        dense = workbench.dense(phases, _throttled(report, "dense"))
    with clock.phase("sparsify"):
        parent = sparsified(spec, method, dense, workbench=workbench, phases=phases, report=report)
    with clock.phase("surgery"):
        model = workbench.with_weights(parent.weights)
        kept, found = _choose(spec, model, _rank(method, model, parent, workbench), workbench)
        widths = {name: len(indices) for name, indices in kept.items()}
        macs, params = int(cost.macs(widths)), int(cost.params(widths))
        macs_ratio = macs / cost.dense_macs
        untouched = is_untouched(method, macs=macs, workbench=workbench)
        result_key = _result_key(spec, parent, kept, silence=method.silence, workbench=workbench, untouched=untouched)
        report(RungReport(phase="surgery", progress=0.0, macs_ratio=macs_ratio, result_key=result_key))
        model = folded(model, method, kept, workbench=workbench)
        pruned = cut(model, traced.groups, kept)
        inputs = _example(workbench)
        silenced = _logits(masked(model, traced.groups, kept), inputs)
        differences = {"surgery": _assert_same(silenced, _logits(pruned, inputs), 1e-4, "surgery")}
        if "fold_difference" in parent.record:
            differences["fold"] = parent.record["fold_difference"]
        _log.info("answers moved by %s of the largest logit where they must not", differences)
    with clock.phase("recalibrate"):
        if not untouched:
            recalibrated(pruned, workbench)
    latency = {}
    if spec.setting.latency_batch is not None:
        with clock.phase("latency"):  # At rung 0: what is too slow shows before it costs a fine-tuning.
            dense_model = workbench.with_weights(dense.tensors)
            latency = _latency(dense_model, pruned, workbench, batch=spec.setting.latency_batch)
        if spec.latency_limit_ms is not None and latency["latency_ms"] > spec.latency_limit_ms:
            score = accuracy(pruned, workbench.splits.validation, bench=bench)
            report(RungReport(phase="latency", progress=1.0, rung=0, accuracy=score, macs_ratio=macs_ratio))
            raise TrialStoppedError(
                f"`latency_ms` must be at most {spec.latency_limit_ms:g}, but is {latency['latency_ms']:.4g}",
                {**latency, "wall_s": clock.wall_s},
            )
    with clock.phase("finetune"):
        rungs = (
            {"0": accuracy(pruned, workbench.splits.validation, bench=bench)}
            if untouched
            else _finetune(spec, pruned, macs_ratio, workbench=workbench, report=report)
        )
    final = rungs[str(len(rungs) - 1)]
    after = _logits(pruned, inputs)
    if not after.isfinite().all():
        raise TrialError(
            "the pruned network's answers must be finite numbers, but some are not. The weights have diverged; "
            "lower the learning rate of [train.finetune]."
        )
    path = Path(spec.setting.artifacts) / "trials" / spec.study / f"{spec.number:05d}.safetensors"
    facts: dict[str, Any] = {
        "accuracy": final,
        "macs": macs,
        "params": params,
        "macs_ratio": macs_ratio,
        "params_ratio": params / cost.dense_params,
        "convention": CONVENTION,
        "widths": widths,
        "rungs": rungs,
        **latency,
        **found,
        "differences": differences,
    }
    provenance = {
        "study": spec.study,
        "trial": spec.number,
        "method": spec.method,
        "hyper": dict(spec.hyper),
        "width_rule": spec.width_rule,
        "macs_target": spec.macs_target,
        "architecture": workbench.setting.network.architecture,
        "factory": workbench.setting.network.factory,
        "n_classes": workbench.splits.n_classes,
        "image_shape": list(workbench.splits.train.shape),
        "normalisation": {"mean": list(bench.preprocess.mean), "std": list(bench.preprocess.std)},
        "dense": dense.key,
        "kept": {name: indices.tolist() for name, indices in kept.items()},
    }
    with clock.phase("save"):
        sha256 = publish(path, pruned.state_dict(), {**facts, **provenance})
        reloaded = cut(workbench.with_weights(dense.tensors), traced.groups, kept)
        load_into(reloaded, read_tensors(path), source=str(path))
        reloaded.to(memory_format=torch.channels_last)  # As the other one: layouts round apart.
        _assert_same(after, _logits(reloaded, inputs), 1e-6, "saving and loading")
    return TrialResult(**facts, weights=str(path), sha256=sha256, wall_s=clock.wall_s)
