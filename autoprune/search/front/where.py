"""Conditions on the columns of a frame, such as ``macs_ratio <= 0.5 and method == 'slimming'``; nothing is executed."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoprune.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["columns_of", "rows_where"]

_Column = npt.NDArray[Any]
_OPERATORS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LONGEST = 2_000
_STRING_OR_QUOTED_NAME = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`([^`]*)`""")
_HOW = "Compare columns with numbers or 'strings' by == != < <= > >=, joined by `and`, `or`, `not`."


def rows_where(frame: pd.DataFrame, where: str) -> npt.NDArray[np.bool_]:
    """Which rows satisfy a condition, as ``DataFrame.query`` would say; a missing value only satisfies ``!=``.

    Args:
        frame: One row per trial.
        where: Comparisons of columns, numbers and strings, joined by ``and``, ``or``, ``not`` and parentheses. A column
            whose name is no Python name stands in backticks; dots need none.

    Returns:
        Shape (T,).

    Raises:
        ConfigError: It is something else, names no column, or compares a string with a number.
    """
    tree, names = _parsed(where)
    return _Condition(frame, where=where, names=names).of(tree)


def columns_of(where: str) -> set[str]:
    """The columns that a condition names; whatever else may be wrong with it.

    Raises:
        ConfigError: It can't be read as a condition.
    """
    tree, names = _parsed(where)
    found, left = set(), [tree]
    while left:
        node = left.pop()
        if isinstance(node, ast.Name | ast.Attribute):
            found.add(names.get(ast.unparse(node), ast.unparse(node)))
        else:
            left += [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]
    return found


def _parsed(where: str) -> tuple[ast.expr, dict[str, str]]:
    """The condition, and the names in backticks by what stands for them in it."""
    names: list[str] = []

    def replace(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[0]
        names.append(match[2])
        return f"__column_{len(names) - 1}__"

    try:
        if len(where) > _LONGEST:
            raise ValueError
        tree = ast.parse(_STRING_OR_QUOTED_NAME.sub(replace, where.strip()), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"`where` must be a condition, but {where[:80]!r} can't be read as one. {_HOW}") from None
    return tree.body, {f"__column_{i}__": name for i, name in enumerate(names)}


class _Condition:
    def __init__(self, frame: pd.DataFrame, *, where: str, names: dict[str, str]) -> None:
        self._frame = frame
        self._where = where
        self._names = names

    def of(self, node: ast.expr) -> npt.NDArray[np.bool_]:
        match node:
            case ast.BoolOp(op=op, values=values):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                result: npt.NDArray[np.bool_] = join.reduce([self.of(value) for value in values])
                return result
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self.of(operand)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [left, *comparators]
                pairs = zip(ops, sides, comparators, strict=False)
                chain: npt.NDArray[np.bool_] = np.logical_and.reduce([self._compare(op, a, b) for op, a, b in pairs])
                return chain
        raise self._refuse(node)

    def _compare(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> npt.NDArray[np.bool_]:
        if type(op) not in _OPERATORS:
            raise self._refuse(ast.Compare(left=left, ops=[op], comparators=[right]))
        a, b = self._value(left), self._value(right)
        if _is_blank(a) or _is_blank(b):
            return np.full(len(self._frame), isinstance(op, ast.NotEq))
        if _is_text(a) != _is_text(b):
            kinds = ("text", "a number") if _is_text(a) else ("a number", "text")
            sides = f"{self._quoted(left)} is {kinds[0]} and {self._quoted(right)} is {kinds[1]}"
            raise ConfigError(f"`where` must compare like with like, but {sides} in {self._where!r}. {_HOW}")
        shape = (len(self._frame),)
        a, b = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
        compare = _OPERATORS[type(op)]
        if not _is_text(a):
            result: npt.NDArray[np.bool_] = compare(a, b)
            return result
        # Missing text is None, which Python can't order.
        known = np.array([x is not None and y is not None for x, y in zip(a, b, strict=True)], dtype=np.bool_)
        found = np.full(shape, isinstance(op, ast.NotEq))
        found[known] = compare(a[known], b[known])
        return found

    def _value(self, node: ast.expr) -> _Column:
        match node:
            case ast.Constant(value=bool() | int() | float() as number):
                return np.asarray(number, dtype=np.float64)
            case ast.Constant(value=str() as text):
                return np.asarray(text, dtype=object)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return np.asarray(-number, dtype=np.float64)
            case ast.Name() | ast.Attribute():
                return self._column(self._names.get(ast.unparse(node), ast.unparse(node)))
        raise self._refuse(node)

    def _column(self, name: str) -> _Column:
        if name not in self._frame.columns:
            raise ConfigError(f"in `where`, {unknown_name('column', name, self._frame.columns)}")
        column = self._frame[name]
        if column.dtype.kind in "biuf":
            return column.to_numpy(dtype=np.float64)
        known = column.notna().to_numpy()
        cells = column.to_numpy(dtype=object)
        if known.any() and all(isinstance(cell, bool | int | float) for cell in cells[known]):
            return np.array([float(cell) if there else np.nan for cell, there in zip(cells, known, strict=True)])
        return np.array([str(cell) if there else None for cell, there in zip(cells, known, strict=True)], dtype=object)

    def _refuse(self, node: ast.AST) -> ConfigError:
        return ConfigError(
            f"`where` must be made of comparisons, but {self._where!r} has: {self._quoted(node)}. {_HOW} "
            f"Columns: {', '.join(sorted(self._frame.columns))}."
        )

    def _quoted(self, node: ast.AST) -> str:
        text = ast.unparse(node)
        for placeholder, name in self._names.items():
            text = text.replace(placeholder, f"`{name}`")
        return text


def _is_blank(value: _Column) -> bool:
    """Whether every cell is missing, so that nobody knows whether they would be text or numbers."""
    return value.ndim == 1 and value.dtype == object and all(cell is None for cell in value)


def _is_text(value: _Column) -> bool:
    return value.dtype == object
