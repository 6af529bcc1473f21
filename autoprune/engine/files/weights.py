"""Weights on disk: safetensors, published whole, never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autoprune.errors import WeightsError

__all__ = ["load_into", "publish", "read_tensors", "sha256_of"]


def sha256_of(path: Path) -> str:
    """Hash of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> str:
    """Write tensors to ``path`` and their record beside it, as ``.json``; readers see all or nothing.

    The record appears last: where it is, the weights are whole.

    Args:
        path: Ends in ``.safetensors``.
        tensors: By name; made contiguous and moved to the CPU here.
        record: JSON-serialisable; ``sha256`` of the weights is added.

    Returns:
        The hash of the weights file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Copies, since tensors that share memory (one layer under two names) can't be saved as they are.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    data = save(copies)
    sha256 = hashlib.sha256(data).hexdigest()
    text = json.dumps({**record, "sha256": sha256}, indent=1, sort_keys=True)
    for target, content in ((path, data), (path.with_suffix(".json"), text.encode())):
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, target)
    return sha256


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a ``.pt`` file of plain tensors with ``weights_only=True``.

    Raises:
        WeightsError: There is no such file, it is damaged, or it is a pickle of more than tensors.
    """
    if not path.is_file():
        raise WeightsError(f"weights: there is no file {path}. Check the path.")
    try:
        if not zipfile.is_zipfile(path):
            with safe_open(str(path), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(
            f"weights: {path} must be a safetensors file, or a .pt file of plain tensors, but it is neither ({error}). "
            "Save a state_dict with safetensors.torch.save_file."
        ) from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"weights: {path} must hold plain tensors only, but it is a pickle of other objects, which can run code "
            "when loaded. Save its state_dict() instead, best with safetensors.torch.save_file."
        ) from error
    except Exception as error:  # torch.load raises whatever a damaged archive makes it stumble over.
        raise WeightsError(
            f"weights: {path} must be a whole .pt file, but can't be read ({type(error).__name__}). Copy it again."
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(f"weights: {path} must hold a flat state_dict, but holds a {type(state).__name__}.")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"weights: {path} must hold a flat state_dict, but its entry {name!r} is a {type(value).__name__}. "
                "Save the state_dict alone."
            )
    return state


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
        parts = [
            ("lacks " + ", ".join(missing[:3])) * bool(missing),
            ("has unknown " + ", ".join(extra[:3])) * bool(extra),
        ]
        problems = "; ".join(part for part in [*parts, *shapes[:3]] if part)
        raise WeightsError(f"weights: {source} must fit the network, but {problems}. Check architecture and n_classes.")
    model.load_state_dict({**own, **tensors})
