"""Weights on disk: safetensors, published whole; and loaded into a network, all of them or none."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from autoprune import durable
from autoprune.errors import WeightsError

__all__ = ["keep_weights", "load_into", "publish", "sha256_of", "write_tensors"]

_NAMED = 3  # Of all that does not fit.


def sha256_of(path: Path) -> str:
    """Hash of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """Write tensors to ``path`` and their record beside it, as ``.json``; readers see all or nothing.

    The record appears last: where it is, the weights are whole. Both survive a power loss once this has returned.

    Args:
        path: Ends in ``.safetensors``.
        tensors: By name; made contiguous and moved to the CPU here.
        record: JSON-serialisable; ``sha256`` of the weights is added.

    Returns:
        The hash of the weights file.
    """
    durable.make_folder(path.parent)
    data = _serialised(tensors)
    sha256 = hashlib.sha256(data).hexdigest()
    text = json.dumps({**record, "sha256": sha256}, indent=1, sort_keys=True)
    _write({path: data, path.with_suffix(".json"): text.encode()})
    return sha256


def keep_weights(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write tensors, without a record, to a file that is named by their hash; what is there already stays.

    Args:
        folder: Made where it is not there.
        tensors: By name.
    """
    data = _serialised(tensors)
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    if not path.exists():
        durable.make_folder(folder)
        _write({path: data})
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, signed: bool) -> None:
    """Write tensors to a file that appears whole.

    Args:
        path: Of the file; its folder is made where it is not there.
        tensors: By name.
        signed: Whether their hash follows, 32 bytes.
    """
    data = _serialised(tensors)
    durable.make_folder(path.parent)
    _write({path: data + hashlib.sha256(data).digest() if signed else data})


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    # Copies, since tensors that share memory (one layer under two names) can't be saved as they are.
    data: bytes = save(
        {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    )
    return data


def _write(contents: Mapping[Path, bytes]) -> None:
    """Write files that appear whole, in this order."""
    files = {target: target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp") for target in contents}
    for target, content in contents.items():
        files[target].write_bytes(content)
    durable.replace(*((file, target) for target, file in files.items()))


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Load tensors into ``model``, all of them and nothing else.

    Raises:
        WeightsError: A tensor is missing, unexpected or of another shape; the first few are named.
    """
    own = model.state_dict()
    # BatchNorm's batch counter is bookkeeping that some exporters drop.
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    extra = [name for name in tensors if name not in own]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if missing or extra or shapes:
        parts = [("lacks ", missing), ("has unknown ", extra), ("", shapes)]
        problems = "; ".join(start + _first_of(names) for start, names in parts if names)
        raise WeightsError(f"weights: {source} must fit the network, but {problems}. Check architecture and n_classes.")
    model.load_state_dict({**own, **tensors})


def _first_of(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
