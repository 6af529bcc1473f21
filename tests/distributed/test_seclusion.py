"""Who can reach a cluster that autoprune starts on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.distributed.seclusion import keep_token

ROOT = Path(__file__).parents[2]
LOOK = """
import os, re
from pathlib import Path
from autoprune.distributed import open_cluster

def processes():
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours

def sockets():
    for pid in processes():
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                if found := re.fullmatch(r"socket:\\[(\\d+)\\]", os.readlink(fd)):
                    yield found[1]
            except OSError:
                continue

LISTENING = "0A"
with open_cluster():
    import ray
    ray.get(ray.remote(lambda: 1).remote())
    ours = set(sockets())
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == LISTENING and cells[9] in ours:
                print("listens", cells[1].partition(":")[0])
    print("asks for a", os.environ.get("RAY_AUTH_MODE"))
"""
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks into /proc, which only Linux has")
def test_a_local_cluster_listens_on_loopback_and_asks_for_a_token(tmp_path: Path) -> None:
    alone = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", LOOK], capture_output=True, text=True, timeout=300, check=True,
        env={**alone, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    *listens, asked = done.stdout.splitlines()
    assert len(listens) >= 4  # The servers of the cluster, of the node, and of the workers.
    assert {line.removeprefix("listens ") for line in listens} <= LOOPBACK
    assert asked == "asks for a token"
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_a_token_that_others_can_read_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    path.write_text("a" * 64)
    path.chmod(0o644)
    keep_token()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == "a" * 64


def test_what_the_user_has_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    keep_token()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    keep_token()
    assert not (tmp_path / "token").exists()
