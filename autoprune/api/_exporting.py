"""Networks of a study's trials, loaded and written for elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.api._cards import Exported, Int8, card_of, index_of
from autoprune.api._places import network_path
from autoprune.api._planning import identity_of
from autoprune.api._reading import Study, open_study
from autoprune.config import seed_of
from autoprune.engine.asking import drawn_like, repeated
from autoprune.engine.files import ENDINGS, OnnxNetwork, export, round_to_int8
from autoprune.engine.tasks import Task
from autoprune.errors import ConfigError, IdentityError
from autoprune.importing import call_factory
from autoprune.pipeline import example_of, exported_by, open_workbench, read_record
from autoprune.pipeline import load_model as load
from autoprune.search.front import source_of

__all__ = [
    "Exported",
    "best_trial",
    "export_front",
    "export_trial",
    "factory_of",
    "load_model",
    "task_of",
    "weights_of",
]

_CALIBRATION_IMAGES = 512


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
    return _weights_in(study, study.trial(number))


def _weights_in(study: Study, facts: Mapping[str, Any]) -> Path:
    if "weights" not in facts:
        raise ConfigError(
            f"trial {facts['trial']} of study {study.name!r} must have finished to have a network, but it is "
            f"{facts['state']}. "
            f"`autoprune pareto {study.name}` shows trials that have one."
        )
    return network_path(study, facts["weights"])


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


def best_trial(name: str, *, under: str | None = None, storage: str | None = None) -> int:
    """The number of the trial with the best score, within the study's constraints.

    Args:
        name: The study.
        under: Only among trials that satisfy this, such as ``"macs_ratio <= 0.5"``; see `Study.front`.
        storage: Database URL.

    Raises:
        ConfigError: No finished trial satisfies it, or it can't be read.
    """
    study = open_study(name, storage)
    front = study.front(where=under, sort=study.metric.name)
    if front.empty:
        raise ConfigError(_none_there(study, under))
    return int(front["number"].iloc[0])


def _none_there(study: Study, where: str | None) -> str:
    what = f" {where!r}" if where is not None else " the study's [constraints]"
    return (
        f"a finished trial of study {study.name!r} must satisfy{what}, but none does. "
        f"`autoprune pareto {study.name}` shows what there is."
    )


def export_trial(name: str, number: int, to: Path | str, *, int8: bool = False, storage: str | None = None) -> Exported:
    """Write the network of one trial to a file: ``.safetensors``, ``.pt2``, ``.onnx`` or ``.py``; its card beside it.

    Args:
        name: The study.
        number: The trial.
        to: The file. A ``.py`` file has its weights in a ``.pt`` file beside it.
        int8: Whether numbers are rounded to 8 bits; only ``.onnx`` files can be. The study's data is read for it.
        storage: Database URL.

    Raises:
        ConfigError: Another ending, a trial without a network, or one that can't be written so.
        TrialError: The written file answers otherwise than the network.
    """
    target = Path(to)
    _check_ending(target, str(to), int8=int8)
    study = open_study(name, storage)
    return _exported(study, study.trial(number), target, int8=int8)


def export_front(
    name: str,
    to: Path | str,
    *,
    ending: str = ".safetensors",
    where: str | None = None,
    int8: bool = False,
    storage: str | None = None,
) -> list[Exported]:
    """Write every network of the front to a folder, each with its card, and ``index.md`` over all of them.

    Args:
        name: The study.
        to: The folder.
        ending: Of the files; see `export_trial`.
        where: Only the front among trials that satisfy this; see `Study.front`.
        int8: See `export_trial`.
        storage: Database URL.

    Returns:
        What was written, in the order of the front.

    Raises:
        ConfigError: There is no front, or `export_trial` refuses.
    """
    folder = Path(to)
    _check_ending(folder / f"network{ending}", ending, int8=int8)
    study = open_study(name, storage)
    front = study.front(where=where)
    if front.empty:
        raise ConfigError(_none_there(study, where))
    networks = {source_of(row): int(row["number"]) for _, row in front.iterrows()}  # Each network once.
    facts = [study.trial(number) for number in networks.values()]
    done = [_exported(study, each, folder / f"trial-{each['trial']:05d}{ending}", int8=int8) for each in facts]
    (folder / "index.md").write_text(index_of(study, list(zip(facts, done, strict=True))))
    return done


def _check_ending(target: Path, given: str, *, int8: bool) -> None:
    if target.suffix not in ENDINGS:
        raise ConfigError(f"`--to` must end in {', '.join(ENDINGS)}, but got {given!r}.")
    if int8 and target.suffix != ".onnx":
        raise ConfigError(f"`--int8` is for .onnx files, but got {given!r}. Export with --int8 to .onnx.")


def _exported(study: Study, facts: Mapping[str, Any], target: Path, *, int8: bool) -> Exported:
    source, number = _weights_in(study, facts), facts["trial"]
    record: dict[str, Any] = read_record(source)
    difference, rounded = None, None
    if target.suffix == ".safetensors":
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.with_suffix(".json").write_text(json.dumps(record, indent=1, sort_keys=True))
    else:
        task = task_of(study)
        model = load(source, factory_of(study), task)
        inputs = drawn_like(repeated(example_of(record), 4), torch.Generator().manual_seed(0))
        inputs, forward = exported_by(record, model, inputs, task=task)
        about = f"{record.get('architecture') or record.get('factory')}, pruned: trial {number} of study {study.name}."
        difference = export(model, inputs, target, forward=forward, about=_plain_text(about))
        if int8:
            rounded, difference = _rounded(study, model, target), None
    scale = record.get("normalisation", {"mean": [], "std": []})
    size = target.stat().st_size + (target.with_suffix(".pt").stat().st_size if target.suffix == ".py" else 0)
    card = target.with_suffix(".md")
    done = Exported(target, size, scale["mean"], scale["std"], difference, number, rounded, card)
    card.write_text(card_of(study, facts, record, done=done))
    return done


def _rounded(study: Study, model: nn.Module, path: Path) -> Int8:
    """Round an exported file to 8 bits, and score it on the validation split."""
    config = study.config
    if config.setting.data is None:
        raise ConfigError(
            "`--int8` is for studies of images ([data]), whose training images calibrate it, but this one has a task "
            "of its own. Export without it."
        )
    workbench = open_workbench(config.setting)
    if differing := study.handle.differences(identity_of(config, workbench)):
        raise IdentityError(
            f"study {study.name!r} must be calibrated with what it was made of, but {differing}. Put the old "
            "files back."
        )
    n_images = min(_CALIBRATION_IMAGES, workbench.work.n_examples)
    samples = workbench.work.samples(n_images, seed=seed_of("int8", config.setting.seed))
    round_to_int8(path, (inputs for inputs, _ in samples))
    float_score = workbench.work.score(model.to(workbench.runtime.device))
    return Int8(workbench.work.score(OnnxNetwork(path)), n_images, float_score)


def _plain_text(text: str) -> str:
    """A name as it may stand in a docstring."""
    return text.replace("\\", "/").replace('"', "'")
