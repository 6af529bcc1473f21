"""Study and search-space files: TOML, checked once, resolved into what the database keeps."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError, unknown_name
from autoprune.fields import check, option, read
from autoprune.spec import WIDTH_RULES, DataSpec, NetworkSpec, Range, SettingSpec, TrainSpec

__all__ = [
    "OBJECTIVES",
    "SAMPLERS",
    "ConstraintsConfig",
    "ResourcesConfig",
    "RetentionConfig",
    "SearchConfig",
    "SpaceConfig",
    "StudyConfig",
    "load_study",
    "read_stored",
    "stock_spaces",
]

OBJECTIVES: Mapping[str, str] = {
    "accuracy": "maximize",
    "macs_ratio": "minimize",
    "params_ratio": "minimize",
    "latency_ms": "minimize",
}
SAMPLERS = ("tpe", "nsga2", "gp", "quasi_random", "random")
_MACS_TARGET = Range(low=0.2, high=0.9, step=0.05)
_SHAPE = Range(low=0.5, high=1.5, step=0.125)


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The ``[study]`` table: how long to search, by what, toward which objectives.

    ``start_from`` names studies of the same identity in the same database, whose fronts are proposed first.
    """

    name: str
    n_trials: int = option(30, low=1, high=1_000_000, advice="Give the number of trials that must finish.")
    seed: int = option(0, low=0)
    objectives: tuple[str, ...] = option(("accuracy", "macs_ratio"))
    reference_point: Mapping[str, float] = option({"accuracy": 0.0, "macs_ratio": 1.0, "params_ratio": 1.0})
    sampler: str = option("tpe", choices=SAMPLERS)
    start_from: tuple[str, ...] = option(())
    max_retry: int = option(2, low=0, high=10)
    max_failures_in_a_row: int = option(3, low=1)
    max_failures: int = option(20, low=1)
    lease_s: float = option(60.0, low=0.1)

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
        for objective in self.objectives:
            if objective not in OBJECTIVES:
                raise ConfigError(f"`objectives`: {unknown_name('objective', objective, OBJECTIVES)}")
        if "accuracy" not in self.objectives or not 2 <= len(set(self.objectives)) == len(self.objectives):
            raise ConfigError(
                "`objectives` must be accuracy and at least one cost, each once, "
                f'but got {list(self.objectives)}. Use ["accuracy", "macs_ratio"].'
            )
        for objective, value in self.reference_point.items():
            if objective not in OBJECTIVES:
                raise ConfigError(f"`reference_point`: {unknown_name('objective', objective, OBJECTIVES)}")
            # The hypervolume counts up to this point, so it has to leave room on the way to the ideal, 1 or 0.
            is_maximised = OBJECTIVES[objective] == "maximize"
            if not (0 <= value < 1 if is_maximised else 0 < value < math.inf):
                interval = "in [0, 1)" if is_maximised else "greater than 0"
                raise ConfigError(
                    f"`reference_point` must be worse than the ideal, with {objective} {interval}, "
                    f"but got {objective}={value}."
                )
        missing = [objective for objective in self.objectives if objective not in self.reference_point]
        if missing:
            raise ConfigError(f"`reference_point` must name every objective, but lacks {', '.join(missing)}.")

    @property
    def directions(self) -> tuple[str, ...]:
        """``"maximize"`` or ``"minimize"`` for each objective, in order."""
        return tuple(OBJECTIVES[objective] for objective in self.objectives)


@dataclass(frozen=True, kw_only=True)
class ResourcesConfig:
    """The ``[resources]`` table: what one trial takes, and how many run at once.

    Args:
        concurrency: Trials at once, or None for as many as fit.
        cpu: CPUs of one trial.
        gpu: GPUs of one trial, in [0, 1].
        memory_gb: Memory that one trial is counted with, in 10**9 bytes, or None.
    """

    concurrency: int | None = option(None, low=1)
    cpu: float = option(1.0, above=0)
    gpu: float = option(0.0, low=0, high=1, advice="One trial runs on one device, or on a share of it.")
    memory_gb: float | None = option(None, above=0)

    def __post_init__(self) -> None:
        check(self)

    @property
    def memory_bytes(self) -> int:
        """Memory of one trial, 0 where it is not counted."""
        return 0 if self.memory_gb is None else max(1, round(self.memory_gb * 1e9))


