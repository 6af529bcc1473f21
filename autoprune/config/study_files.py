"""Study files: TOML, checked once, resolved into what the database keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.config.durations import seconds_of
from autoprune.config.fields import check, option, read
from autoprune.config.loggers import LoggersConfig
from autoprune.config.metrics import COSTS, DIRECTIONS, Metric, check_metric_name
from autoprune.config.recipes import TrainSpec, check_dense
from autoprune.config.space_files import Catalogue, SpaceConfig, absolute, find_space, read_toml, stock_spaces, table_of
from autoprune.config.spec import DataSpec, EngineSpec, NetworkSpec, SettingSpec
from autoprune.config.tasks import TaskSpec
from autoprune.errors import ConfigError, unknown_name
from autoprune.importing import is_given

__all__ = [
    "AS_MANY_AS_FIT",
    "SAMPLERS",
    "ConstraintsConfig",
    "ResourcesConfig",
    "RetentionConfig",
    "SearchConfig",
    "SpaceConfig",
    "StudyConfig",
    "load_setting",
    "load_study",
    "names_its_trials",
    "read_stored",
    "resolved",
    "stock_spaces",
]

_MOST_MEASURED = 3
AS_MANY_AS_FIT = 1_000_000
"""The largest ``n_trials``: a study that only a time limit ends."""
SAMPLERS = ("tpe", "nsga2", "gp", "quasi_random", "random")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The ``[study]`` table: how long to search, by what, toward which objectives.

    Args:
        name: What the study is called in the database; also a folder's name and an argument of commands.
        n_trials: Trials that must finish. Where a launch has a time limit and the file names no number, the time limit
            alone ends the study.
        seed: Of everything that is drawn: proposals, weights, the order of images.
        metric: What networks are scored by; that of the task where nothing is said.
        direction: Whether more of the metric is better; that of the task where nothing is said.
        objectives: The metric and at least one of ``macs_ratio``, ``params_ratio`` and ``latency_ms``; by default the
            metric and ``macs_ratio``.
        reference_point: The point up to which the hypervolume counts, by objective. Of a maximised metric it is 0 where
            nothing else is said, of a ratio 1; of a minimised metric it has to be given: what a useless network has.
        sampler: What proposes the next trial, or ``"package.module:Class"``.
        start_from: Studies of the same network and data in the same database, whose fronts are proposed first.
        inherit: Trials start from the networks of finished ones, so that training accumulates.
        patience: The study ends by itself when so many complete trials in a row have added less than a thousandth of
            the box to the hypervolume; 0: never.
        stopper: Long trials that others of about their cost have left behind end at a rung.
        least_epochs: The shortest fine-tune phase that a trial gets under a time limit.
        max_retry: How often a trial whose worker or driver died is tried again.
        max_failures_in_a_row: So many failed trials in a row end the launch.
        max_failures: So many failed trials end the launch.
        lease_s: Seconds for which a driver holds a running trial without a sign of life.
        trial_time_limit: How long a trial may take on its worker, such as ``"2h"``; one that takes longer hangs: its
            worker is ended and it is tried again, ``max_retry`` times. Nothing: as long as it likes.
    """

    name: str
    n_trials: int = option(30, low=1, high=AS_MANY_AS_FIT, advice="Give the number of trials that must finish.")
    seed: int = option(0, low=0)
    metric: str = "accuracy"
    direction: str = option("maximize", choices=DIRECTIONS)
    objectives: tuple[str, ...] = option(None)  # None in these two: they follow from metric and direction.
    reference_point: Mapping[str, float] = option(None)
    sampler: str = option("tpe", choices=SAMPLERS, or_own=True)
    start_from: tuple[str, ...] = option(())
    inherit: bool = True
    patience: int = option(0, low=0, high=1_000_000)
    stopper: bool = True
    least_epochs: float = option(0.25, above=0, high=100_000)
    max_retry: int = option(2, low=0, high=10)
    max_failures_in_a_row: int = option(3, low=1)
    max_failures: int = option(20, low=1)
    lease_s: float = option(60.0, low=0.1)
    trial_time_limit: str | None = None

    def __post_init__(self) -> None:
        check(self)
        # A folder and an argument of commands are named like the study.
        n_bytes = len(self.name.encode(errors="replace"))
        odd = self.name != self.name.strip() or self.name.startswith(("-", ".")) or not 1 <= n_bytes <= 200
        if odd or any(not letter.isprintable() or letter in "/\\" for letter in self.name):
            raise ConfigError(
                "`name` must be 1 to 200 bytes of printable letters without slashes, not starting with a dot or a dash "
                f"nor with spaces around, but got {self.name[:80]!r}."
            )
        check_metric_name(self.metric)
        self._check_trial_time_limit()
        if vars(self)["objectives"] is None:
            object.__setattr__(self, "objectives", (self.metric, "macs_ratio"))
        self._check_objectives()
        if vars(self)["reference_point"] is None:
            object.__setattr__(self, "reference_point", self._usual_reference_point())
        self._check_reference_point()

    def _check_objectives(self) -> None:
        for objective in self.objectives:
            if objective not in (self.metric, *COSTS):
                raise ConfigError(f"`objectives`: {unknown_name('objective', objective, (self.metric, *COSTS))}")
        if self.patience and not self.has_hypervolume:
            raise ConfigError(
                f"`patience` needs at most {_MOST_MEASURED} objectives, to work out a hypervolume, but there are "
                f"{len(self.objectives)}. Drop it, or an objective."
            )
        if self.metric not in self.objectives or not 2 <= len(set(self.objectives)) == len(self.objectives):
            raise ConfigError(
                f"`objectives` must be {self.metric} and at least one cost, each once, "
                f'but got {list(self.objectives)}. Use ["{self.metric}", "macs_ratio"].'
            )

    def _check_trial_time_limit(self) -> None:
        if self.trial_time_limit is None:
            return
        try:
            seconds_of(self.trial_time_limit)
        except ConfigError as error:
            raise ConfigError(f"`trial_time_limit` {error}. Leave it out for no limit.") from error

    def _usual_reference_point(self) -> dict[str, float]:
        if self.direction == "minimize":
            point = ", ".join(f"{name} = {'1.0' if name.endswith('_ratio') else '...'}" for name in self.objectives)
            raise ConfigError(
                '`reference_point` must be given with `direction` = "minimize", but is missing. Give the '
                f"{self.metric} of a useless network, such as the standard deviation of the targets for rmse: "
                f"reference_point = {{ {point} }}."
            )
        return {self.metric: 0.0, "macs_ratio": 1.0, "params_ratio": 1.0}

    def _check_reference_point(self) -> None:
        for objective, value in self.reference_point.items():
            if objective == self.metric:
                Metric(self.metric, self.direction, value)  # It holds the value against its ideal.
            elif objective not in COSTS:
                raise ConfigError(f"`reference_point`: {unknown_name('objective', objective, (self.metric, *COSTS))}")
            elif not 0 < value < math.inf:
                raise ConfigError(
                    f"`reference_point` must be worse than the ideal, with {objective} greater than 0, "
                    f"but got {objective}={value}."
                )
        missing = [objective for objective in self.objectives if objective not in self.reference_point]
        if missing:
            raise ConfigError(f"`reference_point` must name every objective, but lacks {', '.join(missing)}.")

    @property
    def length(self) -> str:
        """How many trials are asked for, in words."""
        return "as many trials as fit" if self.n_trials == AS_MANY_AS_FIT else f"{self.n_trials} trials"

    @property
    def trial_limit_s(self) -> float | None:
        """Seconds that a trial may take, or None without a limit."""
        return None if self.trial_time_limit is None else seconds_of(self.trial_time_limit)

    @property
    def score_metric(self) -> Metric:
        """What networks are scored by, with its reference point."""
        return Metric(self.metric, self.direction, self.reference_point[self.metric])

    @property
    def cost(self) -> str:
        """The first objective beside the metric: the axis along which a front is drawn and sorted."""
        return next(objective for objective in self.objectives if objective != self.metric)

    @property
    def has_hypervolume(self) -> bool:
        """Whether there are few enough objectives for a hypervolume to be worked out."""
        return len(self.objectives) <= _MOST_MEASURED

    @property
    def directions(self) -> tuple[str, ...]:
        """``"maximize"`` or ``"minimize"`` for each objective, in order."""
        return tuple(self.direction if objective == self.metric else "minimize" for objective in self.objectives)


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """The ``[resources]`` table: what one trial takes, and how many run at once.

    Args:
        concurrency: Trials at once; as many as fit where nothing is said.
        cpu: CPUs of one trial.
        gpu: GPUs of one trial; 0.5: two share one; 4: four processes train its network together.
        memory_gb: Memory that one trial is counted with, in 10**9 bytes; not counted where nothing is said.
    """

    concurrency: int | None = option(None, low=1)
    cpu: float = option(1.0, above=0)
    gpu: float = option(0.0, low=0)
    memory_gb: float | None = option(None, above=0)

    def __post_init__(self) -> None:
        check(self)
        if self.gpu > 1 and self.gpu != int(self.gpu):
            raise ConfigError(
                f"`gpu` must be a share of one GPU or a whole number of them, but got gpu={self.gpu:g}. Round it."
            )

    @property
    def memory_bytes(self) -> int:
        """Memory of one trial, 0 where it is not counted."""
        return 0 if self.memory_gb is None else max(1, round(self.memory_gb * 1e9))


