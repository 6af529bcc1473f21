"""The training loop that every phase shares."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config import TrainSpec
from autoprune.engine.contracts import Hooks
from autoprune.engine.training.feeds import Feed
from autoprune.engine.training.randomness import Randomness
from autoprune.engine.training.runtime import Runtime
from autoprune.engine.training.schedule import learning_rate
from autoprune.errors import NetworkError, TrialError, first_line

__all__ = ["Training", "require_trained", "train"]

_log = logging.getLogger(__name__)

_CHECKED_EVERY = 50  # Steps: to look at the loss, the host must wait for the accelerator.
_SCALING = ("scale", "_growth_tracker")  # What a loss scaler learns.


def _optimizer(model: nn.Module, spec: TrainSpec, hooks: Hooks) -> torch.optim.Optimizer:
    alike: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            momentum = hooks.momentum.get(name, spec.momentum)
            alike.setdefault((hooks.weight_decay.get(name, spec.weight_decay), momentum), []).append(parameter)
    if not alike:
        return torch.optim.SGD([{"params": []}], spec.learning_rate)  # Of a phase without a step, or it was refused.
    groups: list[dict[str, Any]] = [{"params": p, "weight_decay": decay} for (decay, _), p in alike.items()]
    for group, (_, momentum) in zip(groups, alike, strict=True):
        if spec.optimizer == "sgd":
            group |= {"momentum": momentum, "nesterov": momentum > 0}
        else:
            group |= {"betas": (momentum, 0.999)}
    optimizers: dict[str, Callable[..., torch.optim.Optimizer]]
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return optimizers[spec.optimizer](groups, spec.learning_rate)


def require_trained(model: nn.Module) -> None:
    """Refuse to train a network in which nothing trains.

    Raises:
        NetworkError: All of its parameters are frozen.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        n_frozen = sum(1 for _ in model.parameters())
        raise NetworkError(
            f"a network must have a parameter that trains, but all of its {n_frozen} are frozen (`requires_grad` is "
            "False). Let some of them train, those of the classifier at least."
        )