@dataclass(frozen=True, kw_only=True)
class ConstraintsConfig:
    """The ``[constraints]`` table: upper limits that every network must keep, several at once.

    Args:
        macs_ratio: Pruned / dense MACs, in (0, 1].
        params: Number of parameters.
        latency_ms: Median time of one batch of ``latency_batch`` images.
    """

    macs_ratio: float | None = option(None, above=0, high=1, advice="Give a share of the dense MACs.")
    params: int | None = option(None, low=1)
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
class SpaceConfig:
    """A resolved search space: each method's hyper-parameters with their ranges, and the rules for widths.

    ``shape`` is the range of each multiplier of the keep ratio that ``per_group`` and ``per_stage`` search.
    """

    name: str
    methods: Mapping[str, Mapping[str, Range]]
    width_rules: tuple[str, ...] = option(WIDTH_RULES)
    macs_target: Range = _MACS_TARGET
    shape: Range = _SHAPE

    def __post_init__(self) -> None:
        check(self)
        if not self.methods:
            raise ConfigError("`methods` must name at least one method, but is empty.")
        for rule in self.width_rules:
            if rule not in WIDTH_RULES:
                raise ConfigError(f"`width_rules`: {unknown_name('width rule', rule, WIDTH_RULES)}")
        if not 1 <= len(set(self.width_rules)) == len(self.width_rules):
            raise ConfigError(
                f"`width_rules` must name at least one of {', '.join(WIDTH_RULES)}, each once, "
                f"but got {list(self.width_rules)}."
            )
        for value in (self.macs_target.low, self.macs_target.high, *(self.macs_target.values or ())):
            if isinstance(value, str | bool) or (value is not None and not 0 < value <= 1):
                raise ConfigError(
                    f"`macs_target` must lie in (0, 1], but got {value!r}. Give a share of the dense MACs."
                )
        for value in (self.shape.low, self.shape.high, *(self.shape.values or ())):
            if isinstance(value, str | bool) or (value is not None and not value > 0):
                raise ConfigError(f"`shape` must hold multipliers > 0, but got {value!r}. 1 leaves a group as it is.")


@dataclass(frozen=True, kw_only=True)
class _TrainTables:
    dense: TrainSpec = TrainSpec()
    sparsify: TrainSpec = TrainSpec()
    finetune: TrainSpec = TrainSpec()


@dataclass(frozen=True, kw_only=True)
class _EngineTable:
    precision: str = option("float32", choices=("float32", "bfloat16", "float16"))
    recalibration_images: int = option(5_000, low=1, high=1_000_000_000)
    rungs: tuple[float, ...] = option((0.5,))
    artifacts: str = option("autoprune_artifacts")
    threads: int | None = option(None, low=1, high=4096)
    latency_batch: int | None = option(None, low=1)


@dataclass(frozen=True, kw_only=True)
class _SpaceTable:
    name: str = "inline"
    methods: tuple[str, ...] = ("*",)
    width_rules: tuple[str, ...] = WIDTH_RULES
    macs_target: Range = _MACS_TARGET
    shape: Range = _SHAPE


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A whole study, resolved: nothing but the database is needed to resume it."""

    study: SearchConfig
    setting: SettingSpec
    space: SpaceConfig
    resources: ResourcesConfig
    constraints: ConstraintsConfig = ConstraintsConfig()
    retention: RetentionConfig = RetentionConfig()

    def __post_init__(self) -> None:
        is_timed = "latency_ms" in self.study.objectives or self.constraints.latency_ms is not None
        if is_timed and self.setting.latency_batch is None:
            raise ConfigError(
                "`latency_ms` as an objective or constraint needs `latency_batch` in [engine], the number of images "
                "timed at once, but it is missing. Add for example latency_batch = 64."
            )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON-serialisable data."""
        return dataclasses.asdict(self)


