"""Merges convolution, batch normalisation and a channel matrix into one convolution, and takes a normalisation back."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.engine.asking import Forward, ask
from autoprune.engine.channels import kind_of
from autoprune.errors import ConfigError, NetworkError

__all__ = ["Moments", "attach_norm", "measure_moments", "merge"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of a layer's output channels over images and space.

    Args:
        mean: Shape (C,).
        var: Shape (C,), >= 0, biased (divided by the count).
    """

    mean: Tensor
    var: Tensor


def merge(
    conv: nn.Conv2d,
    norm: _BatchNorm,
    *,
    matrix: Tensor | None = None,
) -> nn.Conv2d:
    """One convolution with a bias that answers like ``matrix @ norm(conv(x))`` in eval mode.

    With ``t = gamma / sqrt(v + eps)``: the kernel is ``matrix · (t K)`` and the bias ``matrix · (beta + t (b - mu))``.
    Normalisation and matrix act on each place alone and after the zero
    padding, and the matrix has no bias, so the equality is exact at borders too.

    Args:
        conv: Left as it is; any stride, padding, dilation, with or without bias. O output channels.
        norm: The normalisation after it, with running statistics; left as it is.
        matrix: Shape (D, O), applied between normalisation and activation (a compactor, a whitening); None for the
            identity. Conv groups must be 1 if it is given.

    Returns:
        A convolution with D output channels and a bias.

    Raises:
        ConfigError: The shapes do not fit, or there are conv groups and a matrix.
        NetworkError: The normalisation has no running statistics.
    """
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise NetworkError("a normalisation must have running statistics to be merged, but this one keeps none.")
    channels = conv.out_channels
    if norm.num_features != channels or (matrix is not None and matrix.shape[-1:] != (channels,)):
        raise ConfigError(
            f"normalisation and matrix must fit the {channels} output channels of the convolution, but got "
            f"{norm.num_features} features and a matrix of shape {None if matrix is None else tuple(matrix.shape)}."
        )
    if conv.groups > 1 and matrix is not None:
        raise ConfigError(
            f"a convolution of {conv.groups} conv groups can only be merged whole: give no matrix, and cut its "
            "channels by surgery."
        )
    with torch.no_grad():
        scale = torch.rsqrt(var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -mean if conv.bias is None else conv.bias - mean
        bias = scale * shift if norm.bias is None else norm.bias + scale * shift
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        if matrix is not None:
            mixing = matrix.detach().to(weight)
            weight, bias = torch.einsum("do,oikl->dikl", mixing, weight), mixing @ bias
        return _like(conv, weight, bias)


def attach_norm(conv: nn.Conv2d, moments: Moments, *, eps: float = 1e-5) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Split the bias of a merged convolution off into a batch normalisation; eval outputs stay the same.

    ``gamma = sqrt(var + eps)`` and ``beta = bias + mean`` undo the normalisation by ``moments`` exactly, so that
    everything downstream meets a convolution and its normalisation again.

    Args:
        conv: The merged convolution; left as it is.
        moments: Of its output without the bias, as `measure_moments` gives them; shape (O,).
        eps: Of the normalisation, > 0.

    Returns:
        The convolution without bias, and its normalisation, in eval mode if the convolution is.
    """
    channels = conv.out_channels
    if moments.mean.shape != (channels,) or moments.var.shape != (channels,):
        raise ConfigError(
            f"moments must have shape ({channels},) for this convolution, but got {tuple(moments.mean.shape)} and "
            f"{tuple(moments.var.shape)}."
        )
    norm = nn.BatchNorm2d(channels, eps=eps).to(conv.weight)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.copy_(moments.mean)
        norm.running_var.copy_(moments.var)
        norm.weight.copy_(torch.sqrt(norm.running_var + eps))
        norm.bias.copy_(norm.running_mean if conv.bias is None else norm.running_mean + conv.bias)
    return _like(conv, conv.weight.detach().clone(), None), norm.train(conv.training)


def measure_moments(
    model: nn.Module, layers: Iterable[str], batches: Iterable[Any], *, forward: Forward = ask
) -> Mapping[str, Moments]:
    """Mean and variance of what convolutions give without their bias, in eval mode.

    Args:
        model: Left as it is: a copy runs.
        layers: Names of convolutions.
        batches: Inputs, such as images of shape (N, ...); at least one.
        forward: Runs the network on them.

    Raises:
        ConfigError: There is no batch.
        NetworkError: A name is no convolution that runs.
    """
    model = copy.deepcopy(model).eval()
    sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def record(name: str, conv: nn.Module, output: Tensor) -> None:
        values = output.detach().double().movedim(1, 0).flatten(1)
        if isinstance(conv.bias, Tensor):
            values = values - conv.bias.detach().double()[:, None]
        # Chan's update: sums of squares around the running mean lose no digits however large the mean is.
        count, mean, squares = sums.get(name, (0, values.new_zeros(len(values)), values.new_zeros(len(values))))
        added, batch_mean = values.shape[1], values.mean(1)
        total, delta = count + added, batch_mean - mean
        squares = squares + ((values - batch_mean[:, None]) ** 2).sum(1) + delta**2 * count * added / total
        sums[name] = (total, mean + delta * added / total, squares)

    names = list(layers)
    for name in names:
        conv = model.get_submodule(name)
        if kind_of(conv) != "conv":
            raise NetworkError(f"moments can be measured of convolutions, but {name!r} is a {type(conv).__name__}.")
        conv.register_forward_hook(lambda module, args, output, name=name: record(name, module, output))
    with torch.no_grad():
        empty = True
        for batch in batches:
            forward(model, batch)
            empty = False
    if empty:
        raise ConfigError("moments must be measured on at least one batch, but got none.")
    if missing := [name for name in names if name not in sums]:
        raise NetworkError(f"moments can be measured of layers that run, but {missing[0]!r} did not.")
    weight = {name: model.get_submodule(name).weight for name in names}
    return {
        name: Moments(mean.to(weight[name]), (squares / count).to(weight[name]))  # type: ignore[arg-type]
        for name, (count, mean, squares) in sums.items()
    }


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """A convolution of the same geometry with other parameters."""
    made = copy.deepcopy(conv)
    made.out_channels = weight.shape[0]
    made.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
    made.bias = None if bias is None else nn.Parameter(bias, requires_grad=conv.weight.requires_grad)
    return made
