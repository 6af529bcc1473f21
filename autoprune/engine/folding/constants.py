"""Keeps what silent channels say: one that is scaled by zero still says a constant, which moves to its readers."""

from __future__ import annotations

import copy
import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from autoprune.engine.channels import ChannelGroup, Traced, readers_of
from autoprune.errors import NetworkError
from autoprune.widths import Kept

__all__ = ["fold_constants", "silent_channels"]

_log = logging.getLogger(__name__)


def fold_constants(model: nn.Module, traced: Traced, kept: Kept, *, silence: float = 0.0) -> nn.Module:
    """Move the constants of removed channels that no longer say anything else into the layers that read them.

    A channel with ``gamma = 0`` gives ``act(beta)`` everywhere, whatever the activation is: the constant is read off
    where it arrives, on two random inputs. A reader's output then differs by ``sum(K[o, c]) * constant``, which goes
    to its bias, else to the mean of the normalisation right behind it. One that has neither goes without, since no
    layer may get a parameter that it had not: the file of weights must fit the network that it was cut from.

    Exact where the reader adds no zero padding; with padding, exact away from the border. Cut the result with the same
    ``kept``; its answers are as close to the network's with all channels as folding can make them.

    Args:
        model: The dense network, left as it is.
        traced: What tracing it gave.
        kept: Channels that will stay; of the removed ones, those with a larger scale are not touched.
        silence: Scales up to this size, >= 0, are taken for zero.

    Returns:
        A network of the dense size.

    Raises:
        NetworkError: ``traced`` does not say on which input shape it was traced.
    """
    folded = copy.deepcopy(model)
    silent = {
        name: np.setdiff1d(np.flatnonzero(channels), kept[name])
        for name, channels in silent_channels(folded, traced, silence=silence).items()
        if name in kept
    }
    groups = [group for group in traced.groups if len(silent.get(group.name, ()))]
    if not groups:
        return folded
    if not traced.input_shape:
        raise NetworkError(
            "constants can only be folded on a trace that knows its input shape; trace the network again."
        )
    for group in groups:
        for name in group.scales:
            positions = group.member(name).index[silent[group.name]].ravel()
            folded.get_parameter(f"{name}.weight").data[torch.from_numpy(positions)] = 0
    constants = _constants_read(folded, traced.input_shape)
    for group in groups:
        for member in readers_of(folded, group):
            values = constants[member.module]
            positions = member.index[silent[group.name]].ravel()
            varying = np.isnan(values.numpy()[positions])
            if varying.any():
                _log.warning(
                    "%d channels of group %r have a scale of zero but do not arrive as constants at %r; they are "
                    "removed without folding",
                    int(varying.sum()),
                    group.name,
                    member.module,
                )
            norm = folded.get_submodule(traced.norms[member.module]) if member.module in traced.norms else None
            _fold(folded.get_submodule(member.module), norm, positions[~varying], values)
    return folded


def silent_channels(model: nn.Module, traced: Traced, *, silence: float = 0.0) -> dict[str, NDArray[np.bool_]]:
    """By group which channels say a constant at most, shape (C,): all of their scales are taken for zero.

    Args:
        model: The network.
        traced: Its channel groups; none of the channels is silent where nothing scales them.
        silence: Scales up to this size, >= 0, are taken for zero.
    """
    return {group.name: _silent(model, group, silence) for group in traced.groups}


def _silent(model: nn.Module, group: ChannelGroup, silence: float) -> NDArray[np.bool_]:
    silent = np.full(group.width, bool(group.scales))
    for name in group.scales:
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        silent &= (weight.detach().abs().cpu().numpy()[group.member(name).index] <= silence).all(axis=1)
    return silent


def _fold(reader: nn.Module, norm: nn.Module | None, positions: NDArray[np.int64], values: Tensor) -> None:
    if not len(positions):
        return
    weight = reader.weight
    assert isinstance(weight, nn.Parameter)
    with torch.no_grad():
        spread = torch.zeros_like(values)
        spread[torch.from_numpy(positions)] = values[torch.from_numpy(positions)]
        groups = int(getattr(reader, "groups", 1))
        kernel = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        inputs = spread.to(kernel).reshape(groups, -1)
        change = torch.einsum("goi,gi->go", kernel.reshape(groups, -1, kernel.shape[1]), inputs).reshape(-1)
        if isinstance(reader.bias, Tensor):
            reader.bias.add_(change)
        elif norm is not None and isinstance(norm.running_mean, Tensor):
            norm.running_mean.sub_(change)


def _constants_read(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """What each reader reads on each input position, shape (I,), not a number where it varies; by the reader's name."""
    generator = torch.Generator().manual_seed(0)
    first, second = (_inputs_of_readers(model, torch.randn(shape, generator=generator)) for _ in range(2))
    constants = {}
    for name, (values, middle) in first.items():
        same = ((values - second[name][0]).abs() <= 1e-5 * (1 + values.abs())).all(dim=1)
        constants[name] = torch.where(same, values[:, middle], torch.nan)
    return constants


def _inputs_of_readers(model: nn.Module, inputs: Tensor) -> dict[str, tuple[Tensor, int]]:
    """What each convolution and linear layer reads, shape (I, places), and which place is the middle; by its name."""
    copied = copy.deepcopy(model).eval()
    names = {module: name for name, module in copied.named_modules()}
    read: dict[str, tuple[Tensor, int]] = {}

    def hear(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        values = args[0].detach().double().cpu()
        is_conv = isinstance(module, _ConvNd)
        space = values.shape[2:] if is_conv else values.shape[1:-1]
        middle = int(np.ravel_multi_index([size // 2 for size in space], space)) if space else 0
        read[names[module]] = (values[0].flatten(1) if is_conv else values.flatten(0, -2).T), middle

    for module in names:
        if isinstance(module, (_ConvNd, nn.Linear)):
            module.register_forward_pre_hook(hear)
    with torch.no_grad():
        copied(inputs.to(next(model.parameters())))
    return read