def stock_spaces() -> dict[str, Path]:
    """The spaces that come with autoprune, by name."""
    package = Path(__file__).resolve().parent
    # A wheel carries the folder inside the package; a checkout has it beside the package.
    folder = next((f for f in (package / "search_spaces", package.parent / "search_spaces") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))} if folder else {}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Some editors put a byte-order mark first.
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file. Check the path.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder, but a TOML file is needed.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is not a text in UTF-8, but a TOML file is needed.") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is an endless number.
        raise ConfigError(f"{path}: this is not valid TOML: {error}.") from None
    except OSError as error:
        raise ConfigError(f"{path}: this file can't be read: {error.strerror}.") from None


def _table(value: Any, where: str, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: [{key}] must be a table, but got {value!r}.")
    return value


def _resolve_space(
    tables: Mapping[str, Any], catalogue: Mapping[str, Mapping[str, Range]], *, name: str, where: str
) -> SpaceConfig:
    for key, value in tables.items():
        if key not in ("space", "method"):
            raise ConfigError(f"{where}: {unknown_name('table', key, ('space', 'method'))}")
        _table(value, where, key)
    file = read(_SpaceTable, {"name": name, **tables.get("space", {})}, where=f"{where}: [space]")
    names = list(catalogue) if file.methods == ("*",) else list(file.methods)
    for method in names:
        if method not in catalogue:
            raise ConfigError(f"{where}: [space] `methods`: {unknown_name('method', method, ['*', *catalogue])}")
    for method in tables.get("method", {}):
        if method not in catalogue:
            raise ConfigError(f"{where}: [method.{method}]: {unknown_name('method', method, catalogue)}")
        if method not in names:
            raise ConfigError(
                f"{where}: [method.{method}] is given, but `methods` of [space] names only {', '.join(names)}. "
                f"Add {method!r} there, or drop the table."
            )
    methods: dict[str, dict[str, Range]] = {}
    for method in names:
        ranges, place = dict(catalogue[method]), f"{where}: [method.{method}]"
        for key, value in _table(tables.get("method", {}).get(method, {}), where, f"method.{method}").items():
            if key not in ranges:
                raise ConfigError(f"{place}: {unknown_name('hyper-parameter', key, ranges)}")
            table = value if isinstance(value, Mapping) else {"values": value if isinstance(value, list) else [value]}
            ranges[key] = read(Range, table, where=f"{place[:-1]}.{key}]")
        methods[method] = ranges
    table = {**vars(file), "methods": methods}
    return read(SpaceConfig, table, where=f"{where}: [space]")


def _space_of(
    study: Mapping[str, Any], tables: Mapping[str, Any], *, path: Path, catalogue: Mapping[str, Mapping[str, Range]]
) -> SpaceConfig:
    inline = {key: tables[key] for key in ("space", "method") if key in tables}
    name, place = study.get("space"), f"{path}: [study] `space`"
    if inline and name is not None:
        raise ConfigError(
            f"{path}: the space is given twice, by [study] `space` and by the table [{next(iter(inline))}]. Drop one."
        )
    if inline:
        return _resolve_space(inline, catalogue, name="inline", where=str(path))
    stock = stock_spaces()
    if not isinstance(name, str):
        got = "is missing" if name is None else f"got {name!r}"
        raise ConfigError(
            f"{place} must name a search space ({', '.join(stock) or 'none come with autoprune'}) or its .toml file, "
            f"but {got}. Or write the space into a table [space]."
        )
    if name in stock:
        return _resolve_space(_toml(stock[name]), catalogue, name=name, where=f"space {name}")
    if not name.endswith(".toml"):
        raise ConfigError(f"{place}: {unknown_name('search space', name, stock)} Or give a .toml file.")
    file = Path(_resolved(name, path.resolve().parent, place))
    if not file.is_file():
        raise ConfigError(f"{place}: there is no file {file}. Check the path, which starts at the study file's folder.")
    return _resolve_space(_toml(file), catalogue, name=file.stem, where=str(file))


def _resolved(value: str, folder: Path, place: str) -> str:
    try:
        return str((folder / Path(value).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # An unknown ~user, a loop of links, a NUL.
        raise ConfigError(f"{place} must be a path, but got {value!r}: {error}.") from None


def _absolute(spec: Mapping[str, Any], keys: tuple[str, ...], *, folder: Path, where: str) -> dict[str, Any]:
    # What is not a text is left for the reader to refuse in its own words.
    return {
        key: _resolved(value, folder, f"{where} `{key}`") if key in keys and isinstance(value, str) else value
        for key, value in spec.items()
    }


def load_study(path: Path, catalogue: Mapping[str, Mapping[str, Range]]) -> StudyConfig:
    """Read a study file; relative paths in it are relative to its folder.

    Args:
        path: The TOML file.
        catalogue: The methods there are and the range of each of their hyper-parameters.

    Returns:
        The resolved study; artifacts lie in the current folder unless the file says otherwise.

    Raises:
        ConfigError: Something in the file does not hold; file and key are named.
    """
    tables, where = _toml(path), str(path)
    known = (
        "study", "network", "data", "train", "engine", "resources", "constraints", "retention", "space", "method",
    )  # fmt: skip
    for key, value in tables.items():
        if key not in known:
            raise ConfigError(f"{where}: {unknown_name('table', key, known)}")
        _table(value, where, key)
    for key in ("study", "network", "data"):
        if key not in tables:
            raise ConfigError(f"{where}: the table [{key}] must be given, but is missing.")
    folder = path.resolve().parent
    space = _space_of(tables["study"], tables, path=path, catalogue=catalogue)
    search = {key: value for key, value in tables["study"].items() if key != "space"}
    study = read(SearchConfig, search, where=f"{where}: [study]")
    train = read(_TrainTables, tables.get("train", {}), where=f"{where}: [train]")
    data_table = dict(tables["data"])
    held_out = data_table.get("validation")
    file_keys: tuple[str, ...] = ("train", "test")
    if isinstance(held_out, str) and not held_out.startswith(("last:", "random:")):
        file_keys = (*file_keys, "validation")

    def with_paths(key: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
        return _absolute(table, keys, folder=folder, where=f"{where}: [{key}]")

    network = read(NetworkSpec, with_paths("network", tables["network"], ("weights",)), where=f"{where}: [network]")
    data = read(DataSpec, with_paths("data", data_table, file_keys), where=f"{where}: [data]")
    engine_table = with_paths("engine", tables.get("engine", {}), ("artifacts",))
    engine = read(_EngineTable, {"artifacts": str(Path.cwd() / "autoprune_artifacts"), **engine_table},
                  where=f"{where}: [engine]")  # fmt: skip
    limits = {
        key: read(kind, tables.get(key, {}), where=f"{where}: [{key}]")
        for key, kind in (
            ("resources", ResourcesConfig), ("constraints", ConstraintsConfig), ("retention", RetentionConfig),
        )
    }  # fmt: skip
    parts = {"network": network, "data": data, "seed": study.seed, **vars(train), **vars(engine)}
    # Its own fields are those of [engine]; all others have been read above.
    setting = read(SettingSpec, parts, where=f"{where}: [engine]")
    parts = {"study": study, "setting": setting, "space": space, **limits}
    return read(StudyConfig, parts, where=where)


def read_stored(data: Mapping[str, Any]) -> StudyConfig:
    """Rebuild a configuration from what the database keeps."""
    return read(StudyConfig, data, where="[stored configuration]")
