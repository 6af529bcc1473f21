"""Traces a network: which channels must go together, what can't be pruned and why, and what widths cost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.engine.asking import Forward, ask, first_input, moved
from autoprune.engine.channels import ChannelGroup, Member, Traced, Unprunable, kind_of
from autoprune.engine.tracing.labels import follow_labels
from autoprune.engine.tracing.norms import norms_behind
from autoprune.engine.tracing.pricing import price
from autoprune.engine.tracing.proof import find_broken, is_repeatable
from autoprune.engine.tracing.record import Axis, LabelRecord, components
from autoprune.errors import ConfigError, NetworkError, unknown_name

__all__ = ["ChannelGroup", "Member", "Traced", "Unprunable", "trace"]


_LOST = "they stay dense; check that `forward` does not leave torch (numpy, `.data`) on their way"


def trace(model: nn.Module, example: Any, *, exclude: Sequence[str] = (), forward: Forward = ask) -> Traced:
    """Find the channel groups of a network and what their widths cost.

    Args:
        model: Left exactly as it is.
        example: One input or a batch of them: a tensor of shape (N, ...), a tuple of positional arguments, a mapping
            of arguments by name. Only shapes matter, and the first input is run.
        exclude: Names of groups, or of layers whose output channels are never removed; the name of a block stands for
            all the layers in it.
        forward: Runs the network on the example, where calling it does not; what it returns can't be pruned.

    Raises:
        ConfigError: A name in ``exclude`` is neither a layer nor a group.
        NetworkError: The network can't be followed.

    Example:
        >>> import torch
        >>> from autoprune.architectures import build
        >>> traced = trace(build("resnet_digits", n_classes=10, in_channels=1), torch.zeros(1, 1, 8, 8))
        >>> [(group.name, group.width) for group in traced.groups][:3]
        [('conv1', 16), ('layer1.0.conv1', 16), ('layer2.0.conv1', 32)]
    """
    example = first_input(example)
    record = follow_labels(model, example, forward=forward)
    if not record.axes:
        raise NetworkError("the network must have a convolution or linear layer that runs, but this one has none.")
    if record.random and not is_repeatable(model, example, forward=forward):
        raise NetworkError(
            "the network must answer the same each time in evaluation mode, but it draws at random in "
            f"{record.random}. Draw while `self.training` only, as nn.Dropout does."
        )
    groups, refused = _form_groups(model, record, _Channels.of(record))
    groups = _without(model, groups, exclude)
    broken = find_broken(model, example, groups, forward=forward)
    more = _counted_elsewhere(record, [group for group in groups if group.name in broken])
    if more:
        tied = dataclasses.replace(record, edges=np.concatenate([record.edges, *more]))
        again, refused_then = _form_groups(model, tied, _Channels.of(tied))
        again = _without(model, again, exclude)
        broken_then = find_broken(model, example, again, forward=forward)
        if len(broken_then) < len(broken):
            record, groups, refused, broken = tied, again, refused_then, broken_then
    order = [axis.layer for axis in _writers(record)]
    refused += _broken_refusals([group for group in groups if group.name in broken], broken, order)
    groups = [group for group in groups if group.name not in broken]
    place = {name: index for index, name in enumerate(order)}
    refused.sort(key=lambda refusal: place.get(refusal.layers[0], len(order)))
    cost, norms = price(model, record, groups), norms_behind(model, example, forward=forward)
    return Traced(tuple(groups), tuple(refused), cost, norms, moved(example, torch.device("cpu")), forward)


@dataclass(frozen=True, eq=False)
class _Channels:
    """The atoms' components: channels, and families of channels that share a writing layer."""

    channel: NDArray[np.int64]  # (A,) the channel of each atom
    family: NDArray[np.int64]  # (A,) the family of each channel, by the channel's id

    @classmethod
    def of(cls, record: LabelRecord) -> _Channels:
        channel = components(record.n_atoms, record.edges)
        together = [np.zeros((0, 2), dtype=np.int64)]
        for axis in _writers(record):
            ids = channel[axis.atoms]
            together.append(np.stack([np.broadcast_to(ids[:1], ids.shape), ids], axis=1))
        return cls(channel, components(record.n_atoms, np.concatenate(together)))


def _writers(record: LabelRecord) -> list[Axis]:
    return [axis for axis in record.axes if axis.writes and axis.layer in record.positions]


def _form_groups(
    model: nn.Module, record: LabelRecord, channels: _Channels
) -> tuple[list[ChannelGroup], list[Unprunable]]:
    writers = _writers(record)
    writing = {axis.start for axis in writers}
    refused = _refusals(record, channels, writers)
    refused += [Unprunable((name,), "it is not called in eval mode", "it stays as it is") for name in record.idle]
    found: list[tuple[int, int, tuple[Member, ...]]] = []
    for signature, table in _alike(record, channels).items():
        axes = sorted(set(signature))
        columns = np.array(signature)
        written = [a for a in axes if record.axes[a].start in writing]
        if not written:
            continue
        first = written[0]
        table = table[np.argsort(table[:, columns == first][:, 0], kind="stable")]
        members = tuple(
            Member(record.axes[a].module, record.axes[a].axis, np.ascontiguousarray(table[:, columns == a]))
            for a in axes
        )
        if not any(member.reads for member in members):
            lost = tuple(dict.fromkeys(record.axes[a].layer for a in written))
            refused.append(Unprunable(lost, "no layer was seen to read its channels", _LOST))
            continue
        if len(table) > 1:
            found.append((first, int(table[0, columns == first][0]), members))
        elif layers := tuple(record.axes[a].layer for a in written if (columns == a).sum() > 1):
            refused.append(Unprunable(layers, "all of its channels can only go together", "they stay dense"))
    found.sort(key=lambda entry: entry[:2])
    sharing = Counter(first for first, _, _ in found)
    groups = []
    for first, start, members in found:
        layer = record.axes[first].layer
        name = layer if sharing[first] == 1 else f"{layer}@{start}"
        groups.append(ChannelGroup(name, len(members[0].index), members, _scales(model, members)))
    return groups, refused


