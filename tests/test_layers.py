"""The direction of imports, and doors: read from the sources, and from what a fresh process has loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autoprune
from scripts.rooms import Package, cycles

ROOT = Path(autoprune.__file__).parent
PACKAGE = Package(ROOT)

# Room -> (half, floor); imports point to a lower floor of the same half, or to what both halves share.
SHARED, TORCH, SEARCH, BOTH = "shared", "torch", "search", "both"
ROOMS = {
    "errors": (SHARED, 0.0),
    "importing": (SHARED, 0.1),
    "cost": (SHARED, 0.1),
    "widths": (SHARED, 0.2),
    "config": (SHARED, 0.3),
    "report": (SHARED, 0.4),
    "engine": (TORCH, 0.0),
    "engine.asking": (TORCH, 0.9),
    "engine.watching": (TORCH, 0.9),
    "engine.source": (TORCH, 0.95),
    "engine.attention": (TORCH, 1.0),
    "engine.channels": (TORCH, 1.0),
    "engine.images": (TORCH, 1.0),
    "engine.files": (TORCH, 1.0),
    "engine.contracts": (TORCH, 1.1),
    "engine.folding": (TORCH, 1.2),
    "engine.training": (TORCH, 1.2),
    "engine.plain": (TORCH, 1.0),
    "engine.silencing": (TORCH, 1.1),
    "engine.surgery": (TORCH, 1.2),
    "engine.measuring": (TORCH, 1.2),
    "engine.tasks": (TORCH, 1.3),
    "engine.tracing": (TORCH, 1.3),
    "penalties": (TORCH, 2.0),
    "importances": (TORCH, 2.0),
    "compactors": (TORCH, 2.0),
    "architectures": (TORCH, 2.0),
    "methods": (TORCH, 3.0),
    "pipeline": (TORCH, 4.0),
    "search": (SEARCH, 0.2),  # Of its own it has but a name that can be called.
    "search.pareto": (SEARCH, 1.0),
    "search.storage": (SEARCH, 1.0),
    "search.trials": (SEARCH, 1.1),
    "search.phases": (SEARCH, 1.2),
    "search.proposals": (SEARCH, 1.3),
    "search.front": (SEARCH, 1.3),
    "search.files": (SEARCH, 1.3),
    "search.invariants": (SEARCH, 1.4),
    "search.dispatch": (SEARCH, 1.4),
    "distributed": (SEARCH, 2.0),
    "api": (BOTH, 5.0),
    "testing": (BOTH, 5.0),
    "": (BOTH, 5.5),  # autoprune/__init__.py
    "cli": (BOTH, 6.0),
    "__main__": (BOTH, 7.0),
}
# What a room may import besides the standard library and autoprune; one that is not here is looked up by its half.
LIBRARIES: dict[str, set[str]] = {
    "errors": set(),
    "importing": set(),
    "cost": {"numpy"},
    "widths": {"numpy"},
    "config": set(),
    "report": set(),
    "distributed": {"ray"},
    "api": {"torch", "optuna", "pandas", "cloudpickle"},
    "testing": {"torch", "numpy"},
    "": set(),
    "cli": {"rich", "matplotlib", "pandas", "optuna_dashboard"},
    "__main__": set(),
}
TORCH_LIBRARIES = {
    "numpy",
    "torch",
    "torchvision",
    "torch_pruning",
    "torchmetrics",
    "safetensors",
    "sklearn",
    "PIL",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "filelock",
}
SEARCH_LIBRARIES = {"numpy", "scipy", "optuna", "pandas", "sqlalchemy", "filelock"}


def room_of(module: str) -> str:
    parts = module.split(".")[1:]
    wing = ".".join(parts[:2])
    return wing if parts and parts[0] in ("engine", "search") and wing in ROOMS else ".".join(parts[:1])


def ours(target: str) -> bool:
    return target.split(".")[0] == "autoprune"


def test_the_reader_sees_all_kinds_of_imports() -> None:
    # Else every test below could pass by reading nothing.
    assert len(PACKAGE.files) > 60
    named = {(found.module, found.target, found.typing_only) for found in PACKAGE.imports}
    assert ("autoprune.config.spec", "autoprune.config.fields", False) in named
    assert ("autoprune.pipeline.trial", "autoprune.methods", False) in named  # from autoprune import methods
    assert ("autoprune.distributed.driver", "ray", False) in named  # in a function
    assert ("autoprune.api", "autoprune.api._running", True) in named  # for types only


def test_every_room_has_its_place() -> None:
    assert {room_of(module) for module in PACKAGE.modules} == set(ROOMS)


def test_imports_point_down() -> None:
    wrong = []
    for found in PACKAGE.imports:
        if not ours(found.target):
            continue
        here, there = room_of(found.module), room_of(found.target)
        (half, floor), (to_half, to_floor) = ROOMS[here], ROOMS[there]
        is_down = to_floor < floor and (to_half in (half, SHARED) or half == BOTH)
        if here != there and not is_down:
            wrong.append(f"{found.place}: {here or 'autoprune'} imports {found.target}")
    assert wrong == []


def test_no_modules_of_a_room_import_each_other_in_a_circle() -> None:
    packages = {module for module, path in PACKAGE.modules.items() if path.name == "__init__.py"}
    circles = []
    for package in packages:
        within = {(a, b) for a, b in PACKAGE.arrows(package) if package not in (a, b)}
        circles += cycles(within)
    assert circles == []


def test_rooms_are_entered_by_their_doors() -> None:
    """From outside, a room's names are imported from its package, which says in ``__all__`` what they are."""
    wrong = []
    for found in PACKAGE.imports:
        here, there = room_of(found.module), room_of(found.target)
        door = f"autoprune.{there}"
        if ours(found.target) and here != there and there != "cli" and PACKAGE.modules[door].name == "__init__.py":
            through_door = found.target == door or found.target.removeprefix(f"{door}.") in _names_of(door)
            if not through_door:
                wrong.append(f"{found.place}: {found.target}")
    assert wrong == []


