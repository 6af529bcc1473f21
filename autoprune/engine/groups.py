"""Traces a network: which channels must go together, what can't be pruned and why, and what widths cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune.cost import CostModel, LayerCost, LinearForm
from autoprune.engine._labels import Axis, LabelRecord, follow_labels, is_per_conv_group, kind_of
from autoprune.errors import ConfigError, NetworkError, unknown_name

__all__ = ["ChannelGroup", "Member", "Refusal", "Traced", "trace"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one layer that channels of a group live on.

    Args:
        module: Qualified name of the layer.
        axis: ``"out"`` for written channels and the vectors of a batch normalisation, ``"in"`` for read ones.
        index: Shape (C, k): the k positions on that axis of each of the C channels of the group. k > 1 where a
            channel is spread: flattened before a linear layer, or once in each conv group.
    """

    module: str
    axis: Literal["out", "in"]
    index: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels of several layers that must go together; any subset of the C channels may be kept.

    Channels at the same offset of each conv group of a grouped convolution are one channel here, so that equal counts
    per conv group hold by construction.

    Args:
        name: The first layer, in module order, that writes the channels, such as ``layer2.0.conv1``. Where several
            groups share that layer, ``@`` and the first position tell them apart.
        width: C, the dense width.
        step: A width must be a multiple of it.
        members: Every axis that surgery cuts.
        scales: Batch normalisations that scale all of the channels: where ``|gamma|`` is read and penalised.
    """

    name: str
    width: int
    step: int
    members: tuple[Member, ...]
    scales: tuple[str, ...]

    def member(self, module: str, axis: Literal["out", "in"] = "out") -> Member:
        """The member of that layer and axis.

        Raises:
            ConfigError: The group has no such member.
        """
        for member in self.members:
            if (member.module, member.axis) == (module, axis):
                return member
        raise ConfigError(
            unknown_name(f"{axis!r} layer of group {self.name!r}", module, {m.module for m in self.members})
        )


@dataclass(frozen=True)
class Refusal:
    """Channels that can't be pruned.

    Args:
        layers: The layers that write them, in module order.
        reason: Why, as a clause.
        advice: What would make them prunable, or what to exclude.
    """

    layers: tuple[str, ...]
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{', '.join(self.layers)}: {self.reason}; {self.advice}."


@dataclass(frozen=True, eq=False)
class Traced:
    """All that tracing finds out about a network.

    Args:
        groups: Prunable channel groups, in module order.
        refused: What can't be pruned; the image's channels and the logits go without saying.
        cost: MACs and parameters as functions of the groups' widths.
    """

    groups: tuple[ChannelGroup, ...]
    refused: tuple[Refusal, ...]
    cost: CostModel

    def group(self, name: str) -> ChannelGroup:
        """The group of that name.

        Raises:
            ConfigError: There is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise ConfigError(unknown_name("channel group", name, [group.name for group in self.groups]))


def trace(model: nn.Module, example: Tensor, *, exclude: Sequence[str] = ()) -> Traced:
    """Find the channel groups of a network and what their widths cost.

    Args:
        model: Left exactly as it is.
        example: One input or a batch of them, shape (N, ...); only its shape matters, and the first input is run.
        exclude: Names of groups, or of layers whose output channels are never removed; the name of a block stands for
            all the layers in it.

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
    record = follow_labels(model, example)
    channels = _Channels.of(record)
    groups, refused = _form_groups(model, record, channels)
    groups = _without(model, groups, exclude)
    return Traced(tuple(groups), tuple(refused), _cost(model, record, groups))


# -- groups ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Channels:
    """The atoms' components: channels, and families of channels that share a writing layer."""

    channel: NDArray[np.int64]  # (A,) the channel of each atom
    family: NDArray[np.int64]  # (A,) the family of each channel, by the channel's id

    @classmethod
    def of(cls, record: LabelRecord) -> _Channels:
        channel = _components(record.n_atoms, record.edges)
        together = [np.zeros((0, 2), dtype=np.int64)]
        for axis in _writers(record):
            ids = channel[axis.atoms]
            together.append(np.stack([np.broadcast_to(ids[:1], ids.shape), ids], axis=1))
        return cls(channel, _components(record.n_atoms, np.concatenate(together)))


