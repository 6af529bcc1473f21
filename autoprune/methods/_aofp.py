"""AOFP: channels are masked for good where the next layer hardly misses them, a search by halves at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from autoprune.config import check, option
from autoprune.engine.channels import Member, Traced, is_atomic, kind_of, readers_of
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.engine.training import wide
from autoprune.errors import NetworkError
from autoprune.importances import Damage, GroupNorm, normalise
from autoprune.methods._aofp_moves import MaskSearch, Moves, scores_of
from autoprune.methods._by_group import scale_names
from autoprune.widths import Scores

__all__ = ["AOFP", "relative_damage", "sole_readers"]

_FLOOR = 1e-6  # Mean square below which a reader says nothing that damage could be relative to.


def sole_readers(model: nn.Module, traced: Traced) -> dict[str, Member]:
    """The one layer that combines the channels of a group, by group; groups that several layers read are absent.

    Depthwise layers combine nothing: they hand channels on. A layer whose answer to a part of its channels is not
    simply its kernel's (a `forward` of its own, a transposed convolution) can't be asked; its groups are absent, too.
    """
    found = {}
    for group in traced.groups:
        readers = readers_of(model, group)
        is_sole = len(readers) == 1 and not any(member.reads and member.axis != "in" for member in group.members)
        if is_sole:
            module = model.get_submodule(readers[0].module)
            if is_atomic(module) and kind_of(module) in ("conv", "linear"):
                found[group.name] = readers[0]
    return found


@torch.no_grad()
def relative_damage(
    reader: nn.Module,
    x: Tensor,
    z: Tensor,
    *,
    positions: Tensor,
    norm: _BatchNorm | None = None,
    out_mask: Tensor | None = None,
) -> Tensor:
    """``‖z - z'‖² / ‖z‖²``, z' being what a layer would say without some of its input channels.

    A layer is linear, so ``z - z'`` is its answer to those channels alone. A normalisation behind it takes both paths
    with the statistics of z, and its running ones do not hear of z'.

    Args:
        reader: A convolution or linear layer.
        x: Its input.
        z: Its output.
        positions: The input channels to go without, rising, shape (r,); the same offsets in each conv group. On the
            CPU, or the host waits for the device.
        norm: The BatchNorm right behind it; z is then what that says.
        out_mask: Multiplies its output channels before they are compared, shape (O,).

    Returns:
        Shape (), >= 0, in float32 or wider, on the device of z; nothing waits for it.
    """
    weight = reader.weight
    assert isinstance(weight, Tensor)
    axis = 1 - weight.dim()  # of channels, counted from the end
    offsets = positions[positions < weight.shape[1]].to(x.device, non_blocking=True)
    inputs = x.detach().index_select(axis, positions.to(x.device, non_blocking=True))
    part = weight[:, offsets]
    forward: Any = F.linear if isinstance(reader, nn.Linear) else reader._conv_forward
    change, whole = wide(forward(inputs, part, None)), wide(z.detach())

    def column(values: Tensor) -> Tensor:
        return values.to(whole.dtype).view(-1, *[1] * (weight.dim() - 2))

    if norm is not None and axis % whole.dim() == 1:
        if norm.training or norm.running_mean is None or norm.running_var is None:
            over = [dim for dim in range(whole.dim()) if dim != 1]
            variance, mean = torch.var_mean(whole, over, correction=0)
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = (variance.to(whole.dtype) + norm.eps).rsqrt()
        scale = scale * norm.weight if norm.affine else scale
        change, whole = change * column(scale), (whole - column(mean)) * column(scale)
        whole = whole + column(norm.bias) if norm.affine else whole
    if out_mask is not None:
        change, whole = change * column(out_mask), whole * column(out_mask)
    return change.square().sum() / whole.square().sum().clamp_min(_FLOOR * whole.numel())


@dataclass(frozen=True)
class AOFP(Method):
    """AOFP (approximated oracle filter pruning): masks the channels that the layer behind hardly misses.

    In each step a random half R of the channels under search is left out on the side, and the damage that this does to
    the output z of the next layer is noted for each of them, ``T = ‖z - z'‖² / ‖z‖²``. After some steps, those of
    smallest mean T are masked where it is below θ; else they are searched in turn, until one is left. All groups do so
    while the network trains on with the masked channels gone, until the trial's MACs target is met.

    Only a group that exactly one layer reads and combines can be judged so: the inside of a residual block, a plain
    chain. The others (residual streams) are never masked.

    What is left in the end is ranked by `Damage`, in all groups alike; then come the masked channels, the last one
    masked first. Where the target was met, the width rule ``global`` removes none but these. With ``streams = "whole"``
    groups that were not judged rank above everything, by the group norm relative to its mean, and those that were by
    their last mean T: they stay whole until all else is at its minimum, which costs dearly at hard targets.

    Args:
        theta: θ, of the damage that all channels masked at once may do, > 0; relative to what is left by then.
        samples: Steps in each half, >= 1. A channel is drawn in half of them, so fewer make the means of large groups
            noisy; a group of C channels needs log2(C) halves to find one that does little harm.
        mask_ratio: Share of the channels under search that a step leaves out, in (0, 1).
        warmup: Share of the phase before the first half, in [0, 1).
        streams: How groups that several layers read are ranked: by ``"damage"`` as all others, or ``"whole"``.
        scale_decay: Weight decay of every γ that a prunable channel passes.

    References:
        Ding et al. (2019), Approximated oracle filter pruning for destructive CNN width optimization,
        arXiv 1905.04748, as in its PyTorch code: first halves are ⌊n/2⌋, a mean must be below θ, a channel that was
        never drawn counts as harmful. We compare before the activation, which is also what a residual sum adds; give
        the side path the base path's batch statistics, no gradient and no say in running statistics; take the
        difference from the layer's linearity instead of a second pass; begin halves with exactly ``samples`` steps
        ahead; stop within a move once the target is met; and retire groups at their minimum width. There streams are
        whole.
    """

    name: ClassVar[str] = "aofp"
    aims: ClassVar[bool] = True
    ranking: ClassVar[tuple[str, ...]] = ("streams",)

    theta: float = option(0.05, above=0, high=10, search={"low": 1e-3, "high": 1e-1, "scale": "log", "points": 5})
    samples: int = option(20, low=1, high=1_000_000)
    mask_ratio: float = option(0.5, above=0, below=1)
    warmup: float = option(0.0, low=0, below=1)
    streams: str = option("damage", choices=("damage", "whole"))
    scale_decay: float = option(0.0, low=0, high=1)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Watch the layer that reads each group; nothing is masked yet.

        Raises:
            NetworkError: There is no group that exactly one layer reads and combines.
        """
        readers = sole_readers(model, traced)
        if not readers:
            names = ", ".join(repr(group.name) for group in traced.groups[:3])
            raise NetworkError(
                "aofp needs a channel group that exactly one convolution or linear layer combines, as within a "
                f"residual block, but several read {names}. Use another method."
            )
        watch = _Watch(model, traced, readers=readers, plan=plan, method=self)
        return Hooks(
            after_step=watch.count_step,
            weight_decay=dict.fromkeys(scale_names(traced), self.scale_decay),
            state=watch,
            fold=lambda batches: watch.fold(),
        )

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """Damage of what is left; 0 or less where a channel was masked."""
        norms = GroupNorm().score(model, traced, batches=batches)
        scores = scores_of(state, normalise(norms, "mean", traced.cost))
        if self.streams == "whole":
            return scores
        left, least = Damage().score(model, traced, batches=batches), np.finfo(np.float64).tiny
        return {name: np.where(score > 0, np.maximum(left[name], least), score) for name, score in scores.items()}


