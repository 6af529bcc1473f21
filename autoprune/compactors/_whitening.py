"""The compactor of BWCP: whitens the channels of a group, and gates them at random by how likely each is active."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.engine.contracts import Compactor
from autoprune.engine.training import wide

__all__ = [
    "Gate",
    "Whitening",
    "activation_probability",
    "effective",
    "gumbel_gate",
    "in_blocks",
    "inverse_root",
    "joint_probability",
    "logistic_noise",
    "nudged",
    "output_std",
    "relative",
]

_LEAST_ENERGY = 1e-5  # Of a block's scales, ‖γ‖²; below it nothing is left to whiten.
_LEAST_STD = 1e-6
_RIDGE = 0.02  # Of a channel's variance, 1 in the mean: what is almost gone is not blown up for ever.
_LEAST_FIRST = 0.02  # P₀ of a channel that hardly ever fires.


def in_blocks(x: Tensor, size: int) -> Tensor:
    """Channels in blocks of S, shape (..., C) → (..., G, S); zeros fill up the last block."""
    n_blocks = -(-x.shape[-1] // size)
    missing = n_blocks * size - x.shape[-1]
    padded = F.pad(x, (0, missing)) if missing else x
    return padded.reshape(*x.shape[:-1], n_blocks, size)


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand_as(like)


def inverse_root(covariance: Tensor, energy: Tensor, *, iterations: int, gain: Tensor | None = None) -> Tensor:
    """Σ_N^{-1/2} of ``Σ_N = Σ / ‖γ‖²`` by Newton's iteration, differentiable.

    From W = I, each iteration is ``W ← (3 W - W³ Σ_N) / 2``. Dividing by ‖γ‖², the trace of Σ, makes it converge. A
    block whose scales are all but gone has nothing to whiten and gets the identity.

    Args:
        covariance: Σ of each block, shape (G, S, S), symmetric.
        energy: ‖γ‖² of each block, shape (G,), >= 0.
        iterations: T, >= 1.
        gain: What W of each block is multiplied by, unless it is the identity for want of energy; shape (G,).

    Returns:
        W, shape (G, S, S).
    """
    # Equal but for rounding: in bfloat16 that of a large β can be far more than γ, and the iteration would diverge.
    trace = torch.maximum(energy, covariance.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp_min(_LEAST_ENERGY)
    eye, normalised = _identity(covariance), covariance / trace[:, None, None]
    # As it stands the iteration blows up rounding where Σ_N is ill-conditioned. Carrying Σ_N W along gives the same
    # numbers and does not (Higham (2008), Functions of matrices, chapter 6).
    weights, roots = eye, normalised
    for _ in range(iterations):
        step = (3 * eye - weights @ roots) / 2
        weights, roots = step @ weights, roots @ step
    if gain is not None:
        weights = weights * gain.to(weights.dtype)[:, None, None]
    return torch.where((energy > _LEAST_ENERGY)[:, None, None], weights, eye)


def nudged(weights: Tensor, covariance: Tensor, *, rate: float) -> Tensor:
    """One step of a whitening matrix towards C^{-1/2}, ``W ← W + α (I - W C Wᵀ) W``; not differentiated.

    From the identity it comes to rest at C^{-1/2}. α is lowered where ``α tr(W C Wᵀ)`` would exceed 1, so that no step
    overshoots.

    Args:
        weights: W of each block, shape (G, S, S).
        covariance: C of each block, shape (G, S, S), symmetric.
        rate: α, > 0.

    References:
        Zhang et al. (2021), Stochastic whitening batch normalization, arXiv 2106.04413; the lower α is ours.
    """
    whitened = weights @ covariance @ weights.mT
    step = rate / (rate * whitened.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp_min(1)
    return weights + step[:, None, None] * (_identity(weights) - whitened) @ weights


def effective(weights: Tensor, x: Tensor) -> Tensor:
    """Scales or shifts after whitening, ``W x`` in blocks.

    Args:
        weights: W, shape (G, S, S).
        x: γ or β, shape (C,), C <= G S.
    """
    return (weights @ in_blocks(x, weights.shape[-1])[..., None]).flatten()[: len(x)]


def output_std(weights: Tensor, covariance: Tensor, width: int) -> Tensor:
    """What the standard deviation of whitened channels really is, ``sqrt((W Σ Wᵀ)_cc)``, shape (C,).

    Args:
        weights: W, shape (G, S, S).
        covariance: Σ, shape (G, S, S).
        width: C.
    """
    variance = (weights @ covariance * weights).sum(-1).flatten()[:width]
    return variance.clamp_min(_LEAST_STD**2).sqrt()


def activation_probability(shift: Tensor, std: Tensor, *, margin: float) -> Tensor:
    """How likely a normal channel exceeds the margin, ``P(x > δ) = Φ((β̂ - δ) / |σ|)``, shape (C,).

    Args:
        shift: Mean β̂ of each channel, shape (C,).
        std: Its standard deviation or effective scale, shape (C,), any sign.
        margin: δ.
    """
    probability: Tensor = torch.special.ndtr((shift - margin) / std.abs().clamp_min(_LEAST_STD))
    return probability


def joint_probability(shifts: Tensor, stds: Tensor, *, margin: float, of_sum: bool) -> Tensor:
    """How likely a channel that several branches write is active, shape (C,).

    Args:
        shifts: Of each branch, shape (B, C).
        stds: Of each branch, shape (B, C), any sign.
        margin: δ.
        of_sum: Whether of the sum, with the branches taken as uncorrelated; else of each branch by itself, multiplied.
    """
    if of_sum:
        total = stds.square().sum(0).clamp_min(_LEAST_STD**2).sqrt()
        return activation_probability(shifts.sum(0), total, margin=margin)
    return activation_probability(shifts, stds, margin=margin).prod(0)


def relative(probability: Tensor, first: Tensor, *, start: float) -> Tensor:
    """P as seen from the dense network's P₀, ``σ(logit P - logit P₀ + logit p)``, shape (C,), in (0, 1).

    Args:
        probability: P, shape (C,); kept off 0 and 1.
        first: P₀, shape (C,); counts as at least 0.02 and at most 0.98, so that a channel that was dead is dead still.
        start: p, which P = P₀ becomes, in (0, 1).
    """
    tiny = torch.finfo(probability.dtype).eps
    offset = math.log(start / (1 - start)) - torch.logit(first.clamp(_LEAST_FIRST, 1 - _LEAST_FIRST))
    return torch.sigmoid(torch.logit(probability.clamp(tiny, 1 - tiny)) + offset)


def gumbel_gate(probability: Tensor, noise: Tensor, *, temperature: float) -> Tensor:
    """A soft gate that is open with a given probability, ``σ((log P - log(1 - P) + g₁ - g₀) / τ)``, in (0, 1).

    Args:
        probability: P of being open, that is of more than 1/2, shape (C,); kept off 0 and 1.
        noise: ``g₁ - g₀``, as `logistic_noise` draws it, shape (C,).
        temperature: τ, > 0; the smaller, the nearer is the gate to 0 and 1.
    """
    tiny = torch.finfo(probability.dtype).eps
    return torch.sigmoid((torch.logit(probability.clamp(tiny, 1 - tiny)) + noise) / temperature)


def logistic_noise(like: Tensor) -> Tensor:
    """Differences of two standard Gumbel variables, from torch's global generator; of the shape of ``like``."""
    tiny = torch.finfo(like.dtype).eps
    return torch.logit(torch.rand_like(like).clamp(tiny, 1 - tiny))


