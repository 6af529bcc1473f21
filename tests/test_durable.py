from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune import durable
from autoprune.engine.files import publish


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the operating system is asked, in order; it is asked for real."""
    made: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        made.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def name(file: Any, target: Any) -> None:
        made.append(("replace", Path(target).name))
        replace(file, target)

    monkeypatch.setattr("autoprune.durable.os.fsync", flush)
    monkeypatch.setattr("autoprune.durable.os.replace", name)
    return made


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are told from their descriptors by /proc")


@linux
def test_contents_are_flushed_before_names_and_names_before_the_end(
    calls: list[tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "a.tmp").write_text("a")
    (tmp_path / "b.tmp").write_text("b")
    durable.replace((tmp_path / "a.tmp", tmp_path / "a"), (tmp_path / "b.tmp", tmp_path / "b"))
    folder = ("fsync", tmp_path.name)
    assert calls == [("fsync", "a.tmp"), ("fsync", "b.tmp"), ("replace", "a"), ("replace", "b"), folder]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@linux
def test_a_new_folder_is_flushed_into_the_one_above(calls: list[tuple[str, str]], tmp_path: Path) -> None:
    durable.make_folder(tmp_path / "new" / "inner")
    assert calls == [("fsync", tmp_path.name), ("fsync", "new")]
    durable.make_folder(tmp_path / "new" / "inner")
    assert len(calls) == 2


@linux
def test_a_network_is_whole_before_its_record_appears(calls: list[tuple[str, str]], tmp_path: Path) -> None:
    publish(tmp_path / "trials" / "7.safetensors", {"x": torch.ones(3)}, {"trial": 7})
    (made, *flushed), names, last = calls[:3], calls[3:5], calls[5:]
    assert made == ("fsync", tmp_path.name)
    assert [name.split(".")[1] for _, name in flushed] == ["safetensors", "json"]
    assert {kind for kind, _ in flushed} == {"fsync"}
    assert names == [("replace", "7.safetensors"), ("replace", "7.json")]
    assert last == [("fsync", "trials")]


def test_what_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.tmp"):
        durable.replace((tmp_path / "a.tmp", tmp_path / "a"))
    assert not list(tmp_path.iterdir())