class _WatchedGroup:
    """A group, the layer that reads it, and what that says without some of its channels."""

    def __init__(self, name: str, reader: nn.Module, member: Member, *, norm: _BatchNorm | None, moves: Moves) -> None:
        self.name, self.moves = name, moves
        self.seen: tuple[Tensor, Tensor] | None = None  # What this step left out, and the damage.
        self.out_mask: Tensor | None = None  # (O,); None while nothing is masked, or can be
        self._in_mask: Tensor | None = None  # (I,); likewise
        self._reader, self._norm, self._places = reader, norm, torch.from_numpy(member.index)  # (C, k)
        weight = reader.weight
        assert isinstance(weight, Tensor)
        self.weight = weight

    def refresh(self) -> None:
        """Take over the base mask."""
        gone = self._places[~self.moves.kept].flatten()
        size = self._reader.in_features if isinstance(self._reader, nn.Linear) else self._reader.in_channels
        assert isinstance(size, int)
        mask = torch.ones(size).index_fill_(0, gone, 0).to(self.weight.device)
        self._in_mask = mask if len(gone) else None

    def mask(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the reader reads instead."""
        if self._in_mask is None:
            return args
        return (args[0] * self._in_mask.to(args[0].dtype).view(-1, *[1] * (self.weight.dim() - 2)), *args[1:])

    def measure(self, x: Tensor, z: Tensor) -> None:
        """Draw, and see what the reader would say without."""
        drawn = self.moves.draw()
        positions = self._places[drawn].flatten().sort().values
        damage = relative_damage(self._reader, x, z, positions=positions, norm=self._norm, out_mask=self.out_mask)
        self.seen = (drawn, damage)

    @torch.no_grad()
    def fold(self) -> None:
        """Zero weights instead of inputs."""
        gone = self._places[~self.moves.kept].flatten() % self.weight.shape[1]
        self.weight[:, gone.unique().to(self.weight.device)] = 0


class _Watch:
    """Hooks on the readers of all targets, and the search that they serve."""

    def __init__(
        self, model: nn.Module, traced: Traced, *, readers: Mapping[str, Member], plan: PhasePlan, method: AOFP
    ) -> None:
        norms = traced.norms
        self._model, self._targets, self._handles = model, list[_WatchedGroup](), list[RemovableHandle]()
        for name, member in readers.items():
            reader = model.get_submodule(member.module)
            norm = model.get_submodule(norms[member.module]) if member.module in norms else None
            assert norm is None or isinstance(norm, _BatchNorm)
            moves = Moves(
                traced.group(name).width,
                theta=method.theta,
                min_width=plan.limits.min_widths.get(name, 1),
                mask_ratio=method.mask_ratio,
                device=model.get_parameter(f"{member.module}.weight").device,
            )
            self._targets.append(_WatchedGroup(name, reader, member, norm=norm, moves=moves))
            self._hook(reader, self._targets[-1])
        self._written = [  # Which targets write what the reader of each target writes, and where.
            [
                (other, torch.from_numpy(group.member(member.module).index))
                for other in self._targets
                for group in [traced.group(other.name)]
                if any((m.module, m.axis) == (member.module, "out") for m in group.members)
            ]
            for member in readers.values()
        ]
        self._search = MaskSearch(
            {target.name: target.moves for target in self._targets},
            traced.cost,
            limits=plan.limits,
            samples=method.samples,
            first=round(method.warmup * plan.n_steps),
        )

    def _hook(self, reader: nn.Module, target: _WatchedGroup) -> None:
        def measure(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            if self._model.training and torch.is_grad_enabled() and self._search.is_on(target.name):
                target.measure(args[0], output)

        self._handles += [
            reader.register_forward_pre_hook(lambda module, args: target.mask(args)),
            reader.register_forward_hook(measure),
        ]

    def count_step(self) -> None:
        """Hand the damages of this step to the search."""
        if self._search.count_step({target.name: target.seen for target in self._targets if target.seen is not None}):
            self._refresh()
        for target in self._targets:
            target.seen = None

    def _refresh(self) -> None:
        for target, written in zip(self._targets, self._written, strict=True):
            target.refresh()
            mask = torch.ones(target.weight.shape[0])
            for other, places in written:
                mask[places[~other.moves.kept].flatten()] = 0
            target.out_mask = mask.to(target.weight.device) if written else None

    def fold(self) -> None:
        """Take the hooks out; weights do what they did."""
        for handle in self._handles:
            handle.remove()
        for target in self._targets:
            target.fold()

    def state_dict(self) -> dict[str, Tensor]:
        """That of the search."""
        return self._search.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off."""
        self._search.load_state_dict(state)
        self._refresh()
