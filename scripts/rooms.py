"""The rooms of a package and the imports between them: ``python scripts/rooms.py [FOLDER]``, by default this checkout.

A folder's rooms are its modules and sub-packages. An arrow leads from one room to another that it imports, for types
only or inside a function too; a room's floor is the longest way down from it.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_LONG = 60  # lines of a function


@dataclass(frozen=True)
class Import:
    """One imported module, and where it is named."""

    module: str  # the importing one
    target: str
    line: int
    typing_only: bool

    @property
    def library(self) -> str:
        """The top-level package that it belongs to."""
        return self.target.split(".")[0]

    @property
    def place(self) -> str:
        """Where it is named."""
        return f"{self.module}:{self.line}"


@dataclass(frozen=True)
class Function:
    """One function: where it is, its length, and how many arguments it takes, at all and by position."""

    name: str
    lines: int
    arguments: int
    positional: int

    @property
    def is_public(self) -> bool:
        """Whether no part of its name starts with an underscore, or it makes an instance."""
        return self.name.endswith("__init__") or not self.name.rpartition(".")[2].startswith("_")


class Package:
    """The sources of a package, read with `ast`; nothing is imported.

    Args:
        folder: The package's own folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(path for path in folder.rglob("*.py") if "search_spaces" not in path.parts)
        self.modules = {self.module_of(path): path for path in self.files}

    def module_of(self, path: Path) -> str:
        """The dotted name of a file of the package."""
        parts = path.relative_to(self.folder.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def _trees(self) -> Mapping[str, ast.Module]:
        return {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in self.modules.items()}

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of every file: of the module, of its functions, and those for types only."""
        return tuple(found for module, tree in self._trees.items() for found in self._imports_of(module, tree))

    def _imports_of(self, module: str, tree: ast.Module) -> Iterator[Import]:
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            targets: list[str] = []
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}:{node.lineno}: write imports in full"
                base = str(node.module)
                # `from autoprune import methods` imports a module; `from autoprune.config import Range` a name of one.
                targets = [name if (name := f"{base}.{alias.name}") in self.modules else base for alias in node.names]
            yield from (Import(module, target, node.lineno, id(node) in for_types) for target in dict.fromkeys(targets))

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """Every function and method."""
        found = []
        for module, tree in self._trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    given = node.args
                    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
                    own = [one for one in arguments if one.arg not in ("self", "cls")]
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    by_position = [one for one in (*given.posonlyargs, *given.args) if one in own]
                    found.append(Function(f"{module}.{node.name}", lines, len(own), len(by_position)))
        return tuple(found)

    def rooms(self, inside: str) -> set[str]:
        """The modules and sub-packages directly in a package, by dotted name; its own ``__init__`` is one of them."""
        depth = inside.count(".") + 2
        below = [module for module in self.modules if f"{module}.".startswith(f"{inside}.")]
        return {".".join(module.split(".")[:depth]) for module in below}

    def arrows(self, inside: str) -> set[tuple[str, str]]:
        """Pairs of rooms of which the first imports the second."""
        depth, rooms = inside.count(".") + 2, self.rooms(inside)
        pairs = {
            (".".join(found.module.split(".")[:depth]), ".".join(found.target.split(".")[:depth]))
            for found in self.imports
        }
        return {(here, there) for here, there in pairs if here != there and here in rooms and there in rooms}


def cycles(arrows: set[tuple[str, str]]) -> list[set[str]]:
    """Sets of rooms that import each other in a circle."""
    below: dict[str, set[str]] = {}
    for here, there in arrows:
        below.setdefault(here, set()).add(there)
    reach = {room: _reach(room, below) for room in below}
    circles = [
        frozenset(o for o in reach[room] if room in reach.get(o, set())) for room in reach if room in reach[room]
    ]
    return [set(circle) for circle in dict.fromkeys(circles)]


def _reach(room: str, below: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(below.get(room, ()))
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += below.get(one, ())
    return found


def floors(rooms: set[str], arrows: set[tuple[str, str]]) -> int:
    """How many floors a house without cycles has; 0 where there is a cycle."""
    if cycles(arrows):
        return 0
    heights: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in heights:
            heights[room] = 1 + max((height(there) for here, there in arrows if here == room), default=0)
        return heights[room]

    return max(map(height, rooms), default=0)


def main() -> None:
    """Print the rooms and arrows of the package and of its two halves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1])
    parser.add_argument(
        "--list", metavar="PACKAGE", help="list the arrows within this package, such as autoprune.search"
    )
    args = parser.parse_args()
    package = Package(args.folder / "autoprune")
    if args.list:
        for here, there in sorted(package.arrows(args.list)):
            print(f"{here} -> {there}")
        return
    print(f"{'package':<18} {'rooms':>6} {'arrows':>7} {'floors':>7} {'cycles':>7}")
    for inside in ("autoprune", "autoprune.engine", "autoprune.search"):
        rooms, arrows = package.rooms(inside), package.arrows(inside)
        print(f"{inside:<18} {len(rooms):>6} {len(arrows):>7} {floors(rooms, arrows):>7} {len(cycles(arrows)):>7}")
    longest = max(package.functions, key=lambda one: one.lines)
    widest = max(package.functions, key=lambda one: one.arguments)
    print(f"files: {len(package.files)}; the longest is {_longest_file(package)}")
    print(
        f"functions: {len(package.functions)}, above {_LONG} lines: {sum(f.lines > _LONG for f in package.functions)}"
    )
    print(f"the longest: {longest.name}, {longest.lines} lines")
    print(f"the widest signature: {widest.name}, {widest.arguments} arguments")


def _longest_file(package: Package) -> str:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in package.files}
    longest = max(lines, key=lambda path: lines[path])
    return f"{longest.relative_to(package.folder.parent)}, {lines[longest]} lines"


if __name__ == "__main__":
    main()
