"""Prices the channel groups of a traced network: emits the data of `autoprune.cost.model`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autoprune.cost import CostModel, LayerCost, LinearForm
from autoprune.engine.channels import ChannelGroup, axis_sizes, is_per_conv_group, kind_of
from autoprune.engine.tracing.labels import LabelRecord

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
        if kind in ("conv", "linear"):
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
            layers.append(LayerCost(name, 0, 0, len(own), one, form(name, "out", axis_sizes(module)["out"])))
        elif own or record.other_macs[name]:
            layers.append(LayerCost(name, record.other_macs[name], sum(p.numel() for p in own.values()), 0, one, one))
    return CostModel(
        groups=tuple(group.name for group in groups),
        dense=tuple(group.width for group in groups),
        layers=tuple(layers),
    )


def _divide(form: LinearForm, by: int) -> LinearForm:
    """The channels of one conv group; exact, since every channel sits once in each."""
    assert form.constant % by == 0
    assert all(k % by == 0 for _, k in form.terms)
    return LinearForm(form.constant // by, tuple((place, k // by) for place, k in form.terms))
