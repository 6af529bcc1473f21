"""BWCP: channels are whitened and gated at random while the network learns which of them are active."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.compactors import Gate, Whitening
from autoprune.config import check, option
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Batches, Hooks, Method, PhasePlan
from autoprune.engine.folding import Site, fold_compactors, insert, sites
from autoprune.errors import NetworkError
from autoprune.methods._by_group import by_group, scale_names
from autoprune.widths import Scores

__all__ = ["BWCP", "share_at"]


def share_at(step: int, n_ramp: int) -> float:
    """α in [0, 1], the share of whitening, gates and sparsity loss: rises linearly over ``n_ramp`` steps from 0."""
    return 1.0 if step >= n_ramp else step / n_ramp


@dataclass(frozen=True)
class BWCP(Method):
    """BWCP (batch-whitening channel pruning): channels behind each BatchNorm are whitened, and gated at random.

    With W = Σ_N^{-1/2}, the batch's whitening of each block of channels, a channel's effective scale and shift are
    ``γ̂ = W γ`` and ``β̂ = W β``, and it is active with probability ``P = Φ((β̂ - δ) / |γ̂|)``. In training the whitened
    channel is multiplied by a Gumbel gate, which is open with probability P, and the loss gets
    ``Σ λ₁ |γ| + λ₂ β``: scales are pulled to 0, shifts to the negative. At the end the running mean Ŵ is merged into
    the convolutions with open gates, and channels with P <= 1/2 are decided against.

    Args:
        gamma_strength: λ₁, >= 0.
        shift_ratio: λ₂ / λ₁, >= 0.
        temperature: τ of the gates, > 0.
        margin: δ, what a channel must exceed to count as active.
        whitening: How W is found: by ``"newton"`` for each batch, or ``"running"``, an estimate that each step nudges,
            which costs less and passes no gradient; see `compactors.Whitening`.
        iterations: T, of Newton's iteration for W.
        nudge: α of the running estimate, > 0.
        group_size: Most channels that are whitened together.
        rate: g, of the running mean Ŵ, in (0, 1].
        warmup: Share of the phase over which α rises from 0 to 1, in [0, 1): W is blended with the identity,
            ``(1 - α) I + α W``, gates are ``1 - α (1 - m)``, and the strengths are ``α λ``.
        start: p, the probability that the dense network's channels begin with, in [0, 1): P is taken relative to that
            of the dense network (`compactors.relative`). With 0 it is not.
        variance: ``"kept"``, where whitening leaves a block of channels as much variance as it had, or ``"paper"``,
            where it grows with the size of the block; see `compactors.Whitening`.
        std: ``"paper"``, where a whitened channel has standard deviation |γ̂|, or ``"exact"``, ``sqrt((W Σ Wᵀ)_cc)``.
        joint: For channels that several branches of a residual sum write: P of the ``"sum"``, with shifts and variances
            added, or the ``"product"`` of the branches' P, which is nearly 0 where branches are many.
        floor: Shifts are kept at ``β >= -floor``, > 0, since the pull of λ₂ never ends.
        scale_decay: Weight decay of every γ and β that a prunable channel passes.
        threshold: P up to which a channel is decided against, in (0, 1).

    References:
        Shao et al. (2021), BWCP: probabilistic learning-to-prune channels for ConvNets via batch whitening,
        arXiv 2105.06423. There networks are trained from scratch; we start from a trained one. Sudden whitening would
        wreck it, hence the warmup (0 is the paper's form), and so would a variance that grows. Most of its channels
        fire in less than half of all places, which is no reason to shut them, hence ``start``. Our phases are short,
        hence larger strengths. A residual sum has one gate, drawn once for all branches of all its blocks, where the
        paper multiplies the gates of the first two and reuses them. T and g are not given there; the floor is ours,
        and we have no weight decay on γ and β where it has 1e-4. The sharpening of P that it mentions without a
        formula is left out. The running estimate is that of SWBN, Zhang et al. (2021), arXiv 2106.04413.
    """

    name: ClassVar[str] = "bwcp"
    ranking: ClassVar[tuple[str, ...]] = ("threshold",)

    gamma_strength: float = option(1e-3, low=0, high=1, search={"low": 1e-4, "high": 1e-2, "scale": "log", "points": 3})
    shift_ratio: float = option(2.0, low=0, high=100, search={"values": (0.5, 2.0), "scale": "log"})
    temperature: float = option(0.5, low=0.01, high=10)
    margin: float = option(0.05, low=0, high=10)
    whitening: str = option("newton", choices=("newton", "running"))
    iterations: int = option(5, low=1, high=20)
    nudge: float = option(0.05, above=0, below=1)
    group_size: int = option(16, low=1, high=65_536)
    rate: float = option(0.1, above=0, high=1)
    warmup: float = option(0.25, low=0, below=1)
    start: float = option(0.9, low=0, below=1)
    variance: str = option("kept", choices=("kept", "paper"))
    std: str = option("paper", choices=("paper", "exact"))
    joint: str = option("sum", choices=("sum", "product"))
    floor: float = option(3.0, above=0, high=100)
    scale_decay: float = option(0.0, low=0, high=1)
    threshold: float = option(0.5, above=0, below=1)

    def __post_init__(self) -> None:
        check(self)

    def attach(self, model: nn.Module, traced: Traced, *, plan: PhasePlan) -> Hooks:
        """Put a whitening, the identity at first, behind the BatchNorm of every branch of every group.

        Raises:
            NetworkError: The channels of a group are not written by convolutions with BatchNorms, or all γ and β of
                these are frozen.
        """
        places = sites(model, traced)
        norms = {name: [_norm(model, site.norm) for site in found] for name, found in places.items()}
        _require_trained(places, norms)
        gates = {
            name: Gate(
                temperature=self.temperature,
                margin=self.margin,
                of_sum=self.joint == "sum",
                exact=self.std == "exact",
                start=self.start or None,
            )
            for name in places
        }
        made = [
            (
                Whitening(
                    norm,
                    gates[name],
                    group_size=self.group_size,
                    iterations=self.iterations,
                    rate=self.rate,
                    keep_variance=self.variance == "kept",
                    nudge=self.nudge if self.whitening == "running" else None,
                ),
                (site,),
            )
            for name, found in places.items()
            for site, norm in zip(found, norms[name], strict=True)
        ]
        inserted = insert(model, made)
        activity = _Activity(
            [gates[group.name] for group in traced.groups],
            [norm for group in traced.groups for norm in norms[group.name]],
            self,
            n_ramp=round(self.warmup * plan.n_steps),
        )

        def fold(batches: Batches) -> None:
            activity.settle()
            fold_compactors(model, inserted, batches, forward=traced.forward)

        scales = [name.removesuffix(".weight") for name in scale_names(traced)]
        return Hooks(
            transform_gradients=activity.add_gradients,
            shrink=activity.clamp,
            after_step=activity.count_step,
            weight_decay={f"{scale}.{key}": self.scale_decay for scale in scales for key in ("weight", "bias")},
            state=activity,
            fold=fold,
        )

    def rank(self, model: nn.Module, traced: Traced, *, state: Mapping[str, Tensor], batches: Batches) -> Scores:
        """The probability that a channel is active, less the threshold."""
        return by_group(state["probability"].cpu().double().numpy() - self.threshold, traced)


def _norm(model: nn.Module, name: str) -> _BatchNorm:
    norm = model.get_submodule(name)
    assert isinstance(norm, _BatchNorm)
    return norm


def _require_trained(places: Mapping[str, Sequence[Site]], norms: Mapping[str, Sequence[_BatchNorm]]) -> None:
    """Refuse a network in which nothing can be learned of how active a channel is."""
    if not any(p.requires_grad for found in norms.values() for norm in found for p in (norm.weight, norm.bias)):
        first = next((site.norm for found in places.values() for site in found), None)
        raise NetworkError(
            "some prunable channel must have a BatchNorm scale or shift that trains, but all are frozen "
            f"(`requires_grad` is False), {first!r} the first of them. Let some of them train, or use a method that "
            "ranks the network as it is, such as magnitude."
        )


class _Activity:
    """The sparsity loss, how much of everything takes effect, and how active every channel is."""

    def __init__(self, gates: Sequence[Gate], norms: Sequence[_BatchNorm], method: BWCP, *, n_ramp: int) -> None:
        self._gates, self._norms, self._method, self._n_ramp = gates, norms, method, n_ramp
        self._settled: Tensor | None = None
        self._go_on_from(0)

    def _go_on_from(self, step: int) -> None:
        self._step, self._share = step, share_at(step, self._n_ramp)
        for gate in self._gates:
            gate.share = self._share

    def add_gradients(self) -> None:
        """Those of ``Σ λ₁ |γ| + λ₂ β``; here and not in the loss, which is scaled in float16."""
        for gate in self._gates:
            gate.forget()
        strength = self._share * self._method.gamma_strength
        for norm in self._norms:
            if norm.weight.grad is not None:
                norm.weight.grad.add_(torch.sign(norm.weight.detach()), alpha=strength)
            if norm.bias.grad is not None:
                norm.bias.grad.add_(strength * self._method.shift_ratio)

    @torch.no_grad()
    def clamp(self, _: float) -> None:
        """Keep shifts from drifting on where channels are dead already."""
        for norm in self._norms:
            if norm.bias.requires_grad:
                norm.bias.clamp_(min=-self._method.floor)

    def count_step(self) -> None:
        """Let a little more take effect."""
        self._go_on_from(self._step + 1)

    def settle(self) -> None:
        """Keep the probabilities as they are: once whitenings are folded, the BatchNorms no longer tell."""
        self._settled = self._probability()

    def _probability(self) -> Tensor:
        return torch.cat([gate.probability() for gate in self._gates])

    def state_dict(self) -> dict[str, Tensor]:
        """How likely each channel is active, shape (all channels,), and the count of steps."""
        probability = self._probability() if self._settled is None else self._settled
        return {"probability": probability, "step": torch.tensor(self._step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up where `state_dict` left off; probabilities come with weights and whitenings."""
        self._go_on_from(int(state["step"]))
