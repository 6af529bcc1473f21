"""Training, BN recalibration and scoring: the loops that every phase shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.engine.contracts import Hooks
from autoprune.engine.data import ImageSet, Preprocess, augment
from autoprune.errors import ConfigError, TrialError
from autoprune.spec import TrainSpec

__all__ = ["Bench", "accuracy", "default_device", "recalibrate", "train"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_RECALIBRATION_BATCH = 64  # Small, so that a few thousand images give the 100 batches that the averages need.


def default_device() -> torch.device:
    """The accelerator at hand, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


@dataclass(frozen=True)
class Bench:
    """Where and how networks run: device, precision and normalisation, the same for a whole study."""

    device: torch.device
    precision: str
    preprocess: Preprocess

    def autocast(self) -> torch.autocast:
        """Mixed precision for the forward pass; off in float32."""
        dtype = _DTYPES[self.precision]
        if dtype is torch.float16 and self.device.type == "cpu":
            raise ConfigError("`precision` = 'float16' needs an accelerator, but there is none. Use 'bfloat16'.")
        # Cached casts would go stale within no_grad sections between optimizer steps.
        return torch.autocast(self.device.type, dtype, enabled=dtype is not torch.float32, cache_enabled=False)


def _optimizer(model: nn.Module, spec: TrainSpec, hooks: Hooks) -> torch.optim.Optimizer:
    by_decay: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            by_decay.setdefault(hooks.weight_decay.get(name, spec.weight_decay), []).append(parameter)
    groups = [{"params": parameters, "weight_decay": decay} for decay, parameters in by_decay.items()]
    if spec.optimizer == "sgd":
        return torch.optim.SGD(groups, spec.learning_rate, momentum=spec.momentum, nesterov=spec.momentum > 0)
    adam = torch.optim.Adam if spec.optimizer == "adam" else torch.optim.AdamW
    return adam(groups, spec.learning_rate, betas=(spec.momentum, 0.999))


def _schedule(optimizer: torch.optim.Optimizer, spec: TrainSpec, n_steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if spec.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            spec.learning_rate,
            total_steps=n_steps + 1,
            pct_start=max(spec.warmup, 1e-3),
            cycle_momentum=False,
        )
    if spec.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _index_batches(n_images: int, n_steps: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of indices from one permutation after another; a permutation's short rest is dropped."""
    size = min(batch, n_images)
    done = 0
    while done < n_steps:
        for indices in torch.randperm(n_images, generator=generator).split(size):
            if len(indices) < size or done == n_steps:
                break
            yield indices
            done += 1


def train(
    model: nn.Module,
    images: ImageSet,
    spec: TrainSpec,
    *,
    bench: Bench,
    seed: int,
    hooks: Hooks | None = None,
    on_step: Callable[[float], None] = lambda share: None,
) -> None:
    """Train ``model`` in place for ``spec.epochs`` passes over ``images``.

    Args:
        model: On any device; it is moved to ``bench.device`` and left in training mode.
        images: What to train on.
        spec: Optimizer, schedule, length.
        bench: Device, precision, normalisation.
        seed: Fixes order and augmentation.
        hooks: What a method does in each step.
        on_step: Called after each step with the share of the phase done, in (0, 1]. It may score the
            model; training mode is restored.

    Raises:
        TrialError: The loss is no longer finite.
    """
    hooks = hooks or Hooks()
    n_steps = round(spec.epochs * len(images) / min(spec.batch, len(images)))
    if n_steps == 0:
        return
    model.to(bench.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(model, spec, hooks)
    schedule = _schedule(optimizer, spec, n_steps)
    scaler = torch.amp.GradScaler(bench.device.type, enabled=bench.precision == "float16")
    index_batches = list(_index_batches(len(images), n_steps, spec.batch, generator))
    for step, (indices, pixels) in enumerate(zip(index_batches, images.read(index_batches), strict=True)):
        inputs = bench.preprocess(augment(pixels, spec.augmentation, generator), bench.device)
        targets = images.labels[indices].to(bench.device, non_blocking=True)
        with bench.autocast():
            logits = model(inputs)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=spec.label_smoothing)
        if hooks.extra_loss is not None:
            loss = loss + hooks.extra_loss()
        if step % 50 == 0 and not torch.isfinite(loss):
            raise TrialError(
                f"the loss must stay finite, but is {loss.item()} at step {step}. Lower the learning rate."
            )
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        hooks.transform_gradients()
        scaler.step(optimizer)
        scaler.update()
        hooks.shrink(float(schedule.get_last_lr()[0]))
        hooks.after_step()
        schedule.step()
        on_step((step + 1) / n_steps)
        model.train()


@torch.no_grad()
def recalibrate(model: nn.Module, images: ImageSet, *, bench: Bench, n_images: int, seed: int) -> None:
    """Re-estimate the running statistics of every BatchNorm by plain averages over fresh batches.

    Args:
        model: Changed in place; left in evaluation mode.
        images: Training images, seen without augmentation.
        bench: Device, precision, normalisation.
        n_images: How many to look at, at least one batch.
        seed: Fixes which.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    model.to(bench.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # A cumulative average instead of an exponential one.
        norm.train()
    generator = torch.Generator().manual_seed(seed)
    n_steps = max(1, round(n_images / min(_RECALIBRATION_BATCH, len(images))))
    for pixels in images.read(_index_batches(len(images), n_steps, _RECALIBRATION_BATCH, generator)):
        with bench.autocast():
            model(bench.preprocess(pixels, bench.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, images: ImageSet, *, bench: Bench, batch: int = 500) -> float:
    """Top-1 accuracy in [0, 1]; ``model`` is left in evaluation mode."""
    model.to(bench.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    index_batches = list(torch.arange(len(images)).split(batch))
    correct = 0
    for indices, pixels in zip(index_batches, images.read(index_batches), strict=True):
        with bench.autocast():
            predicted = model(bench.preprocess(pixels, bench.device)).argmax(1)
        correct += int((predicted == images.labels[indices].to(bench.device)).sum())
    return correct / len(images)
