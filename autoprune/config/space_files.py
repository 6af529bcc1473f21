"""Search-space files: what a space holds, the stock ones, and which of them is made for which network."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from autoprune.config.fields import check, option, read
from autoprune.config.recipes import RECIPE
from autoprune.config.spec import Range
from autoprune.errors import ConfigError, unknown_name
from autoprune.importing import is_own
from autoprune.widths import WIDTH_RULES

__all__ = [
    "SHAPE",
    "Catalogue",
    "SpaceConfig",
    "SpaceTable",
    "absolute",
    "find_space",
    "named_space",
    "read_toml",
    "stock_architectures",
    "stock_spaces",
    "table_of",
]

_MACS_TARGET = Range(low=0.2, high=0.9, step=0.05)
SHAPE = Range(low=0.5, high=1.5, step=0.125)
_ANY = ("*",)
_MOST_BYTES = 16 * 2**20
_DEFAULT_RULES = tuple(name for name, rule in WIDTH_RULES.items() if rule.is_default)

Catalogue = Mapping[str, Mapping[str, Range | None]]
"""The hyper-parameters of the methods there are, with the range of those that are searched unasked."""


@dataclass(frozen=True, kw_only=True)
class _Widths:
    """What of the ``[space]`` table a resolved space has as it was written.

    Args:
        name: What people call it.
        width_rules: Names of width rules, or ``"package.module:Class"``.
        macs_target: Range of pruned / dense MACs, in (0, 1].
        shape: Range of each multiplier of the keep ratio, for the rules that sample them.
        finetune: Ranges of what is searched of the fine-tune recipe: ``learning_rate``, ``epochs``,
            ``distill.weight``, ``distill.temperature``.
    """

    name: str = "inline"
    width_rules: tuple[str, ...] = option(_DEFAULT_RULES)
    macs_target: Range = _MACS_TARGET
    shape: Range = SHAPE
    finetune: Mapping[str, Range] = option({})


@dataclass(frozen=True, kw_only=True)
class SpaceConfig(_Widths):
    """A resolved search space: each method's hyper-parameters with their ranges, and the rules for widths.

    Args:
        methods: Ranges of the hyper-parameters by method.
        any_method: Whether the file says ``methods = ["*"]``: of those, the ones that can't prune the network are left
            out, where a method that was named is refused.
    """

    methods: Mapping[str, Mapping[str, Range]]
    any_method: bool = False

    def __post_init__(self) -> None:
        check(self)
        if not self.methods:
            raise ConfigError("`methods` must name at least one method, but is empty.")
        for rule in self.width_rules:
            if rule not in WIDTH_RULES and not is_own(rule):
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
        for name, values in self.finetune.items():
            if name not in RECIPE:
                raise ConfigError(f"`finetune`: {unknown_name('searched part of the recipe', name, RECIPE)}")
            if any(isinstance(value, str | bool) for value in values.values or ()):
                raise ConfigError(f"`finetune.{name}` must hold numbers, but got {list(values.values or ())}.")


@dataclass(frozen=True, kw_only=True)
class SpaceTable(_Widths):
    """The ``[space]`` table as it is written.

    Args:
        methods: Names of methods, or ``"package.module:Class"``; ``["*"]`` for the short list of those that fit.
    """

    methods: tuple[str, ...] = _ANY


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: It is not there, too large, or not TOML.
    """
    try:
        with path.open("rb") as file:  # Which may be a pipe, or a device without an end.
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file. Check the path.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: this is a folder, but a TOML file is needed.") from None
    except OSError as error:
        raise ConfigError(f"{path}: this file can't be read: {error.strerror}.") from None
    except ValueError as error:  # A path with a zero byte.
        raise ConfigError(f"{path}: this file can't be read: {error}.") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: a TOML file must be smaller than {_MOST_BYTES // 2**20} MiB. Check the path.")
    try:
        text = content.decode("utf-8-sig")  # Some editors put a byte-order mark first.
        return tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is not a text in UTF-8, but a TOML file is needed.") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is an endless number.
        raise ConfigError(f"{path}: this is not valid TOML: {error}.") from None


def table_of(value: Any, where: str, key: str) -> Mapping[str, Any]:
    """The value, which must be a table.

    Raises:
        ConfigError: It is not one.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: [{key}] must be a table, but got {value!r}.")
    return value


def absolute(value: str, folder: Path, place: str) -> str:
    """The path ``value``, relative to ``folder``.

    Raises:
        ConfigError: It can't be a path.
    """
    try:
        return str((folder / Path(value).expanduser()).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # An unknown ~user, a loop of links, a NUL.
        raise ConfigError(f"{place} must be a path, but got {value!r}: {error}.") from None


def stock_spaces() -> dict[str, Path]:
    """The spaces that come with autoprune, by name."""
    package = Path(__file__).resolve().parents[1]
    # A wheel carries the folder inside the package; a checkout has it beside the package.
    folder = next((f for f in (package / "search_spaces", package.parent / "search_spaces") if f.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))} if folder else {}


def stock_architectures() -> dict[str, tuple[str, ...]]:
    """By stock space, the built-in networks that it is made for, or patterns of their names."""
    return {name: tuple(read_toml(path)["space"]["architectures"]) for name, path in stock_spaces().items()}


def find_space(study: Mapping[str, Any], tables: Mapping[str, Any], *, path: Path, catalogue: Catalogue) -> SpaceConfig:
    """The space of a study file: the one that it names, the one that it holds, else the one made for its network.

    Args:
        study: The table ``[study]``.
        tables: All tables of the file.
        path: The file.
        catalogue: The methods there are; see `Catalogue`.

    Raises:
        ConfigError: The space does not hold, or is given twice; or there is none for the network.
    """
    inline = {key: tables[key] for key in ("space", "method") if key in tables}
    name, place = study.get("space"), f"{path}: [study] `space`"
    if inline and name is not None:
        raise ConfigError(
            f"{path}: the space is given twice, by [study] `space` and by the table [{next(iter(inline))}]. Drop one."
        )
    if inline:
        return _resolve(inline, catalogue, name="inline", where=str(path))
    stock = stock_spaces()
    if name is None:
        name = _default_space(tables["network"], path)
    if not isinstance(name, str):
        raise ConfigError(
            f"{place} must name a search space ({', '.join(stock) or 'none come with autoprune'}) or its .toml file, "
            f"but got {name!r}. Or write the space into a table [space]."
        )
    if name in stock:
        return named_space(name, catalogue)
    if not name.endswith(".toml"):
        raise ConfigError(f"{place}: {unknown_name('search space', name, stock)} Or give a .toml file.")
    file = Path(absolute(name, path.resolve().parent, place))
    if not file.is_file():
        raise ConfigError(f"{place}: there is no file {file}. Check the path, which starts at the study file's folder.")
    return _resolve(read_toml(file), catalogue, name=file.stem, where=str(file))


def named_space(name: str, catalogue: Catalogue) -> SpaceConfig:
    """A space that comes with autoprune.

    Args:
        name: One of `stock_spaces`.
        catalogue: The methods there are; see `Catalogue`.

    Raises:
        ConfigError: There is none of this name.
    """
    stock = stock_spaces()
    if name not in stock:
        raise ConfigError(f"`space`: {unknown_name('search space', name, stock)}")
    return _resolve(_stock_tables(stock[name]), catalogue, name=name, where=f"space {name}")


def _default_space(network: Mapping[str, Any], path: Path) -> str:
    named, made_for = network.get("architecture", network.get("factory")), stock_architectures()
    if not isinstance(named, str):
        raise ConfigError(
            f"{path}: [network] must name a network by `architecture` or `factory`, as a text, but got {named!r}."
        )
    for space, patterns in made_for.items():
        if any(fnmatchcase(named, pattern) for pattern in patterns):
            return space
    known = [pattern for patterns in made_for.values() for pattern in patterns]
    raise ConfigError(f"{path}: [network] `architecture`: {unknown_name('architecture', named, known)}")


def _stock_tables(path: Path) -> dict[str, Any]:
    tables = read_toml(path)
    tables["space"].pop("architectures")
    return tables


def _resolve(tables: Mapping[str, Any], catalogue: Catalogue, *, name: str, where: str) -> SpaceConfig:
    for key, value in tables.items():
        if key not in ("space", "method"):
            raise ConfigError(f"{where}: {unknown_name('table', key, ('space', 'method'))}")
        table_of(value, where, key)
    table = {"name": name, **tables.get("space", {})}
    if "finetune" in table:
        table["finetune"] = _recipe_ranges(table["finetune"], where)
    file = read(SpaceTable, table, where=f"{where}: [space]")
    names = list(catalogue) if file.methods == _ANY else list(file.methods)
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
        known, place = catalogue[method], f"{where}: [method.{method}]"
        ranges = {key: values for key, values in known.items() if values is not None}
        given = table_of(tables.get("method", {}).get(method, {}), where, f"method.{method}")
        for key, value in given.items():
            if key not in known:
                raise ConfigError(f"{place}: {unknown_name('hyper-parameter', key, known)}")
            ranges[key] = _range(value, f"{place[:-1]}.{key}]")
        if "strength" in given and "reach" not in given:
            ranges.pop("reach", None)  # It would go before the strength.
        methods[method] = ranges
    table = {**vars(file), "methods": methods, "any_method": file.methods == _ANY}
    return read(SpaceConfig, table, where=f"{where}: [space]")


def _range(value: Any, where: str) -> Range:
    """A range from its table, from a list of values, or from a single value."""
    table = value if isinstance(value, Mapping) else {"values": value if isinstance(value, list) else [value]}
    return read(Range, table, where=where)


def _recipe_ranges(value: Any, where: str) -> dict[str, Range]:
    """The ranges of ``[space] finetune``, those of the teacher under their dotted names."""
    ranges = {}
    for key, given in table_of(value, where, "space.finetune").items():
        inner = table_of(given, where, f"space.finetune.{key}") if key == "distill" else None
        named = {key: given} if inner is None else {f"{key}.{name}": one for name, one in inner.items()}
        ranges.update({name: _range(one, f"{where}: [space.finetune.{name}]") for name, one in named.items()})
    return ranges
