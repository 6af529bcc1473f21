"""A commented study file for a given network, data and time."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.api._planning import Inspection, inspection_of, load_study
from autoprune.config import duration_text, seconds_of
from autoprune.engine.images import find_data
from autoprune.engine.tasks import KINDS, Task
from autoprune.engine.training import default_device
from autoprune.errors import AutopruneError, ConfigError
from autoprune.importing import call_factory
from autoprune.pipeline import Workbench, calibrate, open_workbench, score_by_chance

__all__ = ["DensePlan", "Initialised", "dense_plan", "init"]

_DENSE_EPOCHS = 30
_DENSE_SHARE = 0.25  # Of the time, at most, for the dense network: its training ends before the first trial begins.
_LEAST_FOR_FLIPS = 16  # Smaller images are digits and the like, which mean something else the other way round.


@dataclass(frozen=True)
class Initialised:
    """A study file that was written.

    Args:
        path: Where it is.
        inspection: What tracing its network found.
        command: What launches it.
        notes: What it will not do well, a sentence each.
    """

    path: Path
    inspection: Inspection
    command: str
    notes: tuple[str, ...] = ()


def init(
    to: Path | str,
    *,
    network: str,
    data: str | None = None,
    task: str | None = None,
    weights: str | None = None,
    time_limit: str | None = None,
    name: str | None = None,
) -> Initialised:
    """Write a study file in which all is filled in that can be found out; an existing file is never overwritten.

    Args:
        to: The file to write, ``.toml``; its folder is where relative paths in it start.
        network: A built-in architecture, ``torchvision/<name>``, or a factory ``package.module:function``.
        data: A folder of images, a Parquet file or a folder of such files, or ``digits``; see `find_data`.
        task: In place of data a factory that returns an `autoprune.Task`.
        weights: The network's trained weights; without them the study trains it first.
        time_limit: How long the search may take, such as ``"15m"``.
        name: Of the study; by default that of the file.

    Raises:
        ConfigError: ``to`` is there already or is no ``.toml`` file, or an argument is wrong.
        DataError: The data can't be read, or the task is not what it must be.
        NetworkError: The network can't be traced, scored or trained.
    """
    file = Path(to)
    if file.suffix != ".toml":
        raise ConfigError(f"a study must be a .toml file, but got {str(to)!r}. Name it for example study.toml.")
    if file.exists():
        raise ConfigError(f"{file} must not be there yet, but is. Choose another name, or move it away.")
    if (data is None) == (task is None):
        raise ConfigError("a study needs either data, labelled images, or a task of your own. Give one of the two.")
    seconds = None if time_limit is None else seconds_of(time_limit)
    said = None if task is None else _task(task)
    try:
        draft = _Draft(file, name or file.stem, network, time_limit, _data(data, file), task, said, weights)
        workbench = _workbench(draft.text(worst=1.0), file)
        worst = None
        if workbench.setting.task.metric_direction == "minimize":
            worst = float(f"{score_by_chance(workbench.setting):.3g}")
        found = inspection_of(workbench, workbench.setting)
        plan = DensePlan()
        if seconds is not None and weights is None:
            plan = dense_plan(seconds=seconds, epoch_s=_epoch_s(workbench))
        text = draft.text(worst=worst, inspection=found, dense=plan)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise ConfigError(f"{file} can't be written: {error.strerror}.") from None
    return Initialised(file, found, draft.command, notes=plan.notes)


@dataclass(frozen=True)
class DensePlan:
    """How long the dense network is trained, why, and what of it is worth a warning."""

    epochs: int = _DENSE_EPOCHS
    why: str = ""
    notes: tuple[str, ...] = ()


def _epoch_s(workbench: Workbench) -> float:
    """Seconds of an epoch of the dense network on this machine, measured for a moment."""
    measured = calibrate(workbench.setting)
    return workbench.work.n_examples * (measured["base_s"] + measured["macs_s"])


def dense_plan(*, seconds: float, epoch_s: float) -> DensePlan:
    """The dense network's epochs in a search of so many seconds, most of which belongs to the trials."""
    fitting = int(_DENSE_SHARE * seconds / epoch_s)
    if fitting >= _DENSE_EPOCHS:
        return DensePlan()
    told = duration_text(epoch_s)
    if fitting >= 1:
        why = f" # of about {told} each here, so that most of {duration_text(seconds)} is left for trials"
        return DensePlan(fitting, why)
    note = (
        f"an epoch of the dense network takes about {told} here, which leaves little of {duration_text(seconds)} for "
        "trials. Give its trained `--weights`, or more time."
    )
    return DensePlan(1, f" # of about {told} here", (note,))


def _workbench(text: str, file: Path) -> Workbench:
    """Open what a text says, which is tried under another name beside its place."""
    trial = file.with_name(f".{os.getpid()}.{file.name}")
    trial.write_text(text, encoding="utf-8")
    try:
        return open_workbench(load_study(trial).setting)
    except AutopruneError as error:
        raise type(error)(str(error).replace(f"{trial}: ", "").replace(str(trial), str(file))) from error
    finally:
        trial.unlink(missing_ok=True)


