"""GraNet on channels: fewer and fewer are open while training, and some that were shut are opened again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.config import check, option
from autoprune.cost import Limits, fit
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.engine.gating import gate_readers, silence_readers
from autoprune.importances import normalise
from autoprune.methods._by_group import by_group, scale_names
from autoprune.methods._sizes import Units, sizes
from autoprune.widths import Scores, keep_best, remove_least

__all__ = ["GraNet", "density_at", "exchanged", "share_regrown"]

_LAST_SHARE = 0.005


def density_at(progress: float, *, first: float = 1.0, last: float) -> float:
    """``d_f + (d_i - d_f) (1 - t)³``: how much is left at a share of the way; most goes early.

    Args:
        progress: t, in [0, 1].
        first: d_i.
        last: d_f.
    """
    return last + (first - last) * (1 - progress) ** 3


def share_regrown(progress: float, *, first: float) -> float:
    """Which share of the channels is exchanged: from ``first`` down to 0.005 along half a cosine, but not above it.

    Args:
        progress: t, in [0, 1].
        first: At the beginning, in [0, 1).
    """
    last = min(_LAST_SHARE, first)
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def exchanged(
    kept: NDArray[np.bool_], sizes: NDArray[np.float64], growth: NDArray[np.float64], *, share: float
) -> NDArray[np.bool_]:
    """Shut the smallest of the open channels and open as many of those that were shut, by the largest gradient.

    Args:
        kept: Which channels of a group are open, shape (C,).
        sizes: Shape (C,).
        growth: Size of the loss's gradient by each gate, shape (C,).
        share: Of the open channels, rounded down; no more than were shut.
    """
    n = min(int(share * kept.sum()), int((~kept).sum()))
    smallest = np.argsort(np.where(kept, sizes, np.inf), kind="stable")[:n]
    wanted = np.argsort(np.where(kept, np.inf, -growth), kind="stable")[:n]
    found = kept.copy()
    found[smallest], found[wanted] = False, True
    return found


@dataclass(frozen=True)
class GraNet(Method):
    """GraNet on channels: gradual pruning to the trial's target in one phase, with regrowth by gradient.

    Every channel has a gate where it is read. At each update channels are shut until the MACs keep to a schedule that
    falls to the target, ``d_f + (d_i - d_f)(1 - t)³``, the smallest of all groups first. Then in each group a share of
    those that are open is shut, too, and as many are opened whose gates have the largest gradients: a shut channel is
    computed still. The share falls along a cosine from ``regrow`` to 0.005. What is shut in the end is decided against.

    Args:
        interval: Steps from one update to the next, >= 1.
        end: Share of the phase at which the target is reached, in (0, 1].
        regrow: Share of the channels exchanged at first, in [0, 1); 0 is gradual pruning alone.
        growth: Which of the shut channels are opened: those of the largest ``"gradient"``, or at ``"random"``.
        scale_decay: Weight decay of every γ that a prunable channel passes.

    References:
        Liu et al. (2021), Sparse training via boosting pruning plasticity with neuroregeneration, arXiv 2106.10404,
        which prunes single weights and counts these. There the gradient is that of one batch, here the mean size since
        the last update, and what is shut in an exchange may be opened in the same one. A channel that is opened again
        goes on with the weights that it had.
    """

    name: ClassVar[str] = "granet"
    aims: ClassVar[bool] = True

    interval: int = option(10, low=1, high=1_000_000)
    end: float = option(0.7, above=0, high=1, search={"values": (0.5, 0.9)})
    regrow: float = option(0.5, low=0, below=1, search={"values": (0.0, 0.25, 0.5)})
    growth: str = option("gradient", choices=("gradient", "random"))
    scale_decay: float = option(0.0, low=0, high=1)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Put a gate before everything that combines channels; all are open."""
        gates = _Gates(model, traced, plan=plan, method=self)
        return Hooks(
            transform_gradients=gates.note_gradients,
            after_step=gates.count_step,
            weight_decay=dict.fromkeys(scale_names(traced), self.scale_decay),
            state=gates,
            fold=lambda _: gates.close(),
        )

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """The size of a channel over its group's mean; 0 or less where it is shut."""
        found = normalise(sizes(model, traced, state=state), "mean", traced.cost)
        top = max((float(score.max()) for score in found.values()), default=0.0)
        is_open = by_group(state["open"].cpu().double().numpy(), traced)
        least = np.finfo(np.float64).tiny
        return {
            name: np.where(is_open[name] > 0, np.maximum(score, least), score - top) for name, score in found.items()
        }


