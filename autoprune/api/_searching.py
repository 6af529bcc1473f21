"""A study without a file: a network and a task that are at hand in Python."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
from torch import nn

from autoprune import durable, methods
from autoprune.api._progress import Progress
from autoprune.api._reading import Study
from autoprune.api._running import launch
from autoprune.config import (
    AS_MANY_AS_FIT,
    DistillSpec,
    LoggersConfig,
    ResourcesConfig,
    SearchConfig,
    SettingSpec,
    SpaceConfig,
    StudyConfig,
    TrainSpec,
    named_space,
    read,
    seconds_of,
)
from autoprune.engine.files import keep_weights
from autoprune.engine.tasks import KINDS, Task
from autoprune.errors import ConfigError, unknown_name
from autoprune.importing import call_factory, given_name
from autoprune.pipeline import score_by_chance

__all__ = ["search"]

Tables = Mapping[str, Mapping[str, Any]]

_TABLES = ("study", "network", "engine", "resources", "loggers")


def search(
    model: nn.Module | Callable[[], nn.Module] | str,
    task: Task | Callable[[], Task] | str,
    *,
    time_limit: str | float | None = None,
    n_trials: int | None = None,
    name: str = "search",
    space: SpaceConfig | str = "any",
    finetune: TrainSpec | None = None,
    dense: TrainSpec | None = None,
    tables: Tables | None = None,
    storage: str | None = None,
    address: str | None = None,
    progress: Progress | None = None,
) -> Study:
    """Search the best widths of a network for a task; what `launch` does with a file, without one.

    Network and task are kept beside the study's networks, so that workers have them, and the study can be resumed by
    its name. What holds much data is better given as a function that opens it.

    Args:
        model: The network with its trained weights; a function that builds it, or the name of one,
            ``"package.module:function"``. With ``dense`` the study trains it first.
        task: What it is for, likewise.
        time_limit: How long to search, such as ``"15m"``, or seconds. It or ``n_trials`` must be given.
        n_trials: How many trials must finish.
        name: Of the study.
        space: The search space, or the name of one that comes with autoprune.
        finetune: How pruned networks are trained; by default with the network as it was as a teacher, where the kind of
            task knows what is learnt from one.
        dense: How the network is trained first; None: it is trained already.
        tables: Further keys by the tables of a study file, ``{"study": ..., "network": ..., "engine": ...}``.
        storage: Database URL; see `storage_url`.
        address: A Ray cluster; None starts one on this machine.
        progress: Told what happens.

    Returns:
        The study; `Study.front` is what it found.

    Raises:
        AutopruneError: An argument is wrong, or what `launch` raises.
    """
    if time_limit is None and n_trials is None:
        raise ConfigError('a search must know when to end, by `time_limit`, such as "15m", or by `n_trials`. Give one.')
    kept = _Kept(model, task, tables or {})
    setting = kept.setting(finetune=finetune, dense=dense)
    found = named_space(space, methods.catalogue()) if isinstance(space, str) else space
    config = StudyConfig(
        study=kept.study(setting, name=name, n_trials=n_trials or AS_MANY_AS_FIT),
        setting=setting,
        space=found,
        resources=read(ResourcesConfig, kept.table("resources"), where="tables: [resources]"),
        loggers=read(LoggersConfig, kept.table("loggers"), where="tables: [loggers]"),
    )
    limit_s = seconds_of(time_limit) if isinstance(time_limit, str) else time_limit
    return launch(config, time_limit_s=limit_s, storage=storage, address=address, progress=progress).study


@dataclass(frozen=True, eq=False)
class _Kept:
    """What was given, as parts of a configuration."""

    model: Any
    task: Any
    tables: Tables

    def table(self, name: str) -> dict[str, Any]:
        """Further keys of a table."""
        if unknown := [key for key in self.tables if key not in _TABLES]:
            raise ConfigError(f"`tables`: {unknown_name('table', unknown[0], _TABLES)}")
        return dict(self.tables.get(name, {}))

    def setting(self, *, finetune: TrainSpec | None, dense: TrainSpec | None) -> SettingSpec:
        engine = {"artifacts": str(Path.cwd() / "autoprune_artifacts"), **self.table("engine")}
        folder, task = Path(engine["artifacts"]) / "given", _called(self.task)
        weights = {} if dense is not None else {"weights": str(keep_weights(folder, _called(self.model).state_dict()))}
        network = {"factory": _named(self.model, folder), **weights, **self.table("network")}
        said = {"kind": task.kind, "metric": task.score_name, "direction": task.score_direction}
        teacher = DistillSpec(weight=0.5) if task.teaches else None
        finetune = finetune or dataclasses.replace(KINDS[task.kind].recipe, distill=teacher)
        parts = {
            "network": network,
            "task": {**said, "factory": _named(self.task, folder)},
            "dense": dense or TrainSpec(),
            "sparsify": finetune,
            "finetune": finetune,
            **engine,
        }
        return read(SettingSpec, parts, where="tables")

    def study(self, setting: SettingSpec, *, name: str, n_trials: int) -> SearchConfig:
        metric, direction = setting.task.metric_name, setting.task.metric_direction
        keys = {"name": name, "n_trials": n_trials, "metric": metric, "direction": direction, **self.table("study")}
        if direction == "minimize" and "reference_point" not in keys:
            keys["reference_point"] = {metric: score_by_chance(setting), "macs_ratio": 1.0, "params_ratio": 1.0}
        return read(SearchConfig, keys, where="tables: [study]")


def _called(given: Any) -> Any:
    """The object itself, of what may be a function that makes it or the name of one."""
    if isinstance(given, str):
        return call_factory(given, key="search")
    return given if isinstance(given, nn.Module | Task) else given()


def _named(given: Any, folder: Path) -> str:
    """What stands for an object in a configuration; it is kept in a file unless it has a name of its own."""
    if isinstance(given, str):
        return given
    content = cloudpickle.dumps(given if isinstance(given, nn.Module | Task) else _Made(given))
    sha256 = hashlib.sha256(content).hexdigest()
    durable.make_folder(folder)
    path = folder / f"{sha256[:16]}.pkl"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content)
        durable.replace((temporary, path))
    return given_name(path, sha256)


class _Made:
    """Reads back as what a function makes."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self._make,)


def _made(make: Callable[[], Any]) -> Any:
    return make()
