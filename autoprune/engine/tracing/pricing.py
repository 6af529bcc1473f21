"""Prices the channel groups of a traced network: emits the data of `autoprune.cost.model`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoprune.cost import CostModel, LayerCost, LinearForm, undominated
from autoprune.engine.channels import ChannelGroup, axis_sizes, is_per_conv_group, kind_of, own_vectors, reads
from autoprune.engine.tracing.record import LabelRecord

__all__ = ["price"]


def price(model: nn.Module, record: LabelRecord, groups: Sequence[ChannelGroup]) -> CostModel:
    """What the widths of ``groups`` cost.

    Args:
        model: The dense network.
        record: What `follow_labels` saw of it: output positions, and MACs of what can't be cut.
        groups: Its prunable groups; all other channels count as they are.
    """
    forms: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, group in enumerate(groups):
        for member in group.members:
            forms.setdefault((member.module, member.axis), []).append((place, member.index.shape[1]))

    def form(name: str, axis: str, size: int) -> LinearForm:
        terms = forms.get((name, axis), [])
        return LinearForm(size - sum(k * groups[place].width for place, k in terms), tuple(terms))

    layers: list[LayerCost] = []
    counted: set[nn.Parameter] = set()
    one = LinearForm(1)
    for name, module in model.named_modules():
        own = {key: p for key, p in module.named_parameters(recurse=False) if p not in counted}
        counted.update(own.values())
        kind = kind_of(module)
        if kind is not None and reads(kind):
            sizes = axis_sizes(module)
            fan_in, fan_out = form(name, "in", sizes["in"]), form(name, "out", sizes["out"])
            kernel = 1
            if isinstance(module, _ConvNd):
                kernel = int(np.prod(module.kernel_size))
                per_group = is_per_conv_group(module)
                fan_in = LinearForm(sizes["in"] // module.groups) if per_group else _divide(fan_in, module.groups)
            macs, weights = kernel * record.positions[name], kernel * ("weight" in own)
            layers.append(LayerCost(name, macs, weights, int("bias" in own), fan_in, fan_out))
        elif kind is not None:
            n_vectors = sum(key in ("weight", "bias") for key in own)
            layers.append(LayerCost(name, 0, 0, n_vectors, one, form(name, "out", axis_sizes(module)["out"])))
        matrices = [key for key in own if f"{name}.{key}".lstrip(".") in record.positions and kind is None]
        vectors = [key for key in own_vectors(module) if key in own] if kind is not None else []
        known = {"weight", "bias", *vectors} if kind is not None else set(matrices)
        rest = {key: p.numel() for key, p in own.items() if key not in known}
        following = [key for key in rest if (name, key) in forms]
        fixed = sum(size for key, size in rest.items() if key not in following)
        if fixed or record.other_macs[name] or (kind is None and own and not following):
            layers.append(LayerCost(name, record.other_macs[name], fixed, 0, one, one))
        layers += [LayerCost(f"{name}.{key}", 0, 0, 1, one, form(name, key, rest[key])) for key in following]
        for key in matrices:
            layer, (n_out, n_in, *kernel) = f"{name}.{key}".lstrip("."), own[key].shape
            size = int(np.prod(kernel))
            fan_in, fan_out = form(name, f"{key}[1]", n_in), form(name, f"{key}[0]", n_out)
            layers.append(LayerCost(layer, size * record.positions[layer], size, 0, fan_in, fan_out))
        for key in vectors:
            layers.append(LayerCost(f"{name}.{key}", 0, 0, 1, one, form(name, "out", own[key].numel())))
    layers += _products(record, groups)
    return CostModel(
        groups=tuple(group.name for group in groups),
        dense=tuple(group.width for group in groups),
        layers=tuple(layers),
        activations=_activations(record, groups),
    )


def _activations(record: LabelRecord, groups: Sequence[ChannelGroup]) -> tuple[LinearForm, ...]:
    """Bytes of all that lives at each step of the pass, without steps that are never the largest.

    A tensor that holds the channels of a group in part counts as if each had as many elements as the one with most.
    """
    place_of, n_groups = _places(record, groups), len(groups)
    n_steps = max((each.last for each in record.activations), default=-1) + 1
    changes = np.zeros((n_steps + 1, n_groups + 1), dtype=np.int64)  # The last column is what no width changes.
    for each in record.activations:
        places = place_of[each.atoms]
        stays = places < 0
        row = np.zeros(n_groups + 1, dtype=np.int64)
        totals = np.zeros(n_groups + 1, dtype=np.int64)
        np.add.at(totals, places[~stays], each.sizes[~stays])
        row[:n_groups] = [-(-int(total) // group.width) for total, group in zip(totals, groups, strict=False)]
        row[n_groups] = each.fixed + int(each.sizes[stays].sum())
        changes[each.first] += row
        changes[each.last + 1] -= row
    return undominated(np.cumsum(changes[:-1], axis=0))


def _places(record: LabelRecord, groups: Sequence[ChannelGroup]) -> NDArray[np.int64]:
    """The place of the group of each atom; -1 of an atom, or of FIXED, that stays."""
    place_of = np.full(record.n_atoms + 1, -1, dtype=np.int64)  # The last one is that of what is fixed.
    axes = {(axis.module, axis.axis): axis for axis in record.axes}
    for place, group in enumerate(groups):
        for member in group.members:
            place_of[axes[member.module, member.axis].start + member.index] = place
    return place_of


def _products(record: LabelRecord, groups: Sequence[ChannelGroup]) -> list[LayerCost]:
    """The products of which channels are a side, those of one module and form together."""
    place_of = _places(record, groups)
    macs: Counter[tuple[str, LinearForm]] = Counter()
    for product in record.products:
        places, counts = np.unique(place_of[product.channels.ravel()], return_counts=True)
        found = dict(zip(places.tolist(), counts.tolist(), strict=True))
        fixed = found.pop(-1, 0)
        form = LinearForm(fixed, tuple((place, count // groups[place].width) for place, count in sorted(found.items())))
        macs[product.module, form] += product.macs
    names: Counter[str] = Counter()
    layers = []
    for (module, form), count in macs.items():
        names[module] += 1
        number = f" {names[module]}" if names[module] > 1 else ""
        layers.append(LayerCost(f"{module} (product{number})", count, 0, 0, LinearForm(1), form))
    return layers


def _divide(form: LinearForm, by: int) -> LinearForm:
    """The channels of one conv group; exact, since every channel sits once in each."""
    assert form.constant % by == 0
    assert all(k % by == 0 for _, k in form.terms)
    return LinearForm(form.constant // by, tuple((place, k // by) for place, k in form.terms))
