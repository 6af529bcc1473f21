"""Writes what the pages say of every key: `python scripts/reference.py`, or with `--check` only tells what is stale.

Types, defaults and ranges come from the fields' metadata, meanings from the docstrings of their classes. Each table
lies between two comments of its page; the rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoprune.config import (
    ConstraintsConfig,
    DataSpec,
    DistillSpec,
    NetworkSpec,
    Range,
    ResourcesConfig,
    RetentionConfig,
    SearchConfig,
    TaskSpec,
    TrainSpec,
)
from autoprune.config.fields import described, interval
from autoprune.config.loggers import LoggersConfig
from autoprune.config.space_files import SpaceTable
from autoprune.config.spec import DATA_SOURCES, EngineSpec
from autoprune.methods import METHODS, NamedMethod

ROOT = Path(__file__).resolve().parents[1]
_MISSING = dataclasses.MISSING
# `space` is read before the table: it names the file that the rest of the space comes from.
_SPACE_ROW = ("`space`", "a text", "that of the network", "A stock space, or a `.toml` file with a space.")


def meanings(kind: type[Any]) -> dict[str, str]:
    """What a class and those that it extends say of their fields, by name: the ``Args`` of their docstrings."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        _, _, listed = inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("\nArgs:\n")
        listed = re.split(r"\n(?=\S)", listed)[0]  # Up to the next section.
        for entry in re.split(r"^    (?=\S)", listed, flags=re.MULTILINE)[1:]:
            name, _, said = entry.partition(": ")
            found[name] = " ".join(said.split())
    return found


def _in_markdown(text: str) -> str:
    """A docstring's text for a cell of a table."""
    return text.replace("``", "`").replace("|", r"\|")


def _toml(value: Any) -> str:
    """A default as it would stand in a file."""
    if isinstance(value, Range):
        return _toml({key: v for key, v in vars(value).items() if v not in (None, "linear")})
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(v)}' for key, v in value.items())} }}" if value else "{}"
    return f"{value:,}".replace(",", "_") if isinstance(value, int) else f"{value:g}"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is _MISSING else field.default_factory()
    return "must be given" if value is _MISSING else "–" if value is None else f"`{_toml(value)}`"


def _allowed(field: dataclasses.Field[Any], hint: Any) -> str:
    facts = field.metadata
    choices = [f"`{choice}`" for choice in facts.get("choices") or ()]
    # A text must be one of the choices; what is no text may be another thing.
    others = [kind for kind in typing.get_args(hint) if kind not in (str, type(None))]
    if choices and (typing.get_origin(hint) is tuple or not others):
        return ", ".join(choices)
    text = "a range" if hint is Range else " or ".join(map(described, others)) if choices else described(hint)
    if Range in typing.get_args(hint):
        text = "a table, each entry a range"
    bounds = any(facts.get(key) is not None for key in ("low", "high", "above", "below"))
    return " or ".join([*choices, f"{text}, {interval(facts)}" if bounds else text])


def rows_of(kind: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Key, what it may be, default and meaning of every field of a table."""
    hints, said = typing.get_type_hints(kind), meanings(kind)
    for field in dataclasses.fields(kind):
        if field.name not in said:
            raise SystemExit(f"{kind.__name__}: the docstring says nothing of `{field.name}`. Add it to its Args.")
        meaning = _in_markdown(said[field.name])
        yield f"`{field.name}`", _allowed(field, hints[field.name]), _default(field), meaning


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(header)
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(head)}", *lines[1:]])


def keys_of(kind: type[Any]) -> str:
    """The table of one table of a file."""
    first = [_SPACE_ROW] if kind is SearchConfig else []
    return table(("key", "what it is", "default", "meaning"), [*first, *rows_of(kind)])


def sources() -> str:
    """Which keys of ``[data]`` go with which source."""

    def named(keys: Iterable[str]) -> str:
        return ", ".join(f"`{key}`" for key in keys) or "–"

    rows = ((f"`{name}`", named(keys.needs), named(keys.takes)) for name, keys in DATA_SOURCES.items())
    return table(("`source`", "needs", "takes"), rows)


def _hyper_rows(method: NamedMethod) -> Iterator[tuple[str, ...]]:
    """All but the method's name."""
    said = functools.reduce(lambda found, kind: meanings(kind) | found, method.classes, {})
    hints = {name: hint for kind in reversed(method.classes) for name, hint in typing.get_type_hints(kind).items()}
    for name, field in method.fields.items():
        search = field.metadata["search"]
        default = f"`{_toml(method.defaults[name])}`" if name in method.defaults else _default(field)
        searched = "–" if search is None else f"`{_toml(search)}`"
        yield f"`{name}`", _allowed(field, hints[name]), default, searched, _in_markdown(said[name])


def hyper_parameters() -> str:
    """Every hyper-parameter of every method; methods that have the very same one share its row."""
    owners: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(METHODS):
        for row in _hyper_rows(METHODS[name]):
            owners.setdefault(row, []).append(f"`{name}`")
    rows = ([", ".join(names), *row] for row, names in sorted(owners.items(), key=lambda each: each[1]))
    return table(("methods", "key", "what it is", "default", "searched unasked", "meaning"), rows)


TABLES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "studies/README.md": {
        "study": lambda: keys_of(SearchConfig),
        "network": lambda: keys_of(NetworkSpec),
        "data": lambda: keys_of(DataSpec),
        "sources": sources,
        "task": lambda: keys_of(TaskSpec),
        "train": lambda: keys_of(TrainSpec),
        "distill": lambda: keys_of(DistillSpec),
        "engine": lambda: keys_of(EngineSpec),
        "resources": lambda: keys_of(ResourcesConfig),
        "constraints": lambda: keys_of(ConstraintsConfig),
        "retention": lambda: keys_of(RetentionConfig),
        "loggers": lambda: keys_of(LoggersConfig),
    },
    "search_spaces/README.md": {
        "space": lambda: keys_of(SpaceTable),
        "range": lambda: keys_of(Range),
    },
    "autoprune/methods/README.md": {"hyper-parameters": hyper_parameters},
}
"""By page and by the name in its comments."""


def written(page: str, text: str) -> str:
    """The page with its tables as they should be.

    Args:
        page: One of `TABLES`.
        text: As it is.

    Raises:
        SystemExit: It has no place for a table.
    """
    for name, make in TABLES[page].items():
        begin, end = f"<!-- {name}: by scripts/reference.py -->", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise SystemExit(f"{page}: the comments {begin} and {end} must be there, the table goes between them.")
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main() -> None:
    """Write the pages, or tell which are stale."""
    parser = argparse.ArgumentParser(description="Write what the pages say of every key.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is stale")
    only_check, stale = parser.parse_args().check, []
    for page in TABLES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        new = written(page, text)
        if new != text:
            stale.append(page)
            if not only_check:
                path.write_text(new, encoding="utf-8")
    print("\n".join(f"{'stale' if only_check else 'written'}: {page}" for page in stale) or "all is up to date")
    sys.exit(1 if only_check and stale else 0)


if __name__ == "__main__":
    main()
