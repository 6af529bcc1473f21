"""What one pass has shown, as data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.engine.channels import AxisName, side_of

__all__ = ["Activation", "Axis", "Heads", "LabelRecord", "Pin", "Product", "components"]


@dataclass(frozen=True)
class Axis:
    """One prunable axis of a module; its atoms are ``start .. start + size - 1``."""

    module: str
    axis: AxisName
    start: int
    size: int

    @property
    def layer(self) -> str:
        """Name of the layer, or of the bare matrix that is one."""
        side = side_of(self.axis)
        return f"{self.module}.{side[0]}".lstrip(".") if side else self.module

    @property
    def writes(self) -> bool:
        """Whether it is what a layer, or a bare matrix, writes."""
        return self.axis == "out" or self.axis.endswith("[0]")

    def has(self, atom: int) -> bool:
        """Whether an atom is one of the axis'."""
        return self.start <= atom < self.start + self.size

    @property
    def atoms(self) -> NDArray[np.int64]:
        """The axis' atoms in order of position."""
        return np.arange(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Pin:
    """Atoms that can't be removed; without a reason it goes without saying (the image, the logits)."""

    atoms: NDArray[np.int64]
    reason: str = ""
    advice: str = ""


@dataclass(frozen=True, eq=False)
class Heads:
    """An attention whose heads take as many channels together as there are in what it reads.

    `forward` may work out the size of a head from the width that it reads: then a head has to take its share of that
    with it. Which channels are its share is free; by their order, all attentions of a stream say the same.

    Args:
        written: Atoms of the channels of each head, shape (H, D).
        read: Atoms of the channels that the layer reads which wrote them, shape (H, D).
    """

    written: NDArray[np.int64]
    read: NDArray[np.int64]

    @property
    def edges(self) -> NDArray[np.int64]:
        """What ties each head to its share, shape (2 H D, 2)."""
        first = np.broadcast_to(self.written[:, :1], self.written.shape).ravel()
        return np.stack([np.tile(first, 2), np.concatenate([self.written.ravel(), self.read.ravel()])], axis=1)


@dataclass(frozen=True, eq=False)
class LabelRecord:
    """What one pass has shown.

    Args:
        axes: Axes of the prunable layers that ran, in module order, then those of tensors and numbers that go along.
        n_atoms: Atoms in all.
        edges: Pairs of atoms of one channel, shape (E, 2).
        pins: Atoms that can't be removed.
        positions: Output positions (H times W, tokens) of each convolution and linear layer that ran, over all calls;
            input positions of a transposed one.
        other_macs: MACs that no width changes, by the module that computes them.
        products: MACs that channels are counted by.
        heads: Attentions whose heads may have to take a share of what is read with them.
        idle: Convolutions and linear layers that did not run.
        random: Where numbers were drawn at random, for people; empty if none were.
        activations: What was computed from the input, and how long each of it lived.
    """

    axes: list[Axis]
    n_atoms: int
    edges: NDArray[np.int64]
    pins: list[Pin]
    positions: Counter[str]
    other_macs: Counter[str]
    products: list[Product]
    heads: list[Heads]
    idle: list[str]
    random: str
    activations: list[Activation]


@dataclass(frozen=True, eq=False)
class Activation:
    """A tensor that was computed from the input, with its views.

    Args:
        first: The step that wrote it; 0 of an input.
        last: The last step that used it.
        atoms: The atoms that its elements are labelled with, rising.
        sizes: Bytes of the elements of each of them.
        fixed: Bytes that are there whatever is removed.
    """

    first: int
    last: int
    atoms: NDArray[np.int64]
    sizes: NDArray[np.int64]
    fixed: int


@dataclass(frozen=True, eq=False)
class Product:
    """MACs of a product of which channels are a side.

    Args:
        module: The layer that multiplies.
        macs: Multiply-accumulates for one position.
        channels: The labels of all positions, any shape; FIXED stays for ever.
    """

    module: str
    macs: int
    channels: NDArray[np.int64]


def components(size: int, edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest node of each node's connected component, shape (size,)."""
    parent = np.arange(size)
    while True:
        left, right = parent[edges[:, 0]], parent[edges[:, 1]]
        if (left == right).all():
            return parent
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while not (parent[parent] == parent).all():
            parent = parent[parent]
