"""Keeps what silent channels say: one of size zero still says a constant, which moves to its readers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from autoprune.engine.asking import drawn_like, moved
from autoprune.engine.channels import ChannelGroup, Member, Traced, readers_of
from autoprune.errors import NetworkError
from autoprune.widths import Kept

__all__ = ["fold_constants", "fold_into", "silent_channels"]

_log = logging.getLogger(__name__)


def fold_constants(model: nn.Module, traced: Traced, kept: Kept, *, silence: float = 0.0) -> nn.Module:
    """Move the constants of removed channels that no longer say anything else into the layers that read them.

    A channel with ``gamma = 0`` gives ``act(beta)`` everywhere, whatever the activation is, and one that nothing
    scales and whose filters are zero ``act(bias)``: the constant is read off where it arrives, on two random inputs. A
    reader's output then differs by ``sum(K[o, c]) * constant``, which goes to its bias, else to the mean of the
    normalisation right behind it. One that has neither goes without, since no layer may get a parameter that it had
    not: the file of weights must fit the network that it was cut from.

    Exact where the reader adds no zero padding; with padding, exact away from the border. Cut the result with the same
    ``kept``; its answers are as close to the network's with all channels as folding can make them.

    Args:
        model: The dense network, left as it is.
        traced: What tracing it gave.
        kept: Channels that will stay; of the removed ones, those with a larger scale are not touched.
        silence: Scales up to this size, >= 0, are taken for zero, and filters up to this norm that nothing scales.

    Returns:
        A network of the dense size.

    Raises:
        NetworkError: ``traced`` does not say on what it was traced.
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
    if traced.example is None:
        raise NetworkError("constants can only be folded on a trace that knows its example; trace the network again.")
    for group in groups:
        for weight, member in _sizing(folded, group):
            positions = member.index[silent[group.name]].ravel()
            weight.data[torch.from_numpy(positions)] = 0
    constants = _constants_read(folded, traced)
    for group in groups:
        _fold_group(folded, traced, group, silent=silent[group.name], constants=constants)
    return folded


def _fold_group(
    folded: nn.Module,
    traced: Traced,
    group: ChannelGroup,
    *,
    silent: NDArray[np.int64],
    constants: Mapping[str, Tensor],
) -> None:
    """Move what the silent channels of one group say into all of its readers."""
    for member in readers_of(folded, group):
        # The kernel of a transposed one lies unlike at neighbouring places, so what a constant adds is none.
        is_transposed = isinstance(folded.get_submodule(member.module), _ConvTransposeNd)
        if is_transposed or member.module not in constants:
            continue
        values = constants[member.module]
        positions = member.index[silent].ravel()
        varying = np.isnan(values.numpy()[positions])
        if varying.any():
            _log.warning(
                "%d channels of group %r have a size of zero but do not arrive as constants at %r; they are "
                "removed without folding",
                int(varying.sum()),
                group.name,
                member.module,
            )
        norm = folded.get_submodule(traced.norms[member.module]) if member.module in traced.norms else None
        fold_into(folded.get_submodule(member.module), positions[~varying], values, norm=norm)


def silent_channels(model: nn.Module, traced: Traced, *, silence: float = 0.0) -> dict[str, NDArray[np.bool_]]:
    """By group which channels say a constant at most, shape (C,): all that gives them a size is taken for zero.

    Args:
        model: The network.
        traced: Its channel groups; where nothing scales the channels, their filters give them their size.
        silence: Scales up to this size, >= 0, are taken for zero, and filters up to this norm that nothing scales.
    """
    return {group.name: _silent(model, group, silence) for group in traced.groups}


def _silent(model: nn.Module, group: ChannelGroup, silence: float) -> NDArray[np.bool_]:
    if group.scales:
        silent = np.full(group.width, True)
        for weight, member in _sizing(model, group):
            silent &= (weight.detach().abs().cpu().numpy()[member.index] <= silence).all(axis=1)
        return silent
    squares, sizing = np.zeros(group.width), _sizing(model, group)
    for weight, member in sizing:
        rows = weight.detach().flatten(1)
        norms = torch.linalg.vector_norm(rows, dim=1, dtype=torch.promote_types(rows.dtype, torch.float32))
        squares += np.square(norms.cpu().numpy().astype(np.float64))[member.index].sum(axis=1)
    return (np.sqrt(squares) <= silence) & bool(sizing)


def _sizing(model: nn.Module, group: ChannelGroup) -> list[tuple[Tensor, Member]]:
    """What gives the channels of a group their size: their scales or else their filters; and where these lie."""
    if group.scales:
        members = [group.member(name) for name in group.scales]
    else:
        written = [(m, model.get_submodule(m.module)) for m in group.members if m.writes]
        if any(m.axis != "out" or isinstance(module, _ConvTransposeNd) for m, module in written):
            return []  # Bare matrices and transposed convolutions have no filters to be looked at.
        members = [m for m, module in written if isinstance(module, _ConvNd | nn.Linear)]
    weights = [model.get_submodule(member.module).weight for member in members]
    return [(weight, member) for weight, member in zip(weights, members, strict=True) if isinstance(weight, Tensor)]


def fold_into(reader: nn.Module, positions: NDArray[np.int64], values: Tensor, *, norm: nn.Module | None) -> None:
    """Add to a reader what it says of constants on some of its inputs: to its bias, or to the mean of its norm.

    Args:
        reader: A convolution or linear layer, changed in place.
        positions: The inputs, shape (k,).
        values: A constant for each input, shape (I,).
        norm: The normalisation right behind it, or None.
    """
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


def _constants_read(model: nn.Module, traced: Traced) -> dict[str, Tensor]:
    """What each reader reads on each input position, shape (I,), not a number where it varies; by the reader's name."""
    generator = torch.Generator().manual_seed(0)
    first, second = (_inputs_of_readers(model, traced, drawn_like(traced.example, generator)) for _ in range(2))
    constants = {}
    for name, (values, middle) in first.items():
        same = ((values - second[name][0]).abs() <= 1e-5 * (1 + values.abs())).all(dim=1)
        constants[name] = torch.where(same, values[:, middle], torch.nan)
    return constants


def _inputs_of_readers(model: nn.Module, traced: Traced, inputs: Any) -> dict[str, tuple[Tensor, int]]:
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
        parameter = next(model.parameters())
        traced.forward(copied, moved(inputs, parameter.device, dtype=parameter.dtype))
    return read
