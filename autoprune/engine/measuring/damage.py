"""Damage at the next layer: how much of what the readers of a channel group say goes with some of its channels."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.engine.channels import Traced, axis_sizes, padded, readers_of
from autoprune.engine.contracts import Batches
from autoprune.engine.measuring.showing import N_BATCHES, show

__all__ = ["Listener", "listened", "measure_damages"]

_MOST_SAMPLES = 16_384  # Of one layer and batch; more places are drawn from.
_MOST_BYTES = 2**27  # Of patches at once.
_ROUNDING = 1e-6  # Of a mean square in float32, relative to those it is left of when the means are taken out.


@torch.no_grad()
def measure_damages(
    model: nn.Module, traced: Traced, *, batches: Batches, n_batches: int = N_BATCHES
) -> Mapping[str, NDArray[np.float64]]:
    """A matrix for each group that gives the damage of removing any of its channels together.

    A reader is linear, so without the channels R its output z, less its bias, differs by the sum Δ of what these say.
    With ``G[c, d]`` the mean product of what c and d say, ``T(R) = ‖Δ‖² / ‖z‖² = sum(G[R][:, R])``: for every R, from
    one pass over the images. Where a BatchNorm is right behind the reader, Δ and z are taken behind it and without
    their means, since recalibration gives the means back. Of several readers the damages are added.

    Args:
        model: In evaluation mode; left as it is.
        traced: Its channel groups.
        batches: What it is shown.
        n_batches: How many of them at most, >= 1.

    Returns:
        By group, shape (C, C), symmetric. A depthwise layer hands channels on, so it is no reader.

    Raises:
        DataError: There is no batch.

    References:
        The damage is that of Ding et al. (2019), arXiv 1905.04748, who measure it set by set, and behind the ReLU too.
    """
    listeners = listened(model, traced, batches=batches, n_batches=n_batches)
    found = {}
    for group in traced.groups:
        found[group.name] = np.zeros((group.width, group.width))
        for member in readers_of(model, group):
            if listeners[member.module].has_heard:  # It is not called where others multiply with its weight.
                found[group.name] += listeners[member.module].damages(member.index)
    return found


@torch.no_grad()
def listened(
    model: nn.Module, traced: Traced, *, batches: Batches, n_batches: int = N_BATCHES
) -> Mapping[str, Listener]:
    """What each layer that combines channels has heard, by its name.

    Args:
        model: In evaluation mode; left as it is.
        traced: Its channel groups.
        batches: What it is shown.
        n_batches: How many of them at most, >= 1.

    Raises:
        DataError: There is no batch.
    """
    norms = traced.norms
    names = dict.fromkeys(member.module for group in traced.groups for member in readers_of(model, group))
    listeners = {
        name: _listener(model.get_submodule(name), model.get_submodule(norms[name]) if name in norms else None)
        for name in names
    }
    heard = [(name, each.hear) for name, each in listeners.items()]
    show(model, traced, batches, listeners=heard, n_batches=n_batches, what="damage")
    return listeners


class Listener(ABC):
    """Hears what a layer reads, and tells how much of its output goes with its inputs.

    It goes by the products of what a kernel sees: a patch has many fewer numbers than all that is said of it.

    Args:
        layer: A convolution or linear layer.
        norm: The BatchNorm right behind it, or None.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module | None) -> None:
        self._layer, self._is_centred = layer, norm is not None
        weight = layer.weight
        assert isinstance(weight, Tensor)
        is_transposed = isinstance(layer, _ConvTransposeNd)
        self._weight = weight.detach().float().flatten(1)  # (O, I / conv groups · K), (O · K, I) of a transposed one
        self._weight = self._weight.T if is_transposed else self._weight
        if isinstance(norm, _BatchNorm) and norm.running_var is not None:
            gain = torch.rsqrt(norm.running_var.float() + norm.eps)
            gain = gain if norm.weight is None else gain * norm.weight
            self._weight = self._weight * gain.repeat_interleave(len(self._weight) // len(gain))[:, None]

    @property
    @abstractmethod
    def has_heard(self) -> bool:
        """Whether the layer was called."""

    @abstractmethod
    def hear(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook."""

    @property
    def n_inputs(self) -> int:
        """I, the channels that the layer reads."""
        return axis_sizes(self._layer)["in"]

    @property
    def _is_shifted(self) -> bool:
        """Whether means are made up for: by a bias, or by the BatchNorm behind."""
        return self._is_centred or self._layer.bias is not None

    @abstractmethod
    def moments(self, *, most: int) -> tuple[Tensor, Tensor] | None:
        """The weight, shape (O, I · K), and the mean products of what is read, shape (I · K, I · K).

        About the means where a bias or a BatchNorm makes up for these. None where the layer reads more than ``most``
        numbers at once, has conv groups, or is transposed.
        """

    @abstractmethod
    def damages(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean product of what two channels say, over the mean square of the output.

        Args:
            index: The input positions that each channel lies on, shape (C, k).

        Returns:
            Shape (C, C), symmetric.
        """


def _listener(layer: nn.Module, norm: nn.Module | None) -> Listener:
    if isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd):
        return _ConvListener(layer, norm)
    return _LinearListener(layer, norm)


class _ConvListener(Listener):
    """Keeps the sums of products, ``(I / conv groups · K)²`` numbers. Of large maps a sample of places is taken."""

    def __init__(self, layer: _ConvNd, norm: nn.Module | None) -> None:
        super().__init__(layer, norm)
        self._n_conv_groups, size = layer.groups, self._weight.shape[1]
        self._sums = torch.zeros(self._n_conv_groups, size, device=self._weight.device)
        self._squares = torch.zeros(self._n_conv_groups, size, size, device=self._weight.device)
        self._n_samples = 0

    @property
    def has_heard(self) -> bool:
        """Whether there are samples."""
        return self._n_samples > 0

    def hear(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook."""
        assert isinstance(layer, _ConvNd)
        x = args[0].detach().float()
        size = x[0].numel() * math.prod(layer.kernel_size) * x.element_size()
        parts = x.split(max(1, _MOST_BYTES // size))
        for part in parts:
            seen = _drawn(_patches(layer, part), most=_MOST_SAMPLES * len(part) // len(x), seed=self._n_samples)
            seen = seen.unflatten(0, (self._n_conv_groups, -1))
            self._sums += seen.sum(2)
            self._squares.baddbmm_(seen, seen.transpose(1, 2))
            self._n_samples += seen.shape[2]

    def moments(self, *, most: int) -> tuple[Tensor, Tensor] | None:
        """From the sums."""
        if self._n_conv_groups > 1 or self._weight.shape[1] > most:
            return None
        mean, moments = self._sums[0].double() / self._n_samples, self._squares[0].double() / self._n_samples
        return self._weight, moments - torch.outer(mean, mean) if self._is_shifted else moments

    def damages(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Those of all positions, added up over the positions of a channel."""
        return np.asarray(self._shares[index].sum(1)[:, index].sum(2))

    @functools.cached_property
    def _shares(self) -> NDArray[np.float64]:
        """By input position, shape (I, I); once for all groups that are read."""
        moments = self._squares / self._n_samples
        weight = self._weight.unflatten(0, (self._n_conv_groups, -1))
        products = weight.transpose(1, 2) @ weight
        # What each input says alone: together they may cancel, their rounding does not.
        least = _ROUNDING * (moments.diagonal(dim1=1, dim2=2) * products.diagonal(dim1=1, dim2=2)).sum().item()
        if self._is_centred:
            mean = self._sums / self._n_samples
            moments.baddbmm_(mean[:, :, None], mean[:, None], alpha=-1)
        said = moments.mul_(products)
        per_conv_group = axis_sizes(self._layer)["in"] // self._n_conv_groups
        said = said.unflatten(2, (per_conv_group, -1)).sum(3).unflatten(1, (per_conv_group, -1)).sum(2)
        shares = said.cpu().double()
        shares = (shares + shares.transpose(1, 2)) / 2
        return _relative(torch.block_diag(*shares).numpy(), whole=shares.sum().item(), least=least)


class _LinearListener(Listener):
    """Keeps what it hears: behind a flattened map there are many more products of inputs than samples of them."""

    def __init__(self, layer: nn.Module, norm: nn.Module | None) -> None:
        super().__init__(layer, norm)
        self._heard: list[Tensor] = []

    @property
    def has_heard(self) -> bool:
        """Whether there are samples."""
        return bool(self._heard)

    def hear(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Forward pre-hook."""
        x = args[0].movedim(1, -1) if isinstance(layer, _ConvTransposeNd) else args[0]
        samples = x.detach().float().flatten(0, -2)
        self._heard.append(_drawn(samples.T, most=_MOST_SAMPLES, seed=len(self._heard)).T)

    def moments(self, *, most: int) -> tuple[Tensor, Tensor] | None:
        """From the samples."""
        if isinstance(self._layer, _ConvTransposeNd) or self._weight.shape[1] > most:
            return None
        x = torch.cat(self._heard).double()
        x = x - x.mean(0) if self._is_shifted else x
        return self._weight, x.T @ x / len(x)

    def damages(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Some channels at a time, beside all others."""
        order = np.argsort(index[:, 0])  # Sums are rounded in the order of positions, whatever that of channels is.
        (x, whole, least), weight, (n_channels, k) = self._known, self._weight, index.shape
        places = torch.from_numpy(index[order]).to(x.device).flatten()
        x, weight = x[:, places], weight[:, places]
        at_once = k * max(1, _MOST_BYTES // (8 * n_channels * k * k))
        rows = []
        for part in torch.arange(n_channels * k, device=x.device).split(at_once):
            said = (x[:, part].T @ x).mul_(weight[:, part].T @ weight) / len(x)
            rows.append(said.unflatten(1, (n_channels, k)).sum(2).unflatten(0, (-1, k)).sum(1).cpu().double())
        found = torch.cat(rows)
        back = np.argsort(order)
        return _relative(((found + found.T) / 2).numpy()[np.ix_(back, back)], whole=whole, least=least)

    @functools.cached_property
    def _known(self) -> tuple[Tensor, float, float]:
        """All samples, shape (n, I), the mean square of the output, and its rounding; once for all groups read."""
        x = torch.cat(self._heard)
        least = _ROUNDING * (x.square().sum(0) @ self._weight.square().sum(0)).item() / len(x)
        if self._is_centred:
            x = x - x.mean(0)
        return x, (x @ self._weight.T).square().sum().item() / len(x), least


def _relative(products: NDArray[np.float64], *, whole: float, least: float) -> NDArray[np.float64]:
    """Shares of the whole; none where a layer says a constant, whose mean square about the mean is rounding."""
    return np.asarray(products / whole if whole > least else np.zeros_like(products))


def _drawn(seen: Tensor, *, most: int, seed: int) -> Tensor:
    """Some of the samples, shape (·, n) → (·, at most ``most``), at least one."""
    if (most := max(1, most)) >= seen.shape[1]:
        return seen
    drawn = torch.randperm(seen.shape[1], generator=torch.Generator().manual_seed(seed))[:most]
    return seen[:, drawn.to(seen.device)]


def _patches(conv: _ConvNd, x: Tensor) -> Tensor:
    """What the kernel sees at each of its places, shape (I · K, N · places)."""
    x = padded(conv, x)
    if isinstance(conv, nn.Conv2d):
        seen = F.unfold(x, conv.kernel_size, conv.dilation, 0, conv.stride)
    else:  # One filter for each place of the kernel, which says what is there.
        n_places = math.prod(conv.kernel_size)
        eye = torch.eye(n_places, device=x.device).reshape(n_places, 1, *conv.kernel_size)
        convolve = F.conv1d if x.dim() == 3 else F.conv3d
        seen = convolve(
            x, eye.repeat(conv.in_channels, *[1] * (x.dim() - 1)), None, conv.stride, 0, conv.dilation, conv.in_channels
        )  # fmt: skip
    return seen.flatten(2).movedim(1, 0).flatten(1)