class Training:
    """A phase of training that can stop after any step and be taken up elsewhere, on a CPU to the last bit.

    All that is drawn follows from ``seed``: order, augmentation and what the network draws itself (dropout). The
    caller's own random state is left as it was.

    Args:
        model: Trained in place; moved to ``runtime.device``.
        feed: What to train on.
        spec: Optimizer, schedule, length: ``spec.epochs`` passes over the feed. ``hooks.recipe`` goes over it.
        runtime: Device, precision, normalisation.
        seed: Of this phase.
        hooks: What a method does in each step.

    Raises:
        NetworkError: All parameters are frozen, and there is a step to take.
    """

    def __init__(
        self,
        model: nn.Module,
        feed: Feed,
        spec: TrainSpec,
        *,
        runtime: Runtime,
        seed: int,
        hooks: Hooks | None = None,
    ) -> None:
        self._hooks = hooks or Hooks()
        self._spec, self._steps_a_pass = self._hooks.recipe or spec, feed.steps_a_pass(spec)
        self._feed, self._runtime, self._model = feed, runtime, model
        self.step, self.n_steps = 0, feed.n_steps(spec)
        if self.n_steps:
            require_trained(model)
        runtime.place(model)
        self._optimizer = _optimizer(model, self._spec, self._hooks)
        self._scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "float16")
        self._random = Randomness(runtime.device, seed)
        self._began = 0  # The first step of a run, in which what is compiled is compiled.
        self._planned, self._at, self._pace = self.n_steps, 0.0, 1.0  # Where the schedule stands, in planned steps.
        self._run = self._compiled()
        self._read = feed.open(spec, self.n_steps, generator=self._random.generator)

    def _compiled(self) -> nn.Module:
        """What is called in each step: the network, or what torch compiles of it at its first call."""
        least = self._runtime.compiled_from
        if least is None or self.n_steps < least:
            return self._model
        compiled: nn.Module = torch.compile(self._model, dynamic=False)  # type: ignore[assignment]
        return compiled

    def _loss(self, batch: Any) -> Tensor:
        turn, generator = self.step // self._steps_a_pass, self._random.generator

        def loss_of(model: nn.Module) -> Tensor:
            runtime = self._runtime
            return self._feed.loss(model, batch, self._spec, runtime=runtime, turn=turn, generator=generator)

        if self._run is not self._model and self.step == self._began:
            try:
                return loss_of(self._run)
            except Exception as error:  # Compilers raise anything; what is no fault of theirs is raised again below.
                _log.warning("the network is trained as it is, since it can't be compiled: %s", first_line(error))
                self._run = self._model
        return loss_of(self._run)

    def run(self, on_step: Callable[[float], None] = lambda share: None, *, until: int | None = None) -> None:
        """Take the steps that remain; the model is left in training mode.

        Args:
            on_step: Called after each step with the share of the phase done, in (0, 1]. It may score the model or take
                `state_dict`; what it raises ends the run between two steps.
            until: Stop after this many steps of the phase.

        Raises:
            TrialError: The loss is no longer finite.
            NetworkError: The loss depends on nothing that trains.
        """
        self._model.train()
        self._began = self.step
        with self._random.in_use():
            for batch in self._read(self.step, until):
                self._take_step(batch)
                self.step += 1
                self._at += self._pace
                on_step(self._at / self._planned)
                self._model.train()
                if self.step == self.n_steps < self._planned:
                    break

    def shorten(self, n_steps: int) -> None:
        """End after fewer steps: the schedule goes on from where it is, faster, to its end.

        Args:
            n_steps: Of the whole phase, more than were taken; a longer phase than it is already stays as it is.
        """
        if self.step < n_steps < self.n_steps:
            self.n_steps, self._pace = n_steps, (self._planned - self._at) / (n_steps - self.step)

    def _take_step(self, batch: Any) -> None:
        spec, hooks, optimizer, scaler = self._spec, self._hooks, self._optimizer, self._scaler
        rate = learning_rate(spec, self._at, self._planned)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss(batch)
        if hooks.extra_loss is not None:
            loss = loss + hooks.extra_loss()
        if (self.step % _CHECKED_EVERY == 0 or self.step == self.n_steps - 1) and not torch.isfinite(loss):
            raise TrialError(
                f"the loss must stay finite, but is {loss.item()} at step {self.step}. Lower the learning rate."
            )
        if not loss.requires_grad:
            raise NetworkError(
                "the network's answers must depend on a parameter that trains, but depend on none. Let a layer train "
                "that they depend on, and let `forward` compute gradients."
            )
        optimizer.zero_grad(set_to_none=True)
        self._feed.backward(loss, scaler)
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
        state = {"step": torch.tensor(self.step), "n_steps": torch.tensor(self.n_steps)}
        state["schedule"] = torch.tensor([self._at, self._pace], dtype=torch.float64)
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
        self.step, self.n_steps = int(state["step"]), int(state["n_steps"])
        self._at, self._pace = state["schedule"].tolist()
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
    feed: Feed,
    spec: TrainSpec,
    *,
    runtime: Runtime,
    seed: int,
    hooks: Hooks | None = None,
    on_step: Callable[[float], None] = lambda share: None,
) -> None:
    """Run a whole phase of `Training`.

    Args:
        model: Trained in place.
        feed: What to train on.
        spec: Optimizer, schedule, length.
        runtime: Device, precision, normalisation.
        seed: Of the phase.
        hooks: What a method does in each step.
        on_step: Called after each step with the share of the phase done, in (0, 1].

    Raises:
        TrialError: The loss is no longer finite.
    """
    Training(model, feed, spec, runtime=runtime, seed=seed, hooks=hooks).run(on_step)