def test_doors_lead_to_what_somebody_imports() -> None:
    """A name in a door's ``__all__`` is imported by another room, or by the scripts, studies or tests."""
    outside = [path for folder in ("tests", "scripts", "studies") for path in (ROOT.parent / folder).rglob("*.py")]
    used: set[tuple[str, str]] = set()
    for path in [*PACKAGE.files, *outside]:
        module = PACKAGE.module_of(path) if path in PACKAGE.files else ""
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and not module.startswith(f"{node.module}."):
                used |= {(str(node.module), alias.name) for alias in node.names}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                used.add((f"autoprune.{node.value.id}", node.attr))
    rooms = {f"autoprune.{room}" for room in ROOMS} - {"autoprune.", "autoprune.api"}
    doors = [room for room in sorted(rooms) if PACKAGE.modules[room].name == "__init__.py"]
    assert [f"{door}: {name}" for door in doors for name in _names_of(door) if (door, name) not in used] == []


def _names_of(door: str) -> list[str]:
    tree = ast.parse(PACKAGE.modules[door].read_text(encoding="utf-8"))
    listed = (node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
    return [name for node in listed for name in ast.literal_eval(node.value)]


def test_the_halves_meet_in_api_and_in_the_checks_of_contracts_only() -> None:
    meeting = {
        (room_of(found.module), room_of(found.target), found.typing_only)
        for found in PACKAGE.imports
        if ours(found.target)
        and ROOMS[room_of(found.module)][0] == BOTH
        and room_of(found.module) not in ("api", "testing")
        if ROOMS[room_of(found.target)][0] in (TORCH, SEARCH)
    }
    assert meeting == set()


def test_pareto_knows_nothing_of_ours_but_errors() -> None:
    known = {f.target for f in PACKAGE.imports if f.module == "autoprune.search.pareto" and ours(f.target)}
    assert known == {"autoprune.errors"}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_each_room_uses_its_own_libraries(room: str) -> None:
    half, _ = ROOMS[room]
    allowed = LIBRARIES.get(room, TORCH_LIBRARIES if half == TORCH else SEARCH_LIBRARIES)
    allowed = allowed | set(sys.stdlib_module_names) | {"autoprune"}
    found = [f for f in PACKAGE.imports if room_of(f.module) == room]
    assert [f"{f.place}: {f.target}" for f in found if f.library not in allowed] == []


def test_functions_fit_on_a_screen_and_take_at_most_three_operands() -> None:
    long = [found.name for found in PACKAGE.functions if found.lines > 60]
    crowded = [found.name for found in PACKAGE.functions if found.is_public and found.positional > 3]
    crowded = [name for name in crowded if not name.endswith("_nsga2.crossover")]  # Optuna's contract
    assert (long, crowded) == ([], [])


def test_only_distributed_names_ray() -> None:
    assert {room_of(found.module) for found in PACKAGE.imports if found.library == "ray"} == {"distributed"}


def test_nobody_names_torch_pruning() -> None:
    assert [found.place for found in PACKAGE.imports if found.library == "torch_pruning"] == []


def test_only_importing_imports_by_name() -> None:
    """Code of users is imported at one place."""
    calls = {
        module
        for module, path in PACKAGE.modules.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__"))
    }
    assert calls == {"autoprune.importing"}


def test_heavy_libraries_of_the_front_doors_are_imported_late() -> None:
    """What every command or user loads imports torch, ray, optuna and pandas inside functions only."""
    heavy = {"torch", "ray", "optuna", "pandas", "rich", "matplotlib"}
    wrong = []
    for module, path in PACKAGE.modules.items():
        if room_of(module) in ("", "cli", "__main__") or module == "autoprune.api":
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
        ("import autoprune.search.proposals, autoprune.search.front, autoprune.search.dispatch", ("torch", "ray")),
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