@dataclass(frozen=True, kw_only=True)
class ConstraintsConfig:
    """The ``[constraints]`` table: upper limits that every network must keep, several at once.

    Args:
        macs_ratio: Pruned / dense MACs.
        params: Number of parameters.
        peak_activation_bytes: The most that tensors take at once in a pass of one input, floats as float32.
        peak_activation_ratio: The same over the dense network's, in (0, 1].
        latency_ms: Median time of one batch of ``latency_batch`` images.
    """

    macs_ratio: float | None = option(None, above=0, high=1, advice="Give a share of the dense MACs.")
    params: int | None = option(None, low=1)
    peak_activation_bytes: int | None = option(None, low=1)
    peak_activation_ratio: float | None = option(
        None, above=0, high=1, advice="Give a share of the dense network's peak activation memory."
    )
    latency_ms: float | None = option(None, above=0)

    def __post_init__(self) -> None:
        check(self)

    @property
    def limits(self) -> dict[str, float]:
        """The limit of each constrained fact."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """The ``[retention]`` table: which files stay on disk.

    Args:
        networks: ``"front"`` keeps the networks of the Pareto front, ``"all"`` those of every trial.
        phase_cache_gb: Most that cached phases may take; the one longest unused goes first.
    """

    networks: str = option("front", choices=("front", "all"))
    phase_cache_gb: float = option(20.0, above=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class _TrainTables:
    dense: TrainSpec = TrainSpec()
    sparsify: TrainSpec = TrainSpec()
    finetune: TrainSpec = TrainSpec()

    def __post_init__(self) -> None:
        check_dense(self.dense)


_LATER = {"layout": None, "compile": False, "processes": None, "sync_batchnorm": False}
"""Keys that studies from before there were these do not store; where they say nothing new, they stay as stored."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A whole study, resolved: nothing but the database is needed to resume it."""

    study: SearchConfig
    setting: SettingSpec
    space: SpaceConfig
    resources: ResourcesConfig
    constraints: ConstraintsConfig = ConstraintsConfig()
    retention: RetentionConfig = RetentionConfig()
    loggers: LoggersConfig = LoggersConfig()

    def __post_init__(self) -> None:
        is_timed = "latency_ms" in self.study.objectives or self.constraints.latency_ms is not None
        if is_timed and self.setting.latency_batch is None:
            raise ConfigError(
                "`latency_ms` as an objective or constraint needs `latency_batch` in [engine], the number of images "
                "timed at once, but it is missing. Add for example latency_batch = 64."
            )
        self._settle_processes()
        task, search = self.setting.task, self.study
        if (task.metric_name, task.metric_direction) != (search.metric, search.direction):
            raise ConfigError(
                f"`metric` and `direction` of [study] must be those of [task], {task.metric_name} and "
                f"{task.metric_direction}, but are {search.metric} and {search.direction}. Leave them out of [study]."
            )
        for name, values in self.space.finetune.items():
            ends = values.values or (values.low, values.high)
            for value in ends:
                try:
                    self.setting.finetune.with_searched({name: float(value or 0)})
                except ConfigError as error:
                    raise ConfigError(f"[space] `finetune.{name}`: {error}") from None

    def _settle_processes(self) -> None:
        """By default a trial of several GPUs has a process on each."""
        gpu, processes = self.resources.gpu, self.setting.processes
        if processes is None and gpu > 1:
            object.__setattr__(self, "setting", dataclasses.replace(self.setting, processes=int(gpu)))
        elif gpu and self.setting.n_processes > max(1, gpu):
            raise ConfigError(
                f"`processes` of [engine] must each have a GPU, but they are {processes} where `gpu` of [resources] is "
                f"{gpu:g}. Raise `gpu`, or leave `processes` out."
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-serialisable data."""
        data = dataclasses.asdict(self)
        for key, before in _LATER.items():
            if data["setting"][key] == before:
                del data["setting"][key]
        return data


def _absolute(spec: Mapping[str, Any], keys: tuple[str, ...], folder: Path, where: str) -> dict[str, Any]:
    # What is not a text is left for the reader to refuse in its own words.
    return {
        key: absolute(value, folder, f"{where} `{key}`") if key in keys and isinstance(value, str) else value
        for key, value in spec.items()
    }


def load_study(path: Path, catalogue: Catalogue) -> StudyConfig:
    """Read a study file; relative paths in it are relative to its folder.

    Args:
        path: The TOML file.
        catalogue: The methods there are; see `config.space_files.Catalogue`.

    Returns:
        The resolved study; artifacts lie in the current folder unless the file says otherwise.

    Raises:
        ConfigError: Something in the file does not hold; file and key are named.
    """
    tables = _tables(path)
    space = find_space(tables["study"], tables, path=path, catalogue=catalogue)
    study = _search(tables, path)
    limits = {
        key: read(kind, tables.get(key, {}), where=f"{path}: [{key}]")
        for key, kind in (
            ("resources", ResourcesConfig), ("constraints", ConstraintsConfig), ("retention", RetentionConfig),
        )
    }  # fmt: skip
    places = _absolute(tables.get("loggers", {}), ("folder",), path.resolve().parent, f"{path}: [loggers]")
    loggers = read(LoggersConfig, places, where=f"{path}: [loggers]")
    setting = _setting(tables, path, seed=study.seed)
    parts = {"study": study, "setting": setting, "space": space, "loggers": loggers, **limits}
    return read(StudyConfig, parts, where=str(path))


def resolved(config: StudyConfig, *, folder: Path) -> StudyConfig:
    """The configuration with its relative paths made absolute.

    Args:
        config: Built in Python; that of a file has been resolved by its reader.
        folder: Where relative paths start.

    Raises:
        ConfigError: Something can't be a path.
    """

    def with_paths(spec: Any, keys: tuple[str, ...], where: str) -> Any:
        return dataclasses.replace(spec, **_absolute({key: getattr(spec, key) for key in keys}, keys, folder, where))

    setting = config.setting
    network = with_paths(setting.network, ("weights",), "[network]")
    data = setting.data
    if data is not None:
        data = with_paths(data, _path_keys(data.validation), "[data]")
    setting = with_paths(dataclasses.replace(setting, network=network, data=data), ("artifacts",), "[engine]")
    loggers = config.loggers
    if loggers.folder is not None:
        loggers = with_paths(loggers, ("folder",), "[loggers]")
    return dataclasses.replace(config, setting=setting, loggers=loggers)


def _path_keys(validation: Any) -> tuple[str, ...]:
    """The keys of [data] that hold paths."""
    is_path = isinstance(validation, str) and not validation.startswith(("last:", "random:"))
    return ("train", "test", "validation") if is_path else ("train", "test")


def load_setting(path: Path) -> SettingSpec:
    """Read what a study file says of network, data and training, whatever its space, which may be missing.

    Raises:
        ConfigError: Something of it does not hold; file and key are named.
    """
    tables = _tables(path)
    return _setting(tables, path, seed=_search(tables, path).seed)


def _tables(path: Path) -> dict[str, Any]:
    tables, where = read_toml(path), str(path)
    known = (
        "study", "network", "data", "task", "train", "engine", "resources", "constraints", "retention", "space",
        "method", "loggers",
    )  # fmt: skip
    for key, value in tables.items():
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('table', key, known)}")
        table_of(value, where, key)
    for key in ("network", "data", "task"):
        factory = tables.get(key, {}).get("factory")
        if isinstance(factory, str) and is_given(factory):
            raise ConfigError(
                f"{where}: [{key}] `factory` must look like package.module:function, but got {factory[:80]!r}. A file "
                "can't name objects that were given in Python; `autoprune resume` knows those of a study."
            )
    for key in ("study", "network", *([] if "factory" in tables.get("task", {}) else ["data"])):
        if key not in tables:
            raise ConfigError(f"{where}: the table [{key}] must be given, but is missing.")
    return tables


def _search(tables: Mapping[str, Any], path: Path) -> SearchConfig:
    own = {key: value for key, value in tables["study"].items() if key != "space"}
    return read(SearchConfig, {**_scored_by(tables, path), **own}, where=f"{path}: [study]")


def _scored_by(tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Metric and direction where [study] does not say: those of what the networks are for."""
    task = _task(tables, path)
    return {"metric": task.metric_name, "direction": task.metric_direction}


def _task(tables: Mapping[str, Any], path: Path) -> TaskSpec:
    return read(TaskSpec, tables.get("task", {}), where=f"{path}: [task]")


def _setting(tables: Mapping[str, Any], path: Path, *, seed: int) -> SettingSpec:
    where, folder = str(path), path.resolve().parent
    train = read(_TrainTables, tables.get("train", {}), where=f"{where}: [train]")

    def with_paths(key: str, keys: tuple[str, ...]) -> dict[str, Any]:
        return _absolute(tables.get(key, {}), keys, folder, f"{where}: [{key}]")

    network = read(NetworkSpec, with_paths("network", ("weights",)), where=f"{where}: [network]")
    data = None
    if "data" in tables:
        keys = _path_keys(tables["data"].get("validation"))
        data = read(DataSpec, with_paths("data", keys), where=f"{where}: [data]")
    task = _task(tables, path)
    here = str(Path.cwd() / "autoprune_artifacts")
    engine = read(EngineSpec, {"artifacts": here, **with_paths("engine", ("artifacts",))}, where=f"{where}: [engine]")
    # Its own fields are those of [engine]; all others have been read above.
    parts = {"network": network, "data": data, "task": task, "seed": seed, **vars(train), **vars(engine)}
    return read(SettingSpec, parts, where=f"{where}: [engine]")


def names_its_trials(path: Path) -> bool:
    """Whether a study file says how many trials are wanted."""
    return "n_trials" in _tables(path)["study"]


def read_stored(data: Mapping[str, Any]) -> StudyConfig:
    """Rebuild a configuration from what the database keeps."""
    # One from before there were lineages, a stopper, or a precision to be measured goes on without them.
    for key, before in (("study", {"inherit": False, "stopper": False}), ("setting", {"precision": "float32"})):
        if key in data:
            data = {**data, key: {**before, **data[key]}}
    return read(StudyConfig, data, where="[stored configuration]")
