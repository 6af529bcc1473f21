"""Exit codes."""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune import errors
from autoprune.cli import status
from autoprune.errors import AutopruneError

Run = Callable[..., Any]

LEAVES = sorted(kind.__name__ for kind in errors.AutopruneError.__subclasses__() if kind.__module__ == errors.__name__)


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_of_ours_is_one_line(kind: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{}] if kind == "TrialStoppedError" else []

    def fail(args: object) -> int:
        raise getattr(errors, kind)("it went wrong. Do this.", *found)

    monkeypatch.setattr(status, "run", fail)
    answer = run("status", "digits")
    assert (answer.code, answer.out, answer.err) == (
        1 if kind == "StudyFailedError" else 2,
        "",
        "autoprune: it went wrong. Do this.\n",
    )
    assert issubclass(getattr(errors, kind), AutopruneError)


def test_errors_that_are_bugs_keep_their_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(status, "run", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run("status", "digits")


def test_an_interrupt(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "run", fail)
    assert run("status", "digits").code == 130


def test_a_reader_that_has_seen_enough() -> None:
    """As in ``autoprune list spaces | true``."""
    command = [sys.executable, "-m", "autoprune", "list", "spaces"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # long before Python has started
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file on a full disk")
def test_a_full_disk_is_told_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "run", lambda args: Path("/dev/full").write_text("x"))
    answer = run("status", "digits")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("autoprune: a file must be written, but can't be: No space left on device. Make room")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "f"),
            "f must be written, but can't be: Read-only file system. M",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "f"),
            "f must be opened, but can't be: Permission denied. G",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            "a file must be read and written, but can't be: Input/output error. C",
        ),
        (
            MemoryError(),
            "this needs more memory than there is. Make some free, or give a smaller input; what is stored",
        ),
    ],
)
def test_what_the_machine_refuses_is_told_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def refuse(args: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(status, "run", refuse)
    answer = run("status", "digits")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"autoprune: {told}")
    assert answer.err.count("\n") == 1


def test_a_file_that_the_code_has_lost_is_a_bug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "run", lambda args: Path("/there/is/no/such/file").read_text())
    with pytest.raises(FileNotFoundError):
        run("status", "digits")
