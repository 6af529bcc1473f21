"""The direction of imports: read from the sources, and from what a fresh process has loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import autoprune

ROOT = Path(autoprune.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "search_spaces" not in path.parts)

# Unit -> (half, level); imports point to a lower level of the same half, or to what both halves share.
SHARED, TORCH, SEARCH, BOTH = "shared", "torch", "search", "both"
UNITS = {
    "errors": (SHARED, 0.0),
    "fields": (SHARED, 0.1),
    "spec": (SHARED, 0.2),
    "space_files": (SHARED, 0.25),
    "config": (SHARED, 0.3),
    "cost": (SHARED, 0.1),
    "inverse": (SHARED, 0.15),
    "widths": (SHARED, 0.2),
    "engine": (TORCH, 1.0),
    "penalties": (TORCH, 2.0),
    "importances": (TORCH, 2.0),
    "compactors": (TORCH, 2.0),
    "architectures": (TORCH, 2.0),
    "methods": (TORCH, 3.0),
    "saved": (TORCH, 4.0),
    "workbench": (TORCH, 4.0),
    "trial": (TORCH, 4.5),
    "evaluation": (TORCH, 4.6),
    "search": (SEARCH, 1.0),
    "distributed": (SEARCH, 2.0),
    "api": (BOTH, 5.0),
    "": (BOTH, 5.5),  # autoprune/__init__.py
    "cli": (BOTH, 6.0),
    "__main__": (BOTH, 7.0),
}
# What a unit may import besides the standard library and autoprune; a unit that is not here may import anything.
LIBRARIES = {
    "errors": set(),
    "fields": set(),
    "spec": set(),
    "space_files": set(),
    "config": set(),
    "cost": {"numpy"},
    "inverse": {"numpy"},
    "widths": {"numpy"},
    "search": {"numpy", "scipy", "optuna", "pandas", "sqlalchemy", "filelock"},
    "distributed": {"ray"},
    "api": {"torch", "optuna", "pandas"},
    "": set(),
    "cli": {"rich", "matplotlib", "pandas"},
    "__main__": set(),
}
TORCH_LIBRARIES = {
    "numpy",
    "torch",
    "torchvision",
    "torch_pruning",
    "safetensors",
    "sklearn",
    "PIL",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "filelock",
}


@dataclass(frozen=True)
class Import:
    """One imported module, and where it is named."""

    unit: str
    target: str
    place: str
    typing_only: bool

    @property
    def library(self) -> str:
        return self.target.split(".")[0]


def unit_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file: of the module, of its functions, and those for types only."""
    module = module_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
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
            assert node.level == 0, f"{path}:{node.lineno}: write imports in full"
            base = str(node.module)
            # `from autoprune import methods` imports a module; `from autoprune.spec import Range` a name of one.
            targets = [f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            assert path.name == "factory.py", f"{path}:{node.lineno}: only a user's factory is imported by its name"
        for target in targets:
            yield Import(
                unit_of(module), target, f"{path.relative_to(ROOT.parent)}:{node.lineno}", id(node) in for_types
            )


IMPORTS = [found for path in FILES for found in imports_of(path)]


def test_the_reader_sees_all_kinds_of_imports() -> None:
    # Else every test below could pass by reading nothing.
    assert len(FILES) > 60
    named = {(found.place.split(":")[0], found.target, found.typing_only) for found in IMPORTS}
    assert ("autoprune/spec.py", "autoprune.fields", False) in named
    assert ("autoprune/trial.py", "autoprune.methods", False) in named  # from autoprune import methods
    assert ("autoprune/api/_running.py", "autoprune.distributed", False) in named  # in a function
    assert ("autoprune/cli/progress.py", "autoprune.search.dispatch", True) in named  # for types only
    assert ("autoprune/distributed/driver.py", "ray", False) in named


def test_every_unit_has_its_place() -> None:
    assert {unit_of(module_of(path)) for path in FILES} <= set(UNITS)


def test_imports_point_down() -> None:
    wrong = []
    for found in IMPORTS:
        if found.library != "autoprune":
            continue
        to = unit_of(found.target)
        (half, level), (to_half, to_level) = UNITS[found.unit], UNITS[to]
        same_unit = to == found.unit
        down = to_level < level and (to_half in (half, SHARED) or half == BOTH)
        if not same_unit and not down:
            wrong.append(f"{found.place}: {found.unit or 'autoprune'} imports {found.target}")
    assert wrong == []


def test_the_halves_meet_in_api_only() -> None:
    meeting = {
        (found.unit, unit_of(found.target), found.typing_only)
        for found in IMPORTS
        if found.library == "autoprune" and UNITS[found.unit][0] == BOTH and found.unit != "api"
        if UNITS[unit_of(found.target)][0] in (TORCH, SEARCH)
    }
    assert meeting <= {("cli", "search", True)}  # the live table names the dispatcher's type


def test_pareto_knows_nothing_of_ours_but_errors() -> None:
    ours = {f.target for f in IMPORTS if f.place.startswith("autoprune/search/pareto.py") and f.library == "autoprune"}
    assert ours == {"autoprune.errors"}


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_each_unit_uses_its_own_libraries(unit: str) -> None:
    allowed = LIBRARIES.get(unit, TORCH_LIBRARIES) | set(sys.stdlib_module_names) | {"autoprune"}
    assert [f"{f.place}: {f.target}" for f in IMPORTS if f.unit == unit and f.library not in allowed] == []


def test_only_distributed_names_ray() -> None:
    assert {found.unit for found in IMPORTS if found.library == "ray"} == {"distributed"}


def test_at_most_one_file_names_torch_pruning() -> None:
    files = {found.place.split(":")[0] for found in IMPORTS if found.library == "torch_pruning"}
    assert len(files) <= 1
    assert all(file.startswith("autoprune/engine/") for file in files)


def test_heavy_libraries_of_the_front_doors_are_imported_late() -> None:
    """Modules that every command or user loads import torch, ray, optuna and pandas inside functions only."""
    doors = [path for path in FILES if unit_of(module_of(path)) in ("", "api", "cli", "__main__")]
    heavy = {"torch", "ray", "optuna", "pandas", "rich", "matplotlib"}
    wrong = []
    for path in doors:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                wrong += [f"{path.name}: {name}" for name in names if name.split(".")[0] in heavy]
    assert wrong == []


@pytest.mark.parametrize(
    ("code", "unloaded"),
    [
        ("import autoprune", ("torch", "ray", "optuna", "pandas", "sqlalchemy", "numpy")),
        ("import autoprune.search", ("torch", "ray", "pandas", "torchvision")),
        ("import autoprune.search.propose, autoprune.search.query, autoprune.search.dispatch", ("torch", "ray")),
        ("import autoprune.cost, autoprune.widths", ("torch", "ray", "optuna", "sqlalchemy")),
        (
            "import autoprune.cli.main as m\ntry: m.main(['--help'])\nexcept SystemExit as e: assert e.code == 0",
            ("torch", "ray", "optuna", "pandas", "sqlalchemy", "numpy"),
        ),
        (
            "import autoprune.cli.main as m\nassert m.main(['pareto', 'x', '--storage', 'sqlite:////none/x.db']) == 2",
            ("torch", "ray"),
        ),
    ],
)  # fmt: skip
def test_a_fresh_process_loads_only_what_it_needs(code: str, unloaded: tuple[str, ...]) -> None:
    ask = f"{code}\nimport sys\nprint('loaded:', *sorted({set(unloaded)!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:"
