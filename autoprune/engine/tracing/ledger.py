"""What is written down in the course of a pass: labels, what belongs together, what can't be removed and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.engine.channels import AxisName, Kind, axis_size, axis_sizes, is_atomic, kind_of, reads
from autoprune.engine.tracing.calls import FIXED, collapse
from autoprune.engine.tracing.record import Axis, Heads, Pin, Product, components

__all__ = ["Layer", "Ledger"]

_COUNTING = ("chan", "dim", "embed", "feat", "filter", "head", "hidden", "plane", "width")
_MOST_ELEMENTS = 2**20  # Of a tensor whose elements are followed one by one.


@dataclass(frozen=True)
class Layer:
    """A layer as a pass sees it: a module, or a bare matrix of one that is multiplied or convolved with.

    Args:
        module: The module.
        kind: What it does.
        read: Axis of what it reads; of its vectors where it combines no channels.
        written: Axis of what it writes.
        name: Of the module, or of the matrix.
    """

    module: nn.Module
    kind: Kind
    read: AxisName
    written: AxisName
    name: str


class Ledger:
    """Axes and atoms of a network, and what a pass has shown of them.

    Args:
        model: The network that runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self.names = {module: name for name, module in model.named_modules()}
        self.kinds = {module: kind for module in self.names if (kind := kind_of(module))}
        self.axes: dict[tuple[nn.Module, AxisName], Axis] = {}
        self.n_atoms = 0
        for module in self.kinds:
            for axis, size in axis_sizes(module).items():
                self._new_axis(module, axis, size)
        self.labels = WeakTensorKeyDictionary()
        self.from_own = WeakTensorKeyDictionary()  # labelled tensors that do not depend on the input
        self.edges: list[NDArray[np.int64]] = [np.zeros((0, 2), dtype=np.int64)]
        self.pins: list[Pin] = []
        self.positions: Counter[str] = Counter()
        self.other_macs: Counter[str] = Counter()
        self.products: list[Product] = []
        self.ran: set[nn.Module] = set()
        self.stack: list[nn.Module] = []
        self._heads: list[NDArray[np.int64]] = []
        self._numbers: dict[tuple[nn.Module, str], list[NDArray[np.int64]]] = {}
        self._own = WeakTensorKeyDictionary()  # parameters and buffers: (module, name)
        for module in self.names:
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and tensor not in self._own:
                    self._own[tensor] = (module, name)

    def _new_axis(self, module: nn.Module, axis: AxisName, size: int) -> Axis:
        made = Axis(self.names[module], axis, self.n_atoms, size)
        self.axes[module, axis] = made
        self.n_atoms += size
        return made

    def layer(self, module: nn.Module) -> Layer:
        """The layer that a module is."""
        kind = self.kinds[module]
        return Layer(module, kind, "in" if reads(kind) else "out", "out", self.names[module])

    def bare_layer(self, matrix: Tensor, kind: Kind) -> Layer | None:
        """The layer that a parameter is which belongs to none; None where it is no parameter."""
        if matrix not in self._own or not isinstance(matrix, nn.Parameter) or matrix.dim() < 2:
            return None
        module, name = self._own[matrix]
        if module in self.kinds:
            return None
        axes = tuple(f"{name}[{dim}]" for dim in (1, 0))
        for axis in axes:
            if (module, axis) not in self.axes:
                self._new_axis(module, axis, axis_size(module, axis))
        return Layer(module, kind, axes[0], axes[1], f"{self.names[module]}.{name}".lstrip("."))

    def is_atomic(self, module: nn.Module) -> bool:
        """Whether a module is a layer that is seen as one."""
        return module in self.kinds and is_atomic(module)

    @property
    def module(self) -> str:
        """Name of the innermost module that runs."""
        return self.names[self.stack[-1]] if self.stack else ""

    def tie(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Atoms ``a[i]`` and ``b[i]`` belong to one channel; FIXED among them is passed over."""
        both = (a != FIXED) & (b != FIXED)
        self.edges.append(np.unique(np.stack([a[both], b[both]], axis=1), axis=0))

    def pin(self, labels: Tensor | NDArray[np.int64], reason: str = "", advice: str = "") -> None:
        """Atoms among ``labels`` can't be removed."""
        atoms = np.unique(collapse(labels).numpy() if isinstance(labels, Tensor) else labels)
        atoms = atoms[atoms != FIXED]
        if len(atoms):
            self.pins.append(Pin(atoms, reason, advice))

    def fixed_shape(self, tensor: Tensor) -> list[int]:
        """Shape of a tensor that nobody wrote, 1 where it only repeats itself, as a mask does over heads.

        Such a width follows `forward`; the proof tells where it does not.
        """
        shape = list(tensor.shape)
        if len(shape) > 2 and min(shape[-2:]) > 1:
            for dim in range(len(shape) - 2):
                if shape[dim] > 1 and bool((tensor == tensor.narrow(dim, 0, 1)).all()):
                    shape[dim] = 1
        return shape

    def count_parts(self, pieces: Sequence[NDArray[np.int64]]) -> bool:
        """Numbers of the module that runs that say how many channels the parts of a split have follow their widths.

        Returns:
            Whether each part has a number of its own, so that the parts need not stay alike.
        """
        if not self.stack:
            return False
        module, sizes = self.stack[-1], [len(piece) for piece in pieces]
        for name, value in vars(module).items():
            if _whole_numbers(value) == sizes:
                for place, piece in enumerate(pieces):
                    self._tie_number(module, f"{name}.{place}", piece)
                return True
        self.count_channels(np.concatenate(pieces))
        if len(set(sizes)) < len(sizes):  # They may be halves of whatever is there, or as many as a number says.
            for piece in pieces:
                self.count_channels(piece)
            return False
        names = {value: name for name, value in vars(module).items() if type(value) is int}
        if not all(size in names for size in sizes):
            return False
        for size, piece in zip(sizes, pieces, strict=True):
            self._tie_number(module, names[size], piece)
        return True

    def count_channels(self, atoms: NDArray[np.int64]) -> None:
        """Numbers of the module that runs that are as many as these channels follow their number."""
        if not self.stack or len(atoms) < 2 or (atoms == FIXED).any():
            return
        module, found = self.stack[-1], []
        for name, value in vars(module).items():
            if type(value) is int and value == len(atoms):
                found.append(name)
            elif len(atoms) in _whole_numbers(value):
                found.append(f"{name}.{value.index(len(atoms))}")
        # A window of three beside three heads: where names tell which of them counts channels, they are believed.
        told = [name for name in found if any(word in name for word in _COUNTING)]
        for name in told or found:
            self._tie_number(module, name, atoms)

    def count_heads(self, units: NDArray[np.int64]) -> None:
        """Numbers of the module that runs that say how many heads there are, or how many channels they have."""
        heads = self.note_heads(units)
        if not self.stack:
            return
        module = self.stack[-1]
        for name, value in vars(module).items():
            if type(value) is int and "head" in name and value == len(heads):
                self._tie_number(module, name, heads[:, 0])
            elif type(value) is int and value == heads.size != len(heads):
                self._tie_number(module, name, heads.ravel())

    def note_heads(self, units: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write down which channels are summed over together, shape (U, D), each set once; these, in order."""
        first = np.sort(np.unique(units[:, 0], return_index=True)[1])
        self._heads.append(units[first])
        return self._heads[-1]

    def heads_that_fill(self) -> list[Heads]:
        """Attentions whose heads together take as many channels as the layer reads that wrote them."""
        found = []
        for heads in self._heads:
            wrote = next((key for key, axis in self.axes.items() if axis.writes and axis.has(heads[0, 0])), None)
            read = None if wrote is None else self._read_beside(*wrote)
            if read is not None and read.size == heads.size:
                found.append(Heads(heads, read.atoms.reshape(heads.shape)))
        return found

    def _read_beside(self, module: nn.Module, written: AxisName) -> Axis | None:
        """What a layer, or a bare matrix, reads that writes an axis."""
        return self.axes.get((module, "in" if written == "out" else written.replace("[0]", "[1]")))

    def _tie_number(self, module: nn.Module, name: str, atoms: NDArray[np.int64]) -> None:
        self._numbers.setdefault((module, name), []).append(atoms)

    def settle_numbers(self) -> None:
        """Tie each number to the channels that it counts; one that would count unlike ones is left alone."""
        channel = components(self.n_atoms, np.concatenate(self.edges))
        for (module, name), counted in self._numbers.items():
            if all(np.array_equal(channel[atoms], channel[counted[0]]) for atoms in counted[1:]):
                axis = self._new_axis(module, name, len(counted[0]))
                self.ran.add(module)
                self.tie(axis.atoms, counted[0])

    def where(self) -> str:
        """The innermost module that runs, for messages."""
        name = self.names[self.stack[-1]] if self.stack else ""
        return f"{type(self.stack[-1]).__name__} {name!r}" if name else "the network's own `forward`"

    def label_own(self, tensors: Sequence[Tensor]) -> None:
        """Give every element of a parameter or buffer that meets channels an atom of its own: it may go with them."""
        for tensor in tensors:
            if tensor in self._own and tensor not in self.labels and tensor.dtype.is_floating_point:
                module, name = self._own[tensor]
                if 1 < tensor.numel() <= _MOST_ELEMENTS and not self.is_atomic(module):
                    axis = self.axes.get((module, name)) or self._new_axis(module, name, tensor.numel())
                    self.labels[tensor] = torch.from_numpy(axis.atoms).view(tensor.shape)
                    self.from_own[tensor] = True
                    self.ran.add(module)


def _whole_numbers(value: object) -> list[int]:
    """The entries of a list or tuple of whole numbers; none for anything else."""
    is_list = isinstance(value, list | tuple) and all(type(entry) is int for entry in value)
    return list(value) if is_list and isinstance(value, list | tuple) else []
