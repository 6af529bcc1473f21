"""Finds channels that are read in training mode only, by auxiliary heads and their like."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from autoprune.engine.asking import Forward
from autoprune.engine.channels import Traced, Unprunable, kind_of, reads
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.engine.training import Randomness, default_device
from autoprune.errors import first_line
from autoprune.pipeline.witness import failing
from autoprune.widths import Kept

__all__ = ["read_in_training", "trace_for_training"]

_ADVICE = "they stay dense; build the network without its auxiliary heads to have them pruned"


def trace_for_training(
    network: nn.Module,
    example: Any,
    train_once: Callable[[nn.Module], object],
    *,
    exclude: Sequence[str],
    forward: Forward,
) -> Traced:
    """The channel groups of a network, without those that it can't do without in training mode.

    Args:
        network: Left as it is.
        example: See `trace`.
        train_once: See `read_in_training`.
        exclude: See `trace`.
        forward: See `trace`.
    """
    traced = trace(network, example, exclude=exclude, forward=forward)
    stuck, refused = read_in_training(network, traced, train_once)
    if not stuck:
        return traced
    traced = trace(network, example, exclude=(*exclude, *stuck), forward=forward)
    return dataclasses.replace(traced, refused=(*traced.refused, *refused))


def read_in_training(
    network: nn.Module, traced: Traced, train_once: Callable[[nn.Module], object]
) -> tuple[list[str], list[Unprunable]]:
    """Groups whose channels something reads that runs in training mode only, such as an auxiliary head.

    Tracing follows the network in evaluation mode and can't see it; cut without it, the network would answer, but no
    longer train. So it is run in training mode with a channel less in every group and, where that fails, in one group
    after the other.

    Args:
        network: The dense network, left as it is.
        traced: Its channel groups.
        train_once: Places a network, and runs it in training mode on a few examples.

    Returns:
        The names of these groups, and what is told of the layers that write them: once for each reader.
    """
    sound: Kept = {}
    names: list[str] = []
    layers: dict[str, list[str]] = {}
    with Randomness(default_device(), 0).in_use():
        fewer = {group.name: np.arange(group.width - 1) for group in traced.groups if group.width > 1}
        if _fault(network, traced, fewer, train_once) is None:
            return [], []
        for name, kept in fewer.items():
            fault = _fault(network, traced, {**sound, name: kept}, train_once)
            if fault is None:
                sound = {**sound, name: kept}
            else:
                names.append(name)
                layers.setdefault(fault, []).extend(_writers(network, traced, name))
    return names, [Unprunable(tuple(writers), fault, _ADVICE) for fault, writers in layers.items()]


def _fault(network: nn.Module, traced: Traced, kept: Kept, train_once: Callable[[nn.Module], object]) -> str | None:
    model = cut(network, traced.groups, kept).train()
    try:
        train_once(model)
    except Exception as error:  # Whatever `forward` raises on a smaller network.
        where = failing(model, lambda: train_once(model))
        return f"without some of its channels the network fails in training mode {where}: {first_line(error)}"
    return None


def _writers(network: nn.Module, traced: Traced, name: str) -> list[str]:
    layers = [member.module for member in traced.group(name).members if member.writes]
    kinds = {layer: kind_of(network.get_submodule(layer)) for layer in layers}
    writers = [layer for layer, kind in kinds.items() if kind is not None and reads(kind)]
    return writers or layers
