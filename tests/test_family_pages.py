"""The pages of the families: their smallest examples keep the contracts, and the files that they name are there."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune import testing
from autoprune.config import DataSpec
from autoprune.engine.tracing import trace

PACKAGE = Path(__file__).parents[1] / "autoprune"
PAGES = {page.parent.relative_to(PACKAGE).as_posix(): page for page in sorted(PACKAGE.glob("*/**/README.md"))}


def check_compactor(kind: type[Any]) -> None:
    compactor, x = kind(4).eval(), torch.randn(2, 4, 3, 3)
    assert torch.equal(compactor(x, None), x)
    assert torch.equal(compactor.matrix(), torch.eye(4))


def check_architecture(build: Callable[..., Any]) -> None:
    model = build(n_classes=3, in_channels=1).eval()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert len(trace(model, torch.zeros(1, 1, 8, 8)).groups) == 2


def check_source(kind: type[Any]) -> None:
    source, spec = kind(), DataSpec(source="digits")
    assert source.fingerprint(spec, "train") == source.fingerprint(spec, "train") != source.fingerprint(spec, "test")
    images, labels = source.read(spec, "train")
    assert len(images) == len(labels)


CHECKS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "penalties": ("Absolute", lambda kind: testing.check_penalty(kind())),
    "importances": ("Position", lambda kind: testing.check_importance(kind())),
    "methods": ("Decayed", lambda kind: testing.check_method(kind())),
    "widths": ("Tapered", lambda kind: testing.check_width_rule(kind())),
    "compactors": ("Scaled", check_compactor),
    "architectures": ("two_layers", check_architecture),
    "engine/images": ("Noise", check_source),
    "search/proposals/samplers": ("Ends", lambda kind: testing.check_sampler(kind())),
}


def test_every_family_has_its_page():
    assert PAGES.keys() == CHECKS.keys()
    linked = re.findall(r"\]\(([^)#]+)/README\.md\)", (PACKAGE / "README.md").read_text())
    assert {link for link in linked if not link.startswith("..")} == CHECKS.keys()


@pytest.mark.parametrize("family", sorted(CHECKS))
def test_the_smallest_example_keeps_the_contract(family, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGES[family].read_text(), flags=re.DOTALL)
    module = types.ModuleType(f"example_of_{family.replace('/', '_')}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # Where dataclasses look for it.
    exec(compile(code, str(PAGES[family]), "exec"), module.__dict__)
    name, check = CHECKS[family]
    check(getattr(module, name))


@pytest.mark.parametrize("family", sorted(CHECKS))
def test_the_folders_and_files_that_a_page_names_are_there(family):
    named = re.findall(r"`((?:autoprune|tests|search_spaces)/[^` ]*)`", PAGES[family].read_text())
    assert named
    example = CHECKS[family][0].lower()
    for path in named:
        own = Path(path).stem.removeprefix("_").removeprefix("test_").replace("_", "") == example.replace("_", "")
        place = PACKAGE.parent / (Path(path).parent if own else Path(path))
        assert place.exists() or place.parent.exists(), path
        assert own or place.exists(), path


def test_the_drawing_names_every_room():
    text = (PACKAGE / "README.md").read_text()
    rooms = [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [room for room in rooms if f"{room}/" not in text] == []
