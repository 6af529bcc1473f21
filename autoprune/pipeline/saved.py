"""Pruned networks back from disk: a safetensors file and the JSON record beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune import architectures
from autoprune.engine.files import load_into, read_tensors, sha256_of
from autoprune.engine.plain import plain_weights
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, WeightsError
from autoprune.pipeline.probing import settle

__all__ = ["layout_of", "load_beside_dense", "load_model", "read_record"]

_NEEDED = ("image_shape", "n_classes", "kept", "normalisation")


def read_record(path: Path) -> dict[str, Any]:
    """The JSON record of a saved network.

    Args:
        path: Its ``.safetensors`` file.

    Raises:
        WeightsError: There is no record, or the weights are not those that it speaks of.
    """
    beside = path.with_suffix(".json")
    if not path.is_file():
        advice = "Check the path."
        if beside.is_file():
            advice = (
                "Its record is still there: retention has dropped the network, because other trials beat it. Take a "
                'trial of the front (`autoprune pareto`), or keep all from now on with [retention] networks = "all".'
            )
        raise WeightsError(f"a saved network must be there, but there is no file {path}. {advice}")
    try:
        record: dict[str, Any] = json.loads(beside.read_text())
        expected = record["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:  # TypeError: JSON, but not a table
        raise WeightsError(
            f"{path} must have its record {beside.name} beside it, but that can't be read ({error}). "
            "Copy the two files together."
        ) from error
    if sha256_of(path) != expected:
        raise WeightsError(
            f"{path} must be the file that {beside.name} speaks of, but its hash is another. Copy both anew."
        )
    lacking = [key for key in _NEEDED if record.get(key) is None]
    if lacking:
        raise WeightsError(
            f"{beside} must hold {', '.join(_NEEDED)}, but lacks {', '.join(lacking)}. "
            "Take the record that the trial wrote."
        )
    return record


def layout_of(record: Mapping[str, Any]) -> torch.memory_format:
    """The layout of weights and images that the network of a record was trained in; older ones know one alone."""
    is_plain = record.get("memory_format") == "contiguous_format"
    return torch.contiguous_format if is_plain else torch.channels_last


def load_model(path: Path | str, factory: Callable[[], nn.Module] | None = None) -> nn.Module:
    """Rebuild a pruned network from its file.

    Args:
        path: The ``.safetensors`` file of a trial or an export; its ``.json`` record lies beside it.
        factory: Builds the dense network, where the study had a factory: a record can't make us import code.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        WeightsError: A file is missing, damaged or does not fit the network.
        ConfigError: The network came from a factory and ``factory`` is not given.
    """
    _, pruned = load_beside_dense(Path(path), factory)
    return pruned


def load_beside_dense(path: Path, factory: Callable[[], nn.Module] | None = None) -> tuple[nn.Module, nn.Module]:
    """The dense network that a pruned one was cut from, with fresh weights, and the pruned one; see `load_model`."""
    record = read_record(path)
    if factory is not None:
        dense = plain_weights(factory())
    elif record.get("architecture") is None:
        raise ConfigError(
            f"the network of {path.name} was built by the factory {record.get('factory')!r}, and a file is not allowed "
            "to choose what is imported. Pass that function: load_model(path, factory=...)."
        )
    else:
        channels = record["image_shape"][0]
        dense = architectures.build(record["architecture"], n_classes=record["n_classes"], in_channels=channels)
    example = torch.zeros(1, *record["image_shape"])
    settle(dense, example)
    traced = trace(dense.eval(), example)
    kept = {name: np.asarray(indices, dtype=np.int64) for name, indices in record["kept"].items()}
    for name in kept:
        traced.group(name)
    pruned = cut(dense, traced.groups, kept)
    load_into(pruned, read_tensors(path), source=str(path))
    return dense, pruned.eval()
