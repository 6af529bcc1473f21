"""Statements of an exported graph: values that are read once go into the expression that reads them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node
from torch.utils._pytree import tree_leaves

__all__ = ["Statement", "statements", "with_variables"]

_REFERENCE = re.compile("\0([^\0]+)\0")
_DEEPEST = 3  # calls within one expression, as in F.relu(bn(conv(x)))
_LONGEST = 88
_VARIABLES = "xyzuvwabcdefghijkl"


@dataclass(frozen=True)
class Statement:
    """One line: an expression with references, and what holds its value; None where nothing reads it.

    Args:
        node: Whose value it is; None of the answer.
        text: The expression.
        block: Name of the block of the network that it comes from.
    """

    node: Node | None
    text: str
    block: str = ""


@dataclass(frozen=True)
class _Waiting:
    """An expression that is read once and may go into the one that does."""

    node: Node
    text: str
    depth: int


class _Lines:
    """Gathers statements in the order of the graph: what is written is evaluated in that order as well."""

    def __init__(self) -> None:
        self.done: list[Statement] = []
        self._waiting: list[_Waiting] = []

    def add(self, node: Node | None, text: str) -> None:
        """Take the expression of a node, with references to those before."""
        text, depth = self._inlined(text)
        if node is None or not node.users:
            self.flush()
            self.done.append(Statement(None, text, _block(node)))
            return
        self._waiting.append(_Waiting(node, text, depth))
        if len(node.users) > 1:
            self.flush()

    def flush(self) -> None:
        """Give a variable to all that waits."""
        self.done += [Statement(each.node, each.text, _block(each.node)) for each in self._waiting]
        self._waiting = []

    def _inlined(self, text: str) -> tuple[str, int]:
        """The expression with those that wait for it, and its depth; they get variables where it would not read well.

        They go in only as they stand at the end of what waits, in their order, so that the order of evaluation stays.
        """
        waiting = {each.node.name: each for each in self._waiting}
        found = [(match, waiting[match[1]]) for match in _REFERENCE.finditer(text) if match[1] in waiting]
        if not found:
            return text, 1
        is_call = not _is_sum(text) and text != found[0][0][0]
        depth = max(each.depth for _, each in found) + is_call
        inlined = _REFERENCE.sub(lambda match: waiting[match[1]].text if match[1] in waiting else match[0], text)
        fits = depth <= _DEEPEST and len(_REFERENCE.sub("x", inlined)) <= _LONGEST
        is_last = self._waiting[len(self._waiting) - len(found) :] == [each for _, each in found]
        if not fits or not is_last or any(_is_sum(each.text) and not _is_whole(match) for match, each in found):
            self.flush()
            return text, 1
        del self._waiting[len(self._waiting) - len(found) :]
        return inlined, depth


def _is_whole(match: re.Match[str]) -> bool:
    """Whether a reference is an argument as it stands, or all there is."""
    before, after = match.string[: match.start()], match.string[match.end() :]
    return not before + after or (before.endswith(("(", ", ", "[", "=")) and after.startswith((")", ",", "]")))


def _is_sum(text: str) -> bool:
    """Whether an expression has an operator such as ``+`` outside of all parentheses."""
    while (inner := re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", text)) != text:
        text = inner
    return re.search(r" [-+*/%]+ ", text) is not None


def _block(node: Node | None) -> str:
    """The innermost block that a node comes from which is no module of torch's own."""
    stack = list((node.meta.get("nn_module_stack") or {}).values()) if node is not None else []
    paths = [path for path, kind in stack if not str(kind).startswith(("torch.nn.modules", "<class 'torch.nn.modules"))]
    return re.sub(r"[^\w.]", "_", paths[-1]) if paths else ""


def statements(nodes: Iterable[tuple[Node, str]], answer: str) -> list[Statement]:
    """The lines of a ``forward``, the last one what is returned.

    Args:
        nodes: In order, each with its expression.
        answer: The expression of what is returned.
    """
    lines = _Lines()
    for node, text in nodes:
        lines.add(node, text)
    lines.add(None, answer)
    return lines.done


def with_variables(lines: Sequence[Statement], inputs: Sequence[str]) -> list[tuple[str, str]]:
    """The lines in Python, each with its block; a variable whose value is no longer read is taken again.

    So a run holds no tensor longer than it must.

    Args:
        lines: From `statements`.
        inputs: The names of the inputs' nodes, which are variables as they are.
    """
    read = [set(_REFERENCE.findall(line.text)) for line in lines]
    last = {name: place for place, names in enumerate(read) for name in names}
    variable = {name: name for name in inputs}
    written = []
    for place, line in enumerate(lines):
        text = _REFERENCE.sub(lambda found: variable[found[1]], line.text)
        for name in read[place]:
            if last[name] == place:
                del variable[name]
        if line.node is not None:
            taken = set(variable.values())
            variable[line.node.name] = own = next(name for name in _names(line.node) if name not in taken)
            text = f"{own} = {text}"
            if line.node.name not in last:
                del variable[line.node.name]
        written.append((line.block, f"return {text}" if place == len(lines) - 1 else text))
    return written


def _names(node: Node) -> Iterable[str]:
    is_number = not any(isinstance(leaf, Tensor) for leaf in tree_leaves(node.meta.get("val")))
    yield from "n" if is_number else _VARIABLES
    yield from (f"{'n' if is_number else 't'}{number}" for number in itertools.count(2))
