"""Keeps what silent channels say: one that is scaled by zero still says a constant, which moves to its readers."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.engine._layers import is_per_conv_group
from autoprune.engine._records import ChannelGroup, Traced
from autoprune.errors import NetworkError

__all__ = ["fold_constants", "norms_behind", "silent_channels"]

_log = logging.getLogger(__name__)


def fold_constants(
    model: nn.Module,
    traced: Traced,
    kept: Mapping[str, NDArray[np.int64]],
    *,
    silence: float = 0.0,
    new_biases: bool = True,
) -> nn.Module:
    """Move the constants of removed channels that no longer say anything else into the layers that read them.

    A channel with ``gamma = 0`` gives ``act(beta)`` everywhere, whatever the activation is: the constant is read off
    where it arrives, on two random inputs. A reader's output then differs by ``sum(K[o, c]) * constant``, which goes
    to the mean of the normalisation right behind it, else to its bias (a convolution without one gets it).

    Exact where the reader adds no zero padding; with padding, exact away from the border. Cut the result with the same
    ``kept``; its answers are as close to the network's with all channels as folding can make them.

    Args:
        model: The dense network, left as it is.
        traced: What tracing it gave.
        kept: Channels that will stay; of the removed ones, those with a larger scale are not touched.
        silence: Scales up to this size, >= 0, are taken for zero.
        new_biases: Whether a convolution with neither bias nor normalisation may get a bias; else it goes without.

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
    constants, norms = _watch(folded, traced.input_shape)
    for group in groups:
        for member in group.members:
            reader = folded.get_submodule(member.module)
            if member.axis == "out" or (isinstance(reader, _ConvNd) and is_per_conv_group(reader)):
                continue
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
            norm = folded.get_submodule(norms[member.module]) if member.module in norms else None
            if new_biases or norm is not None or isinstance(reader.bias, Tensor):
                _fold(reader, norm, positions[~varying], values)
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
        else:
            reader.bias = nn.Parameter(change, requires_grad=weight.requires_grad)


class _Watcher(TorchDispatchMode):
    """Sees in one pass what readers read, and which normalisation is alone behind a convolution."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = {module: name for name, module in model.named_modules()}
        self.read: dict[str, Tensor] = {}  # (I, places)
        self.middle: dict[str, int] = {}
        self.behind: dict[str, tuple[str, int]] = {}  # reader: its normalisation, and the id of what is between
        self.written: dict[int, tuple[str, Tensor]] = {}  # holding the tensors keeps their ids from being given away
        self.uses: Counter[int] = Counter()
        self.paused = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused:
            self.uses.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in self.written)
        return func(*args, **(kwargs or {}))

    def watch(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Forward hook of every layer that reads or normalises."""
        self.paused = True
        name, x = self.names[module], args[0]
        if isinstance(module, _BatchNorm):
            if id(x) in self.written:
                self.behind[self.written[id(x)][0]] = (name, id(x))
        else:
            values = x.detach().double().cpu()
            space = values.shape[2:] if isinstance(module, _ConvNd) else values.shape[1:-1]
            self.read[name] = values[0].flatten(1) if isinstance(module, _ConvNd) else values.flatten(0, -2).T
            self.middle[name] = int(np.ravel_multi_index([size // 2 for size in space], space)) if space else 0
            self.written[id(output)] = (name, output)
        self.paused = False


def norms_behind(model: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """The BatchNorm that is alone right behind a convolution or linear layer, by the layer's name.

    Args:
        model: Left as it is.
        shape: Of one input, batch included.
    """
    watcher = _watcher_of(model, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    return {reader: norm for reader, (norm, between) in watcher.behind.items() if watcher.uses[between] == 1}


def _watch(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What each reader reads on each input position, not a number where it varies; and the norms behind readers."""
    generator = torch.Generator().manual_seed(0)
    first, second = (_watcher_of(model, torch.randn(shape, generator=generator)) for _ in range(2))
    constants = {}
    for name, values in first.read.items():
        same = ((values - second.read[name]).abs() <= 1e-5 * (1 + values.abs())).all(dim=1)
        constants[name] = torch.where(same, values[:, first.middle[name]], torch.nan)
    return constants, norms_behind(model, shape)


def _watcher_of(model: nn.Module, inputs: Tensor) -> _Watcher:
    copied = copy.deepcopy(model).eval()
    watcher = _Watcher(copied)
    for module in copied.modules():
        if isinstance(module, (_BatchNorm, _ConvNd, nn.Linear)):
            module.register_forward_hook(watcher.watch)
    with torch.no_grad(), watcher:
        copied(inputs.to(next(model.parameters())))
    return watcher
