"""Training, BN recalibration and scoring: the loops that every phase shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.engine._randomness import Randomness
from autoprune.engine.contracts import Hooks
from autoprune.engine.data import ImageSet, Preprocess, augment
from autoprune.errors import ConfigError, TrialError
from autoprune.spec import TrainSpec

__all__ = [
    "Bench",
    "Samples",
    "Training",
    "accuracy",
    "default_device",
    "learning_rate",
    "n_steps_of",
    "recalibrate",
    "train",
]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CHECKED_EVERY = 50  # Steps: to look at the loss, the host must wait for the accelerator.
_SCALING = ("scale", "_growth_tracker")  # What a loss scaler learns.
_SAMPLED_BATCH = 64  # Small, so that a few thousand images give the 100 batches that the averages need.


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
    alike: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            momentum = hooks.momentum.get(name, spec.momentum)
            alike.setdefault((hooks.weight_decay.get(name, spec.weight_decay), momentum), []).append(parameter)
    groups: list[dict[str, Any]] = [{"params": p, "weight_decay": decay} for (decay, _), p in alike.items()]
    for group, (_, momentum) in zip(groups, alike, strict=True):
        if spec.optimizer == "sgd":
            group |= {"momentum": momentum, "nesterov": momentum > 0}
        else:
            group |= {"betas": (momentum, 0.999)}
    optimizers: dict[str, Callable[..., torch.optim.Optimizer]]
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return optimizers[spec.optimizer](groups, spec.learning_rate)


def n_steps_of(spec: TrainSpec, n_images: int) -> int:
    """Number of optimizer steps of a phase over ``n_images`` images."""
    return round(spec.epochs * n_images / min(spec.batch, n_images))


def learning_rate(spec: TrainSpec, step: int, n_steps: int) -> float:
    """The learning rate of one step of a phase.

    ``one_cycle`` rises from 1/25 of the peak for the ``warmup`` share of the phase, then falls to 1/250,000 of it, both
    along half a cosine; ``cosine`` only falls, to zero.

    Args:
        spec: Schedule, its peak and its warmup.
        step: 0 is the first; ``n_steps`` would come after the last.
        n_steps: Of the whole phase, >= 1.

    References:
        Smith and Topin (2018), Super-convergence, arXiv 1708.07120, in the form of PyTorch's ``OneCycleLR``.
    """
    peak = spec.learning_rate

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    if spec.schedule == "constant":
        return peak
    if spec.schedule == "cosine":
        return between(peak, 0.0, step / n_steps)
    top = spec.warmup * (n_steps + 1) - 1  # The step of the peak; below 0 where the warmup is shorter than a step.
    if top > 0 and step <= top:
        return between(peak / 25, peak, step / top)
    return between(peak, peak / 25 / 1e4, (step - top) / (n_steps - top))


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


class Training:
    """A phase of training that can stop after any step and be taken up elsewhere, on a CPU to the last bit.

    All that is drawn follows from ``seed``: order, augmentation and what the network draws itself (dropout). The
    caller's own random state is left as it was.

    Args:
        model: Trained in place; moved to ``bench.device``.
        images: What to train on.
        spec: Optimizer, schedule, length: ``spec.epochs`` passes over ``images``. ``hooks.recipe`` goes over it.
        bench: Device, precision, normalisation.
        seed: Of this phase.
        hooks: What a method does in each step.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        spec: TrainSpec,
        *,
        bench: Bench,
        seed: int,
        hooks: Hooks | None = None,
    ) -> None:
        self._hooks = hooks or Hooks()
        self._spec = self._hooks.recipe or spec
        self._images, self._bench, self._model = images, bench, model
        model.to(bench.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = _optimizer(model, self._spec, self._hooks)
        self._scaler = torch.amp.GradScaler(bench.device.type, enabled=bench.precision == "float16")
        self._random = Randomness(bench.device, seed)
        self.step, self.n_steps = 0, n_steps_of(spec, len(images))
        batches = _index_batches(len(images), self.n_steps, spec.batch, self._random.generator)
        self._index_batches = list(batches)

    def run(self, on_step: Callable[[float], None] = lambda share: None, *, until: int | None = None) -> None:
        """Take the steps that remain; the model is left in training mode.

        Args:
            on_step: Called after each step with the share of the phase done, in (0, 1]. It may score the model or take
                `state_dict`; what it raises ends the run between two steps.
            until: Stop after this many steps of the phase.

        Raises:
            TrialError: The loss is no longer finite.
        """
        index_batches = self._index_batches[self.step : until]
        self._model.train()
        with self._random.in_use():
            for indices, pixels in zip(index_batches, self._images.read(index_batches), strict=True):
                self._take_step(indices, pixels)
                self.step += 1
                on_step(self.step / self.n_steps)
                self._model.train()

    def _take_step(self, indices: Tensor, pixels: Tensor) -> None:
        spec, bench, hooks, optimizer, scaler = self._spec, self._bench, self._hooks, self._optimizer, self._scaler
        rate = learning_rate(spec, self.step, self.n_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        inputs = bench.preprocess(augment(pixels, spec.augmentation, self._random.generator), bench.device)
        targets = self._images.labels[indices].to(bench.device, non_blocking=True)
        with bench.autocast():
            logits = self._model(inputs)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=spec.label_smoothing)
        if hooks.extra_loss is not None:
            loss = loss + hooks.extra_loss()
        if (self.step % _CHECKED_EVERY == 0 or self.step == self.n_steps - 1) and not torch.isfinite(loss):
            raise TrialError(
                f"the loss must stay finite, but is {loss.item()} at step {self.step}. Lower the learning rate."
            )
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        hooks.transform_gradients()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() >= scale:  # A smaller scale says that this step overflowed and was left out.
            hooks.shrink(rate)
            hooks.after_step()

    def state_dict(self) -> dict[str, Tensor]:
        """All that the remaining steps depend on, by name; taken between two steps."""
        state = {"step": torch.tensor(self.step)}
        state |= _under("random", self._random.state_dict()) | _under("model", self._model.state_dict())
        for name, parameter in self._model.named_parameters():
            remembered = self._optimizer.state.get(parameter, {})
            state |= _under(f"optimizer:{name}", {k: v for k, v in remembered.items() if isinstance(v, Tensor)})
        state |= _under("scaler", {k: torch.tensor(v) for k, v in self._scaler.state_dict().items() if k in _SCALING})
        if self._hooks.state is not None:
            state |= _under("method", self._hooks.state.state_dict())
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off, in a training that was made from the same arguments."""
        self.step = int(state["step"])
        self._random.load_state_dict(_from_under("random", state))
        self._model.load_state_dict(_from_under("model", state))
        for name, parameter in self._model.named_parameters():
            for key, value in _from_under(f"optimizer:{name}", state).items():
                kept = value.clone() if key == "step" else torch.empty_like(parameter).copy_(value)
                self._optimizer.state[parameter][key] = kept
        scaling = {key: value.item() for key, value in _from_under("scaler", state).items()}
        self._scaler.load_state_dict(self._scaler.state_dict() | scaling)
        if self._hooks.state is not None:
            self._hooks.state.load_state_dict(_from_under("method", state))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}:{name}": tensor for name, tensor in tensors.items()}


def _from_under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}:"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


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
    """Run a whole phase of `Training`.

    Args:
        model: Trained in place.
        images: What to train on.
        spec: Optimizer, schedule, length.
        bench: Device, precision, normalisation.
        seed: Of the phase.
        hooks: What a method does in each step.
        on_step: Called after each step with the share of the phase done, in (0, 1].

    Raises:
        TrialError: The loss is no longer finite.
    """
    Training(model, images, spec, bench=bench, seed=seed, hooks=hooks).run(on_step)


@dataclass(frozen=True)
class Samples:
    """A few batches of training images without augmentation, the same each time they are gone through.

    Args:
        images: Training images.
        bench: Device, precision, normalisation.
        n_images: How many, at least one batch.
        seed: Fixes which.
    """

    images: ImageSet
    bench: Bench
    n_images: int
    seed: int

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images (N, C, H, W) and their classes (N,), on the bench's device."""
        n_steps = max(1, round(self.n_images / min(_SAMPLED_BATCH, len(self.images))))
        generator = torch.Generator().manual_seed(self.seed)
        index_batches = list(_index_batches(len(self.images), n_steps, _SAMPLED_BATCH, generator))
        for indices, pixels in zip(index_batches, self.images.read(index_batches), strict=True):
            yield self.bench.preprocess(pixels, self.bench.device), self.images.labels[indices].to(self.bench.device)


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
    for inputs, _ in Samples(images, bench, n_images, seed):
        with bench.autocast():
            model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def accuracy(model: nn.Module, images: ImageSet, *, bench: Bench, batch: int = 500) -> float:
    """Top-1 accuracy in [0, 1]; ``model`` is left in evaluation mode."""
    # Outside of inference mode: a tensor that is moved within it can't be trained afterwards.
    model.to(bench.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    index_batches = torch.arange(len(images)).split(batch)
    correct = torch.zeros((), dtype=torch.int64, device=bench.device)
    with torch.inference_mode():
        for indices, pixels in zip(index_batches, images.read(index_batches), strict=True):
            with bench.autocast():
                predicted = model(bench.preprocess(pixels, bench.device)).argmax(1)
            correct += (predicted == images.labels[indices].to(bench.device)).sum()
    return int(correct) / len(images)