def _task(name: str) -> Task:
    said = call_factory(name, key="task.factory")
    if not isinstance(said, Task):
        raise ConfigError(f"{name!r} must return an autoprune.Task, but returned {type(said).__name__}.")
    return said


def _data(data: str | None, file: Path) -> dict[str, Any]:
    if data is None or data == "digits":
        return {} if data is None else {"source": "digits"}
    folder = file.resolve().parent
    found = find_data(Path(data))
    paths = {key: os.path.relpath(found[key], folder) for key in ("train", "validation", "test") if key in found}
    return {**found, **{key: path if path.startswith(".") else f"./{path}" for key, path in paths.items()}}


@dataclass(frozen=True)
class _Draft:
    file: Path
    name: str
    network: str
    time_limit: str | None
    data: dict[str, Any]
    factory: str | None
    task: Task | None  # What the factory returns.
    weights: str | None

    @property
    def command(self) -> str:
        limit = "" if self.time_limit is None else f" --time-limit {self.time_limit}"
        return f"autoprune launch {self.file}{limit}"

    def text(
        self, *, worst: float | None = None, inspection: Inspection | None = None, dense: DensePlan | None = None
    ) -> str:
        """The study file; with what tracing found where that is known."""
        data, task, weights, dense = self.data, self.task, self.weights, dense or DensePlan()
        kind = "factory" if ":" in self.network else "architecture"
        is_small = data.get("source") == "digits" or data.get("image_size", 32) < _LEAST_FOR_FLIPS
        augmentation = "none" if task is not None else "shift" if is_small else "crop_flip"
        lines = ["# Written by `autoprune init`; everything may be changed. Start it with", f"#     {self.command}"]
        if inspection is not None:
            lines += [
                f"# {inspection.network}: {inspection.macs:,} MACs, {inspection.params:,} parameters.",
                f"# {len(inspection.groups)} channel groups reach {inspection.least_macs_ratio:.4f} of the MACs.",
            ]
        lines += ["[study]", f"name = {json.dumps(self.name)}"]
        if self.time_limit is None:
            lines += ["n_trials = 60 # more where there is time: `autoprune resume` goes on"]
        lines += self._scoring(worst)
        lines += ["", "[network]", f"{kind} = {json.dumps(self.network)}"]
        if weights is not None:
            path = os.path.relpath(weights, self.file.resolve().parent)
            lines += [f"weights = {json.dumps(path)}"]
        lines += ['# exclude = ["layer"] # layers that keep all of their channels', "# multiple = 8"]
        if data:
            lines += ["", "[data]", *(f"{key} = {json.dumps(value)}" for key, value in data.items())]
            if "validation" not in data:
                lines += ['validation = "random:0.1" # held out of the training images, to score the search']
        if weights is None:
            lines += [
                "", "[train.dense] # there are no weights, so the network is trained first",
                f"epochs = {dense.epochs}{dense.why}",
                *self._recipe(times=5), f'augmentation = "{augmentation}"',
            ]  # fmt: skip
        lines += [
            "", "[train.sparsify] # what methods that train do before channels are removed", "epochs = 3",
            *self._recipe(), f'augmentation = "{augmentation}"',
            "", "[train.finetune] # pruned networks; under a time limit the search plans the lengths itself",
            "epochs = 3", *self._recipe(), f'augmentation = "{augmentation}"',
        ]  # fmt: skip
        if task is None or task.teaches:
            lines += ["distill = { weight = 0.5 } # learn from the dense network as well"]
        if default_device().type != "cpu":
            lines += ["", "[resources]", "gpu = 1.0 # of one trial; 0.5 lets two share one"]
        return "\n".join([*lines, ""])

    def _scoring(self, worst: float | None) -> list[str]:
        """The end of [study], and [task]."""
        if self.task is None:
            return []
        said, lines = self.task, []
        if said.score_direction == "minimize":
            point = f"{{ {said.score_name} = {worst or 1.0:g}, macs_ratio = 1.0 }}"
            lines += [f"reference_point = {point} # the score of the network with weights of chance"]
        lines += ["", "[task]", f"kind = {json.dumps(said.kind)}", f"factory = {json.dumps(self.factory)}"]
        if said.metric_name is not None:
            lines += [f"metric = {json.dumps(said.score_name)}", f"direction = {json.dumps(said.score_direction)}"]
        return lines

    def _recipe(self, *, times: int = 1) -> list[str]:
        """Optimizer and learning rate of the kind of task; of SGD a rate that many times as high."""
        recipe = KINDS["classification" if self.task is None else self.task.kind].recipe
        if recipe.optimizer != "sgd":
            return [f'optimizer = "{recipe.optimizer}"', f"learning_rate = {recipe.learning_rate:g}"]
        return [f"learning_rate = {times * recipe.learning_rate:g}"]