def _alike(record: LabelRecord, channels: _Channels) -> dict[tuple[int, ...], NDArray[np.int64]]:
    """Prunable channels by signature: the axes that they live on, once for each position there.

    Channels of one signature cost the same, so their number is all that costs depend on: they are one group. Where a
    family (channels that share a writer) holds a pinned channel, all of it is left out.

    Returns:
        Signature, as places in ``record.axes``, to the positions of its channels, shape (C, len(signature)).
    """
    pinned = {int(family) for pin in record.pins for family in channels.family[channels.channel[pin.atoms]]}
    axis_of = np.concatenate([np.full(axis.size, place) for place, axis in enumerate(record.axes)])
    position = np.concatenate([np.arange(axis.size) for axis in record.axes])
    channel = np.concatenate([channels.channel[axis.atoms] for axis in record.axes])
    order = np.lexsort((position, axis_of, channel))
    alike: dict[tuple[int, ...], list[NDArray[np.int64]]] = {}
    for start, stop in pairwise(np.flatnonzero(np.diff(channel[order], prepend=-1, append=-1)).tolist()):
        rows = order[start:stop]
        if int(channels.family[channel[rows[0]]]) not in pinned:
            alike.setdefault(tuple(axis_of[rows].tolist()), []).append(position[rows])
    return {signature: np.stack(rows) for signature, rows in alike.items()}


def _refusals(record: LabelRecord, channels: _Channels, writers: list[Axis]) -> list[Unprunable]:
    layers: dict[int, list[str]] = {}
    for axis in writers:
        if axis.size > 1:
            layers.setdefault(int(channels.family[channels.channel[axis.atoms[0]]]), []).append(axis.layer)
    reasons: dict[int, tuple[str, str]] = {}
    for pin in record.pins:
        if pin.reason:
            for family in np.unique(channels.family[channels.channel[pin.atoms]]).tolist():
                reasons.setdefault(family, (pin.reason, pin.advice or "they stay dense"))
    return [
        Unprunable(tuple(layers[family]), reason, advice)
        for family, (reason, advice) in reasons.items()
        if family in layers
    ]


def _counted_elsewhere(record: LabelRecord, broken: Sequence[ChannelGroup]) -> list[NDArray[np.int64]]:
    """Ties by which groups may yet be removed: `forward` may take a width from what a layer reads, not from the layer.

    So a head goes with its share of what is read, and what a layer writes with what it reads, where both are as wide.

    Args:
        record: Of the pass.
        broken: Groups that can't be removed as they are.
    """
    axes = {(axis.module, axis.axis): axis for axis in record.axes}
    lost = [axes[member.module, member.axis].start + member.index for group in broken for member in group.members]
    atoms = np.concatenate([np.zeros(0, dtype=np.int64), *(each.ravel() for each in lost)])
    ties = [heads.edges for heads in record.heads if np.isin(heads.written, atoms).any()]
    writers = _writers(record)
    for group in broken:
        written = [axis for member in group.members if (axis := axes[member.module, member.axis]) in writers]
        read = axes.get((written[0].module, "in")) if len(written) == 1 else None
        if read is not None and read.size == written[0].size and np.isin(read.atoms, atoms).all():
            ties.append(np.stack([written[0].atoms, read.atoms], axis=1))
    return ties


def _broken_refusals(
    groups: Sequence[ChannelGroup], reasons: Mapping[str, str], writers: Sequence[str]
) -> list[Unprunable]:
    """One refusal for all broken groups that share layers."""
    together: list[tuple[set[str], str]] = []
    for group in groups:
        layers = {_layer_of(member) for member in group.members if member.writes} & set(writers)
        reason = reasons[group.name]
        for other in [entry for entry in together if entry[0] & layers]:
            together.remove(other)
            layers, reason = layers | other[0], other[1]
        together.append((layers, reason))
    advice = "they stay dense; where a size is written as a number in `forward`, take it from the tensor instead"
    return [
        Unprunable(tuple(name for name in writers if name in layers), reason, advice) for layers, reason in together
    ]


def _layer_of(member: Member) -> str:
    """Name of the layer, or of the bare matrix, that an axis belongs to."""
    return member.module if member.axis in ("in", "out") else str(member.weight)


def _scales(model: nn.Module, members: tuple[Member, ...]) -> tuple[str, ...]:
    names = []
    for member in members:
        module = model.get_submodule(member.module)
        if member.axis == "out" and kind_of(module) == "norm" and module.weight is not None:
            names.append(member.module)
    return tuple(names)


def _without(model: nn.Module, groups: list[ChannelGroup], exclude: Sequence[str]) -> list[ChannelGroup]:
    if not exclude:
        return groups
    modules = {name for name, _ in model.named_modules() if name}
    names = {group.name for group in groups}
    for name in exclude:
        if name not in modules | names:
            raise ConfigError(unknown_name("layer or channel group to exclude", name, modules | names))

    def excluded(group: ChannelGroup) -> bool:
        layers = {_layer_of(member) for member in group.members if member.writes}
        return any(
            name == group.name or name in layers or any(layer.startswith(f"{name}.") for layer in layers)
            for name in exclude
        )

    return [group for group in groups if not excluded(group)]
