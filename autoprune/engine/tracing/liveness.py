"""How long each tensor of a pass lives: what the peak of its activation memory is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.engine.tracing.calls import FIXED
from autoprune.engine.tracing.record import Activation

__all__ = ["Liveness"]

_FLOAT_BYTES = 4  # Of a float of any precision: sizes are told for float32.


@dataclass
class _Storage:
    """What some tensors, the views of each other, share.

    Args:
        held: So that no other storage gets its address.
        first: The step that wrote it.
        last: The last step that used it.
        atoms: The atoms that its elements are labelled with.
        sizes: Bytes of the elements of each of them.
        fixed: Bytes of all others.
    """

    held: StorageWeakRef
    first: int
    last: int
    atoms: NDArray[np.int64]
    sizes: NDArray[np.int64]
    fixed: int


class Liveness:
    """Sees which storages are written and used, step by step; a step is an operator, or a layer that is seen as one.

    A storage lives from the step that writes it to the last one that uses it, in whatever view. Only what is computed
    from the network's inputs counts: weights, constants and what is made of these alone may be there before.

    Args:
        model: The network that runs; its parameters and buffers are no activations.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._own = {tensor.untyped_storage()._cdata for tensor in tensors}
        self._live: dict[int, _Storage] = {}
        self._step = 0

    def begin(self, inputs: Iterable[Tensor]) -> None:
        """The inputs are there before the first step."""
        for tensor in inputs:
            self._write(tensor, None)

    def step(self, read: Iterable[Tensor], written: Iterable[Tensor], labels: WeakTensorKeyDictionary) -> None:
        """An operator or a layer has run.

        Args:
            read: What it was given.
            written: What it answered, or wrote into.
            labels: Of what it answered, as far as there are any.
        """
        self._step += 1
        used = [self._live.get(tensor.untyped_storage()._cdata) for tensor in read]
        if not any(used):
            return
        for storage in used:
            if storage is not None:
                storage.last = self._step
        for tensor in written:
            key = tensor.untyped_storage()._cdata
            if key in self._live:
                self._live[key].last = self._step
            elif key not in self._own:
                self._write(tensor, labels.get(tensor))

    def end(self, answers: Iterable[Tensor]) -> list[Activation]:
        """The answers are there to the end; everything that has lived."""
        for tensor in answers:
            storage = self._live.get(tensor.untyped_storage()._cdata)
            if storage is not None:
                storage.last = self._step
        return [Activation(one.first, one.last, one.atoms, one.sizes, one.fixed) for one in self._live.values()]

    def _write(self, tensor: Tensor, labels: Tensor | None) -> None:
        storage = tensor.untyped_storage()
        size = _FLOAT_BYTES if tensor.is_floating_point() else tensor.element_size()
        n_elements = storage.nbytes() // tensor.element_size()
        atoms, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if labels is not None and labels.numel() == n_elements:  # Else it is a part of something larger.
            atoms, counts = _counted(labels)
        fixed = (n_elements - int(counts.sum())) * size
        self._live[storage._cdata] = _Storage(
            StorageWeakRef(storage), self._step, self._step, atoms, counts * size, fixed
        )


def _counted(labels: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The atoms among labels, and how many elements each has."""
    strides = list(zip(labels.shape, labels.stride(), strict=True))
    repeats = math.prod(size for size, stride in strides if stride == 0)
    narrow = labels[tuple(slice(0, 1) if stride == 0 else slice(None) for _, stride in strides)]
    counts = torch.bincount(narrow.reshape(-1) - FIXED).numpy()
    atoms = np.flatnonzero(counts) + FIXED
    atoms = atoms[atoms != FIXED]
    return atoms, counts[atoms - FIXED] * repeats
