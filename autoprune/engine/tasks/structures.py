"""The structure of a network's inputs, told as plain data and compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from autoprune.engine.asking import size_of, tensors_of
from autoprune.errors import DataError

__all__ = ["check_alike", "example_from", "structure_of"]


def structure_of(inputs: Any) -> Any:
    """Shapes and types of tensors in nested containers, JSON-serialisable; see `example_from`."""
    if isinstance(inputs, Tensor):
        return {"shape": list(inputs.shape), "dtype": str(inputs.dtype).removeprefix("torch.")}
    if isinstance(inputs, Mapping):
        return {"mapping": {str(key): structure_of(value) for key, value in inputs.items()}}
    if isinstance(inputs, tuple):
        return {"tuple": [structure_of(value) for value in inputs]}
    if isinstance(inputs, list):
        return {"list": [structure_of(value) for value in inputs]}
    return {"value": inputs if isinstance(inputs, bool | int | float | str | type(None)) else None}


def example_from(structure: Mapping[str, Any]) -> Any:
    """Zeros of the structure that `structure_of` told."""
    if "shape" in structure:
        return torch.zeros(structure["shape"], dtype=getattr(torch, structure["dtype"]))
    if "mapping" in structure:
        return {key: example_from(value) for key, value in structure["mapping"].items()}
    if "tuple" in structure:
        return tuple(example_from(value) for value in structure["tuple"])
    if "list" in structure:
        return [example_from(value) for value in structure["list"]]
    return structure["value"]


def check_alike(inputs: Any, example: Any, *, name: str) -> None:
    """Refuse batches whose inputs are not like the example.

    Args:
        inputs: Of a batch.
        example: What the network is traced on.
        name: Of the loader, for people.

    Raises:
        DataError: Another structure, or tensors of another shape beyond the first axis.
    """
    if isinstance(example, list):  # Images of any sizes.
        if isinstance(inputs, list):
            return
        raise DataError(f"Task: `{name}` must give lists of images, as `example_inputs` is one. Collate them so.")
    found, expected = ([tuple(t.shape[1:]) for t in tensors_of(each)] for each in (inputs, example))
    if found != expected or size_of(inputs) < 1:
        raise DataError(
            f"Task: `{name}` must give inputs of the shapes of `example_inputs`, {_told(expected)} beyond the batch, "
            f"but gave {_told(found)}. Bring examples to one size, or correct `example_inputs`."
        )


def _told(shapes: Iterable[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes)) or "no tensor"
