"""Passwords of databases are neither printed nor listed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.cli.secrecy import parted, without_password
from autoprune.cli.wording import command

SECRET = "hunter2"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("url", "bare", "password"),
    [
        ("postgresql://me:hunter2@host:5432/db", "postgresql://me@host:5432/db", "hunter2"),
        ("postgresql+psycopg://me:a%40b%2Fc@host/db?x=1", "postgresql+psycopg://me@host/db?x=1", "a@b/c"),
        ("postgresql://me@host/db?password=hunter2", "postgresql://me@host/db", "hunter2"),
        ("postgresql://me@host/db?a=1&password=h%20r&b=2", "postgresql://me@host/db?a=1&b=2", "h r"),
        ("postgresql://me:@host/db", "postgresql://me@host/db", ""),
        ("postgresql://me@host/db", "postgresql://me@host/db", None),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db", None),
        ("no address", "no address", None),
    ],
)
def test_an_address_and_its_password(url: str, bare: str, password: str | None) -> None:
    assert parted(url) == (bare, password)


def test_commands_to_copy() -> None:
    url = f"postgresql://me:{SECRET}@host/db"
    assert command("resume", "digits", storage=url) == "autoprune resume digits --storage postgresql://me@host/db"
    assert SECRET not in without_password(url)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc, which only Linux has")
@pytest.mark.parametrize("form", ["apart", "joined"])
def test_the_list_of_processes(form: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # Takes the connection, and says nothing for ten seconds.
        url = f"postgresql://me:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/db"
        place = ["--storage", url] if form == "apart" else [f"--storage={url}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "autoprune", "status", "digits", *place],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            silent.settimeout(60)
            connection, _ = silent.accept()  # By now it has started over.
            listed = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
            assert "status" in listed
            assert any("postgresql://me@127.0.0.1" in argument for argument in listed)
            assert SECRET not in " ".join(listed)
            # Which its owner alone can read, and from which libpq takes it.
            assert f"PGPASSWORD={SECRET}" in Path(f"/proc/{process.pid}/environ").read_text().split("\0")
            connection.close()
            _, told = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 2
    assert told.startswith("autoprune: the database postgresql+psycopg://me@127.0.0.1")
    assert SECRET not in told
