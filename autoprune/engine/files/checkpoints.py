"""Trainings under way on disk: one file each, replaced as a whole, which tells whether it is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from autoprune.engine.files.weights import write_tensors

__all__ = ["keep_checkpoint", "read_checkpoint"]

_TOLD = "told"
_DIGEST_BYTES = 32


def keep_checkpoint(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> None:
    """Write a checkpoint over the one before.

    Args:
        path: Of the file: safetensors, and behind it a hash of all that.
        tensors: By name.
        told: What else is needed to go on, JSON-serialisable.
    """
    text = torch.frombuffer(bytearray(json.dumps(dict(told)).encode()), dtype=torch.uint8)
    write_tensors(path, {**tensors, _TOLD: text}, signed=True)


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `keep_checkpoint` has written; None where there is none, or it is damaged: then all is computed anew."""
    try:
        content = path.read_bytes()
        data, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(data).digest() != digest:
            return None
        tensors = load(data)
        told: dict[str, Any] = json.loads(bytes(tensors.pop(_TOLD).tolist()))
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return tensors, told