def _writers(record: LabelRecord) -> list[Axis]:
    return [axis for axis in record.axes if axis.axis == "out" and axis.module in record.positions]


def _components(size: int, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest node of each node's connected component, shape (size,)."""
    parent = np.arange(size)
    while True:
        left, right = parent[edges[:, 0]], parent[edges[:, 1]]
        if (left == right).all():
            return parent
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while not (parent[parent] == parent).all():
            parent = parent[parent]


def _form_groups(
    model: nn.Module, record: LabelRecord, channels: _Channels
) -> tuple[list[ChannelGroup], list[Refusal]]:
    writers = _writers(record)
    pinned = {int(f) for pin in record.pins for f in channels.family[channels.channel[pin.atoms]]}
    refused = _refusals(record, channels, writers)
    order = {(axis.module, axis.axis): place for place, axis in enumerate(record.axes)}
    writing = {axis.module for axis in writers}

    # A channel's signature is the axes that it lives on, and how often; channels of one signature have one width.
    where = np.concatenate([np.full(axis.size, place) for place, axis in enumerate(record.axes)])
    place_in = np.concatenate([np.arange(axis.size) for axis in record.axes])
    channel_of = np.concatenate([channels.channel[axis.atoms] for axis in record.axes])
    by_channel = np.lexsort((place_in, where, channel_of))
    bounds = np.flatnonzero(np.diff(channel_of[by_channel], prepend=-1, append=-1))
    alike: dict[tuple[int, tuple[int, ...]], list[NDArray[np.int64]]] = {}
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        rows = by_channel[start:stop]
        family = int(channels.family[channel_of[rows[0]]])
        if family not in pinned:
            alike.setdefault((family, tuple(where[rows].tolist())), []).append(place_in[rows])

    found: list[tuple[int, int, tuple[Member, ...]]] = []
    for (_, signature), rows_of in alike.items():
        axes = sorted(set(signature), key=signature.index)
        first = next((a for a in axes if record.axes[a].axis == "out" and record.axes[a].module in writing), None)
        reads = any(record.axes[a].axis == "in" for a in axes)
        if first is None or not reads:
            continue
        table = np.stack(rows_of)  # (C, positions on all axes)
        columns = np.array(signature)
        table = table[np.argsort(table[:, columns == first][:, 0], kind="stable")]
        members = tuple(
            Member(record.axes[a].module, record.axes[a].axis, np.ascontiguousarray(table[:, columns == a]))
            for a in axes
        )
        if len(table) > 1:
            found.append((first, int(table[0, columns == first][0]), members))
        else:
            refused.append(_one_channel(record, members, writing))
    found.sort(key=lambda entry: entry[:2])
    shared = [first for first, _, _ in found]
    groups = []
    for first, start, members in found:
        module = record.axes[first].module
        name = module if shared.count(first) == 1 else f"{module}@{start}"
        groups.append(ChannelGroup(name, len(members[0].index), 1, members, _scales(model, members)))
    refused = [refusal for refusal in refused if refusal.layers]
    refused += [
        Refusal((name,), "it does not run in eval mode", "nothing is to be done: it stays as it is")
        for name in record.idle
    ]
    return groups, sorted(refused, key=lambda refusal: order.get((refusal.layers[0], "out"), len(order)))


def _refusals(record: LabelRecord, channels: _Channels, writers: list[Axis]) -> list[Refusal]:
    layers: dict[int, list[str]] = {}
    for axis in writers:
        if axis.size > 1:
            layers.setdefault(int(channels.family[channels.channel[axis.atoms[0]]]), []).append(axis.module)
    reasons: dict[int, tuple[str, str]] = {}
    for pin in record.pins:
        if pin.reason:
            for family in np.unique(channels.family[channels.channel[pin.atoms]]).tolist():
                reasons.setdefault(family, (pin.reason, pin.advice or "they stay dense"))
    return [
        Refusal(tuple(layers[family]), reason, advice)
        for family, (reason, advice) in reasons.items()
        if family in layers
    ]


def _one_channel(record: LabelRecord, members: tuple[Member, ...], writing: set[str]) -> Refusal:
    layers = tuple(m.module for m in members if m.axis == "out" and m.module in writing and m.index.size > 1)
    return Refusal(layers, "all of its channels can only go together", "they stay dense")


def _scales(model: nn.Module, members: tuple[Member, ...]) -> tuple[str, ...]:
    names = []
    for member in members:
        module = model.get_submodule(member.module)
        if kind_of(module) == "norm" and module.weight is not None:
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
        layers = {member.module for member in group.members if member.axis == "out"}
        return any(
            name == group.name or name in layers or any(layer.startswith(f"{name}.") for layer in layers)
            for name in exclude
        )

    return [group for group in groups if not excluded(group)]


# -- cost -----------------------------------------------------------------------------------------------------------


def _cost(model: nn.Module, record: LabelRecord, groups: Sequence[ChannelGroup]) -> CostModel:
    forms: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, group in enumerate(groups):
        for member in group.members:
            forms.setdefault((member.module, member.axis), []).append((place, member.index.shape[1]))

    def form(name: str, axis: str, size: int) -> LinearForm:
        terms = forms.get((name, axis), [])
        return LinearForm(size - sum(k * groups[place].width for place, k in terms), tuple(terms))

    layers: list[LayerCost] = []
    counted: set[int] = set()
    for name, module in model.named_modules():
        kind = kind_of(module)
        own = {key: p for key, p in module.named_parameters(recurse=False) if id(p) not in counted}
        counted |= {id(p) for p in own.values()}
        positions = record.positions.get(name, 0)
        if kind == "conv":
            kernel = int(np.prod(module.kernel_size))  # type: ignore[arg-type]
            fan_in = form(name, "in", int(module.in_channels))  # type: ignore[arg-type]
            fan_out = form(name, "out", int(module.out_channels))  # type: ignore[arg-type]
            conv_groups = int(module.groups)  # type: ignore[arg-type]
            if is_per_conv_group(module):
                fan_in = LinearForm(int(module.in_channels) // conv_groups)  # type: ignore[arg-type]
            else:
                fan_in = _divide(fan_in, conv_groups)
            layers.append(
                LayerCost(name, kernel * positions, kernel * ("weight" in own), int("bias" in own), fan_in, fan_out)
            )
        elif isinstance(module, nn.Linear) and kind == "linear":
            fan_in, fan_out = form(name, "in", module.in_features), form(name, "out", module.out_features)
            layers.append(LayerCost(name, positions, int("weight" in own), int("bias" in own), fan_in, fan_out))
        elif kind in ("norm", "prelu") and own:
            size = next(iter(own.values())).numel()
            layers.append(LayerCost(name, 0, 0, len(own), LinearForm(1), form(name, "out", size)))
        elif own:
            layers.append(LayerCost(name, 0, 0, 1, LinearForm(1), LinearForm(sum(p.numel() for p in own.values()))))
    return CostModel(
        groups=tuple(group.name for group in groups),
        dense=tuple(group.width for group in groups),
        steps=tuple(group.step for group in groups),
        layers=tuple(layers),
    )


def _divide(form: LinearForm, by: int) -> LinearForm:
    """The channels of one conv group; exact, since every channel sits once in each."""
    assert form.constant % by == 0 and all(k % by == 0 for _, k in form.terms)
    return LinearForm(form.constant // by, tuple((place, k // by) for place, k in form.terms))