class _Gates:
    """Which channels are open, and what the loss would have of those that are not."""

    def __init__(self, model: nn.Module, traced: Traced, *, plan: PhasePlan, method: GraNet) -> None:
        self._model, self._traced, self._method, self._step = model, traced, method, 0
        device = next(model.parameters()).device
        self._gates = {
            group.name: torch.ones(group.width, device=device, requires_grad=True) for group in traced.groups
        }
        self._growth = {group.name: torch.zeros(group.width, device=device) for group in traced.groups}
        self._units = Units(model, traced)
        self._limits, self._n_steps = dataclasses.replace(plan.limits, multiple=1), method.end * plan.n_steps
        self._last = traced.cost.macs_ratio(fit(traced.cost, self._limits))
        self._is_done = False
        self._handles = gate_readers(model, traced, lambda name, _: self._gates[name])

    def note_gradients(self) -> None:
        """Add the size of each gate's gradient; they are no parameters of the network."""
        for name, gate in self._gates.items():
            if gate.grad is not None:  # In float16 it may overflow, and is as large as the scale of the loss.
                self._growth[name] += gate.grad.abs().nan_to_num(0.0, 0.0)
            gate.grad = None

    def count_step(self) -> None:
        """Shut and open channels where it is time."""
        self._step += 1
        progress = min(1.0, self._step / self._n_steps) if self._n_steps else 1.0
        if not self._is_done and (self._step % self._method.interval == 0 or progress == 1):
            self._update(progress)
            self._is_done = progress == 1

    def _update(self, progress: float) -> None:
        cost = self._traced.cost
        found = normalise(sizes(self._model, self._traced, state=self._units.state_dict()), "mean", cost)
        is_open = {name: gate.detach().cpu().numpy() > 0 for name, gate in self._gates.items()}
        alive = {name: np.where(is_open[name], score, -1.0) for name, score in found.items()}
        limits = self._limits
        if progress < 1:
            ratio = density_at(progress, last=self._last)
            limits = Limits(macs=ratio * cost.dense_macs, min_widths=self._limits.min_widths)
        kept = keep_best(cost, alive, remove_least(cost, alive, limits))
        share = share_regrown(progress, first=self._method.regrow) if progress < 1 else 0.0
        for name, gate in self._gates.items():
            now = np.zeros(len(gate), dtype=np.bool_)
            now[kept[name]] = True
            now &= is_open[name]  # What a cut would give back for the last MACs stays shut.
            now = exchanged(now, found[name], self._growth_of(name), share=share)
            with torch.no_grad():
                gate.copy_(torch.from_numpy(now))
            self._growth[name].zero_()

    def _growth_of(self, name: str) -> NDArray[np.float64]:
        growth = self._growth[name]
        drawn = torch.rand_like(growth) if self._method.growth == "random" else growth
        return np.asarray(drawn.cpu().double().numpy())

    def close(self) -> None:
        """Take the gates out; weights do what they did."""
        for handle in self._handles:
            handle.remove()
        silence_readers(self._model, self._traced, {name: gate.detach() == 0 for name, gate in self._gates.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """What is open and what gradients were noted, each of shape (all channels,), units, and the count of steps."""
        return {
            "open": torch.cat([gate.detach() for gate in self._gates.values()]),
            "growth": torch.cat([*self._growth.values()]),
            "step": torch.tensor(self._step),
            "is_done": torch.tensor(self._is_done),
            **self._units.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        sizes = [len(gate) for gate in self._gates.values()]
        for kind, values in (("open", self._gates), ("growth", self._growth)):
            for mine, given in zip(values.values(), state[kind].split(sizes), strict=True):
                with torch.no_grad():
                    mine.copy_(given)
        self._step, self._is_done = int(state["step"]), bool(state["is_done"])
        self._units.load_state_dict(state)
