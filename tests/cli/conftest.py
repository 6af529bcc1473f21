"""Running commands in this process, and what must hold of every refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from autoprune.cli.main import main


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    def is_refusal(self, told: str) -> bool:
        """One line that begins with our name and holds ``told``; nothing on standard output; exit code 2."""
        assert self.err.startswith("autoprune: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err
        assert told in self.err
        return (self.code, self.out) == (2, "")


Run = Callable[..., Answer]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in an empty current folder, without a database of the environment."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = _code_of([str(argument) for argument in arguments])
        told = capsys.readouterr()
        return Answer(code, told.out, told.err)

    return call


def _code_of(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as leave:  # what argparse does
        return int(leave.code or 0)


@pytest.fixture
def refused(run: Run, tmp_path: Path) -> Callable[..., None]:
    """Run a command that must be refused in one line that holds all that is ``told``; nothing made, lost or changed."""

    def call(*arguments: object, told: str | tuple[str, ...]) -> None:
        before = _contents(tmp_path)
        answer = run(*arguments)
        for each in (told,) if isinstance(told, str) else told:
            assert answer.is_refusal(each), answer
        assert _contents(tmp_path) == before

    return call


def _contents(folder: Path) -> dict[str, bytes]:
    # Reading our database in WAL mode makes side files, and opening one to write a lock; these hold nothing.
    passing = ("autoprune.db-wal", "autoprune.db-shm", ".lock")
    files = [path for path in sorted(folder.rglob("*")) if "__pycache__" not in path.parts]
    return {
        str(path): path.read_bytes() if path.is_file() else b"" for path in files if not path.name.endswith(passing)
    }
