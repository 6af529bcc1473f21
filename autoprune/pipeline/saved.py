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
from autoprune.engine.asking import Forward, ask
from autoprune.engine.files import load_into, read_tensors, sha256_of
from autoprune.engine.plain import plain_weights
from autoprune.engine.surgery import cut
from autoprune.engine.tasks import KINDS, Task, core_of, example_from, whole_of
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, WeightsError, first_line
from autoprune.pipeline.probing import settle
from autoprune.pipeline.record_checks import check_record, require

__all__ = ["example_of", "exported_by", "forward_of", "layout_of", "load_beside_dense", "load_model", "read_record"]

_NEEDED = ("image_shape", "n_classes", "kept", "normalisation")
_NEEDED_OF_TASKS = ("task", "example", "kept")


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
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:  # TypeError: JSON, but not a table
        raise WeightsError(
            f"{path} must have its record {beside.name} beside it, but that can't be read ({first_line(error)}). "
            "Copy the two files together."
        ) from error
    if sha256_of(path) != expected:
        raise WeightsError(
            f"{path} must be the file that {beside.name} speaks of, but its hash is another. Copy both anew."
        )
    require(record, _NEEDED_OF_TASKS if "task" in record else _NEEDED, where=beside)
    check_record(record, where=str(beside))
    return record


def layout_of(record: Mapping[str, Any]) -> torch.memory_format:
    """The layout of weights and images that the network of a record was trained in; older ones know one alone."""
    is_plain = record.get("memory_format") == "contiguous_format"
    return torch.contiguous_format if is_plain else torch.channels_last


def example_of(record: Mapping[str, Any]) -> Any:
    """Inputs of the structure that the network of a record takes, a batch of one."""
    return torch.zeros(1, *record["image_shape"]) if "image_shape" in record else example_from(record["example"])


def forward_of(record: Mapping[str, Any], task: Task | None = None) -> Forward:
    """How the network of a record is run as far as it can be pruned.

    Args:
        record: Beside the network.
        task: The study's, where it runs networks in a way of its own.

    Raises:
        ConfigError: It does, and the task is not given.
    """
    told = record.get("task")
    return ask if told is None else core_of(KINDS[told["kind"]], _own_forward(told, task), told["submodule"])


def exported_by(
    record: Mapping[str, Any], model: nn.Module, inputs: Any, *, task: Task | None = None
) -> tuple[Any, Forward]:
    """Inputs of the network of a record as an exported file takes them, and what is exported: all that can be followed.

    Args:
        record: Beside the network.
        model: The network.
        inputs: As it takes them itself.
        task: See `forward_of`.
    """
    told = record.get("task")
    if told is None:
        return inputs, ask
    kind = KINDS[told["kind"]]
    if told["submodule"] is not None:
        return inputs, whole_of(kind, _own_forward(told, task))
    return kind.exported(model, inputs), forward_of(record, task)


def _own_forward(told: Mapping[str, Any], task: Task | None) -> Forward | None:
    if not told["has_forward"]:
        return None
    if task is None or task.forward is None:
        raise ConfigError(
            "this network's Task has a `forward` of its own, and a file is not allowed to choose what is imported. "
            "Pass the Task: load_model(path, factory=..., task=...)."
        )
    return task.forward


def load_model(path: Path | str, factory: Callable[[], nn.Module] | None = None, task: Task | None = None) -> nn.Module:
    """Rebuild a pruned network from its file.

    Args:
        path: The ``.safetensors`` file of a trial or an export; its ``.json`` record lies beside it.
        factory: Builds the dense network, where the study had a factory: a record can't make us import code.
        task: The study's, where it has one whose networks are run in a way of its own (`Task.forward`).

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        WeightsError: A file is missing, damaged or does not fit the network.
        ConfigError: The network came from a factory and ``factory`` is not given.
    """
    _, pruned = load_beside_dense(Path(path), factory, task)
    return pruned


def load_beside_dense(
    path: Path, factory: Callable[[], nn.Module] | None = None, task: Task | None = None
) -> tuple[nn.Module, nn.Module]:
    """The dense network that a pruned one was cut from, with fresh weights, and the pruned one; see `load_model`."""
    record, tensors = read_record(path), read_tensors(path)
    if factory is not None:
        dense = plain_weights(factory())
    elif record.get("architecture") is None:
        raise ConfigError(
            f"the network of {path.name} was built by the factory {record.get('factory')!r}, and a file is not allowed "
            "to choose what is imported. Pass that function: load_model(path, factory=...)."
        )
    else:
        channels = record["image_shape"][0]
        _check_classes(record["n_classes"], tensors, path)
        dense = architectures.build(record["architecture"], n_classes=record["n_classes"], in_channels=channels)
    example, forward = example_of(record), forward_of(record, task)
    settle(dense, example, forward=forward)
    traced = trace(dense.eval(), example, forward=forward)
    kept = {name: np.asarray(indices, dtype=np.int64) for name, indices in record["kept"].items()}
    for name in kept:
        traced.group(name)
    pruned = cut(dense, traced.groups, kept)
    load_into(pruned, tensors, source=str(path))
    return dense, pruned.eval()


def _check_classes(n_classes: int, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Refuse a number of classes that the weights do not have, before a network of so many is built."""
    if not any(tensor.ndim and tensor.shape[0] == n_classes for tensor in tensors.values()):
        raise WeightsError(
            f"{path} must hold the weights of {n_classes} classes, as its record says, but no tensor in it has so many "
            "rows. Copy the two files together."
        )
