"""Builds sdist and wheel, and installs the wheel where the checkout can't be seen: `python scripts/package.py`.

The wheel is built from the sdist, so that what the sdist lacks is missed. Its environment is a new one that has no
package of its own but the wheel; what autoprune needs is lent to it by the environment that runs this script, so that
nothing is downloaded. There the command, the package and its data are asked for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ASKED = """
import importlib.metadata, importlib.resources, json, autoprune
from autoprune.config import stock_spaces
print(json.dumps({
    "file": autoprune.__file__,
    "version": importlib.metadata.version("autoprune"),
    "typed": importlib.resources.files("autoprune").joinpath("py.typed").is_file(),
    "spaces": {name: str(path) for name, path in stock_spaces().items()},
    "names": sorted(name for name in autoprune.__all__ if getattr(autoprune, name) is None),
}))
"""


def run(*command: str | Path, folder: Path, environment: dict[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        SystemExit: It fails; what it printed is told.
    """
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> Path:
    """The wheel, built from the sdist, both in ``folder``."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    (wheel,), (_,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel


def environment_with(wheel: Path, folder: Path) -> Path:
    """The folder of commands of a new environment in ``folder`` that has the wheel."""
    venv.create(folder, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    own = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    # As a mere path: the links to checkouts that lie there are not followed.
    (own / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    commands = Path(sysconfig.get_path("scripts", "venv", vars=scheme))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", commands / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel, folder=folder)
    return commands


def complaints(commands: Path, folder: Path) -> Sequence[str]:
    """What the installed package lacks, asked from a folder that is no checkout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "AUTOPRUNE"))}
    told = json.loads(run(commands / "python", "-c", _ASKED, folder=folder, environment=clean))
    shown = run(commands / "autoprune", "list", "spaces", folder=folder, environment=clean)
    run(commands / "autoprune", "--help", folder=folder, environment=clean)
    wanted = sorted(path.stem for path in (ROOT / "search_spaces").glob("*.toml"))
    home = commands.parent
    found = []
    if not Path(told["file"]).is_relative_to(home):
        found.append(f"the package must come from the wheel, but came from {told['file']}")
    if sorted(told["spaces"]) != wanted or not all(Path(p).is_relative_to(home) for p in told["spaces"].values()):
        found.append(f"the wheel must hold the search spaces {wanted}, but has {told['spaces']}")
    if missing := [name for name in wanted if name not in shown]:
        found.append(f"`autoprune list spaces` must show {missing}, but says: {shown}")
    if not told["typed"]:
        found.append("the wheel must hold `py.typed`, but lacks it")
    if told["version"] not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        found.append(f"CHANGELOG.md must tell of version {told['version']}, but does not")
    if told["names"]:
        found.append(f"the public names {told['names']} lead nowhere")
    return found


def main() -> None:
    """Build, install and ask."""
    with tempfile.TemporaryDirectory(prefix="autoprune-package-") as name:
        folder = Path(name)
        wheel = build(folder)
        found = complaints(environment_with(wheel, folder / "environment"), folder)
        print("\n".join(found) or f"{wheel.name} installs, and has all that it needs")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
