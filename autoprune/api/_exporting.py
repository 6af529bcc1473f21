"""Networks of a study's trials, loaded and written for elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.api._reading import Study, open_study
from autoprune.engine.asking import drawn_like, repeated
from autoprune.engine.files import ENDINGS, export
from autoprune.engine.tasks import Task
from autoprune.errors import ConfigError
from autoprune.importing import call_factory
from autoprune.pipeline import example_of, exported_by, read_record
from autoprune.pipeline import load_model as load

__all__ = ["Exported", "export_trial", "factory_of", "load_model", "task_of", "weights_of"]


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: Where it is.
        size_bytes: Its size.
        mean: Per image channel, to be subtracted from ``uint8 / 255``; empty where a task of one's own has its inputs
            ready.
        std: Per image channel, to divide by afterwards; empty likewise.
        difference: Largest difference from the network's logits as a share of the largest, where it was run.
    """

    path: Path
    size_bytes: int
    mean: list[float]
    std: list[float]
    difference: float | None


def load_model(path: Path | str, factory: Callable[[], nn.Module] | None = None, task: Task | None = None) -> nn.Module:
    """Rebuild a pruned network from its ``.safetensors`` file and the record beside it.

    Args:
        path: The file of a trial or an export.
        factory: Builds the dense network, where the study had a factory of its own.
        task: The study's Task, where it has a `forward` of its own.

    Returns:
        The network on the CPU, in evaluation mode.

    Raises:
        WeightsError: A file is missing, damaged or does not fit.
        ConfigError: The network came from a factory and none is given.
    """
    return load(path, factory, task)


def weights_of(study: Study, number: int) -> Path:
    """The file of a trial's network.

    Raises:
        ConfigError: There is no such trial, or it has no network.
    """
    facts = study.trial(number)
    if "weights" not in facts:
        raise ConfigError(
            f"trial {number} of study {study.name!r} must have finished to have a network, but it is {facts['state']}. "
            f"`autoprune pareto {study.name}` shows trials that have one."
        )
    return Path(facts["weights"])


def factory_of(study: Study) -> Callable[[], nn.Module] | None:
    """The network factory that the study's own file named, or None where the network is built in."""
    name = study.config.setting.network.factory
    return None if name is None else lambda: call_factory(name, key="network.factory")


def task_of(study: Study) -> Task | None:
    """The Task that the study's own file named, or None where it has the images of [data]."""
    name = study.config.setting.task.factory
    if name is None:
        return None
    task: Task = call_factory(name, key="task.factory")
    return task


def export_trial(name: str, number: int, to: Path | str, *, storage: str | None = None) -> Exported:
    """Write the network of one trial to a file: ``.safetensors``, ``.pt2`` or ``.onnx``.

    Raises:
        ConfigError: Another ending, or a trial without a network.
        TrialError: The written file answers otherwise than the network.
    """
    target = Path(to)
    if target.suffix not in ENDINGS:
        raise ConfigError(f"`--to` must end in {', '.join(ENDINGS)}, but got {str(to)!r}.")
    study = open_study(name, storage)
    source = weights_of(study, number)
    record: dict[str, Any] = read_record(source)
    difference = None
    if target.suffix == ".safetensors":
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.with_suffix(".json").write_text(json.dumps(record, indent=1, sort_keys=True))
    else:
        task = task_of(study)
        model = load(source, factory_of(study), task)
        inputs = drawn_like(repeated(example_of(record), 4), torch.Generator().manual_seed(0))
        inputs, forward = exported_by(record, model, inputs, task=task)
        difference = export(model, inputs, target, forward=forward)
    scale = record.get("normalisation", {"mean": [], "std": []})
    return Exported(target, target.stat().st_size, scale["mean"], scale["std"], difference)