class Gate:
    """The gate of one channel group, which all branches that write its sum share: one draw per channel and step.

    The first branch that runs in a step draws for all: with the W of its batch and, as the others have not run yet,
    with their running Ŵ. So a group with one branch has exactly the paper's gate, and gradients reach γ and β of every
    branch at once. Drawing only when all have run would be too late, as their outputs are summed by then.

    Not a module, or its branches would save it once each; it draws in training only, and between two steps there is
    nothing of it but ``share``.

    Args:
        temperature: τ of `gumbel_gate`.
        margin: δ of `joint_probability`.
        of_sum: See `joint_probability`.
        exact: Whether the standard deviation is `output_std`, or |γ̂| as in the paper.
        start: p of `relative`, in (0, 1); None leaves P as it is.

    Attributes:
        share: α in [0, 1]: how much of whitening and gate takes effect.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        margin: float = 0.05,
        of_sum: bool = False,
        exact: bool = False,
        start: float | None = None,
    ) -> None:
        self.share = 1.0
        self._start, self._first = start, torch.empty(0)
        self._temperature, self._margin, self._of_sum, self._exact = temperature, margin, of_sum, exact
        self._branches: list[tuple[Whitening, _BatchNorm]] = []
        self._waiting: list[Whitening] = []
        self._drawn: Tensor | None = None

    def join(self, whitening: Whitening, norm: _BatchNorm) -> None:
        """Add a branch, as it is in the dense network."""
        self._branches.append((whitening, norm))
        with torch.no_grad():
            self._first = self._absolute([(one.running, one.covariance) for one, _ in self._branches])

    def take(self, whitening: Whitening, weights: Tensor, covariance: Tensor) -> Tensor:
        """What a branch multiplies its channels by in this step, shape (C,).

        Args:
            whitening: The branch.
            weights: Its W of this batch, (G, S, S).
            covariance: Its Σ of this batch, (G, S, S).
        """
        drawn = self._drawn
        if drawn is None or whitening not in self._waiting:
            used = [
                (weights, covariance)
                if branch is whitening  # Copies: running means change in place before the backward pass.
                else (branch.running.to(weights.dtype, copy=True), branch.covariance.to(weights.dtype, copy=True))
                for branch, _ in self._branches
            ]
            probability = self._probability(used)
            gate = gumbel_gate(probability, logistic_noise(probability.detach()), temperature=self._temperature)
            drawn, self._waiting = 1 - self.share * (1 - gate), [branch for branch, _ in self._branches]
        self._waiting.remove(whitening)
        self._drawn = drawn if self._waiting else None  # Graphs must not outlive their step, nor be copied.
        return drawn

    def forget(self) -> None:
        """Let go of a draw that some branch did not take, since it did not run; after each backward pass."""
        self._drawn, self._waiting = None, []

    @torch.no_grad()
    def probability(self) -> Tensor:
        """P of every channel by the running Ŵ of all branches, shape (C,), in float64 on the CPU."""
        running = [(one.running.cpu().double(), one.covariance.cpu().double()) for one, _ in self._branches]
        return self._probability(running)

    def _probability(self, used: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """P that the gate goes by, given W and Σ of every branch."""
        probability = self._absolute(used)
        if self._start is None:
            return probability
        return relative(probability, self._first.to(probability), start=self._start)

    def _absolute(self, used: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        shifts, stds = [], []
        for (weights, covariance), (_, norm) in zip(used, self._branches, strict=True):
            scale, shift = (effective(weights, x.to(weights)) for x in (norm.weight, norm.bias))
            shifts.append(shift)
            stds.append(output_std(weights, covariance, norm.num_features) if self._exact else scale)
        stacked = torch.stack(shifts), torch.stack(stds)
        return joint_probability(*stacked, margin=self._margin, of_sum=self._of_sum)


class Whitening(Compactor):
    """Decorrelates channels in blocks, ``x̂ = W x``, and multiplies them by the gate of their group.

    In training W is Σ_N^{-1/2} of the batch (`inverse_root`), and a running mean Ŵ is kept of it; in evaluation mode
    ``x̂ = Ŵ x`` with open gates. Ŵ begins as the identity. The mean of ``x``, β, is whitened with it. All arithmetic is
    in float32 or wider.

    Args:
        norm: The BatchNorm that it stands behind; C channels.
        gate: Of the group; gets one more branch.
        group_size: Most channels in a block; the last one may have fewer.
        iterations: T of `inverse_root`.
        rate: Of the running mean, in (0, 1]: the share of the latest step.
        nudge: α of `nudged`: W is then an estimate that goes on from step to step, which no gradient passes. None:
            `inverse_root` of each batch.
        keep_variance: Whether W is divided by √S, S channels in the block: together they then vary as much as before,
            and equal uncorrelated ones stay as they are. As the paper has it, each gets the variance of all.

    Attributes:
        running: Ŵ in blocks, shape (G, S, S).
        covariance: Running mean of Σ, shape (G, S, S).
        estimate: Where it is nudged, the estimate of W for blocks whose channels vary by 1 in the mean; (G, S, S).

    References:
        Shao et al. (2021), BWCP: probabilistic learning-to-prune channels for ConvNets via batch whitening,
        arXiv 2105.06423. The size of the last block and the identity for dying blocks are ours.
    """

    running: Tensor
    covariance: Tensor
    estimate: Tensor
    _gain: Tensor
    _floor: Tensor
    _n_real: Tensor

    def __init__(
        self,
        norm: _BatchNorm,
        gate: Gate,
        *,
        group_size: int = 16,
        iterations: int = 5,
        rate: float = 0.1,
        keep_variance: bool = False,
        nudge: float | None = None,
    ) -> None:
        super().__init__()
        self._width, self._size = norm.num_features, min(group_size, norm.num_features)
        self._iterations, self._rate, self._nudge = iterations, rate, nudge
        self.gate = gate
        covariance = torch.diag_embed(in_blocks(norm.weight.detach().square(), self._size))
        self.register_buffer("covariance", covariance)
        self.register_buffer("running", _identity(covariance).clone())
        self.train(norm.training)  # It comes into a network that may be in evaluation mode already.
        n_real = in_blocks(torch.ones_like(norm.weight.detach()), self._size).sum(1)
        self.register_buffer("_gain", n_real.rsqrt() if keep_variance else torch.ones_like(n_real), persistent=False)
        if nudge is not None:
            self.register_buffer("estimate", _identity(covariance).clone())
            self.register_buffer("_n_real", n_real, persistent=False)
            is_real = in_blocks(torch.ones_like(norm.weight.detach()), self._size)
            self.register_buffer("_floor", torch.diag_embed(1 - (1 - _RIDGE) * is_real), persistent=False)
        gate.join(self, norm)

    def forward(self, x: Tensor, norm: _BatchNorm) -> Tensor:
        """``W x`` times the gate in training; `matrix` times ``x`` in evaluation mode."""
        with torch.autocast(x.device.type, enabled=False):
            places = wide(x).movedim(1, -1)  # no copy in channels-last
            blocks = in_blocks(places.reshape(-1, self._width), self._size).transpose(0, 1)  # (G, N H W, S)
            weights = self._train(blocks, norm) if self.training else self.running
            mixed = (blocks @ weights.to(blocks.dtype).mT).transpose(0, 1).flatten(1)[:, : self._width]
            return mixed.reshape(places.shape).movedim(-1, 1).to(x.dtype)

    def _train(self, blocks: Tensor, norm: _BatchNorm) -> Tensor:
        """W of this step, each row times its channel's gate; the running means follow."""
        scale, shift = (in_blocks(values.to(blocks.dtype), self._size) for values in (norm.weight, norm.bias))
        centred = blocks - shift[:, None]
        covariance = centred.mT @ centred / blocks.shape[1]  # γγᵀ ⊙ ρ, without dividing by a γ that may be 0
        energy = scale.square().sum(1)
        if self._nudge is None:
            weights = inverse_root(covariance, energy, iterations=self._iterations, gain=self._gain)
        else:
            weights = self._nudged(covariance.detach(), energy.detach(), rate=self._nudge)
        weights = torch.lerp(_identity(weights), weights, self.gate.share)
        factors = self.gate.take(self, weights, covariance)
        with torch.no_grad():
            self.running.lerp_(weights.to(self.running.dtype), self._rate)
            self.covariance.lerp_(covariance.to(self.covariance.dtype), self._rate)
        return weights * in_blocks(factors, self._size)[..., None]

    @torch.no_grad()
    def _nudged(self, covariance: Tensor, energy: Tensor, *, rate: float) -> Tensor:
        """W of this step by the estimate, which takes a step of its own; the identity for a block that is all gone."""
        trace = torch.maximum(energy, covariance.diagonal(dim1=-2, dim2=-1).sum(-1)).clamp_min(_LEAST_ENERGY)
        lives = (energy > _LEAST_ENERGY)[:, None, None]
        share = covariance * (self._n_real.to(covariance) / trace)[:, None, None] + self._floor.to(covariance)
        estimate = self.estimate.to(covariance)
        self.estimate.copy_(torch.where(lives, nudged(estimate, share, rate=rate), estimate))
        gain = (self._gain * self._n_real.sqrt()).to(covariance)[:, None, None]
        return torch.where(lives, self.estimate.to(covariance) * gain, _identity(covariance))

    def matrix(self) -> Tensor:
        """Ŵ, block-diagonal."""
        whole: Tensor = torch.block_diag(*self.running)
        return whole[: self._width, : self._width]
