from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from random import Random

import pytest
from chaos_run import deck, drawn, main
from chaos_table import table_of
from faults.arena import Arena
from faults.cluster import processes
from faults.every import KINDS
from faults.mounts import can_mount, fill, mounted, readonly
from faults.server import Proxy


@pytest.fixture
def quiet(tmp_path):
    """A study that nobody has started, on SQLite; each driver would start a cluster of its own."""
    (tmp_path / "data").mkdir()
    return Arena(tmp_path, Random(0), cluster=None, server=None)


def test_faults_are_drawn_by_seed_and_all_kinds_come_up_equally_often(quiet):
    cards = deck(3)
    rounds = [[next(cards).name for _ in KINDS] for _ in range(2)]
    assert Counter(rounds[0]) == Counter(rounds[1]) == Counter(kind.name for kind in KINDS)
    assert rounds[0] != rounds[1]
    first, again = [[kind.name for kind in drawn(3, 1, 12, where=quiet)] for _ in range(2)]
    assert first == again
    assert first != [kind.name for kind in drawn(4, 1, 12, where=quiet)]


def test_only_faults_that_fit_a_study_are_drawn(quiet):
    names = {kind.name for number in range(20) for kind in drawn(0, number, 12, where=quiet)}
    assert "SQLite locked" in names
    assert "driver's own cluster killed" in names
    assert not {name for name in names if "PostgreSQL" in name}
    assert "node killed" not in names
    assert {kind.name for kind in drawn(0, 0, 12, where=quiet, only="trial: n")} == {"trial: nan"}


LINES = [
    {"study": 0, "seed": 0, "database": "SQLite", "fault": "a", "hit": True, "told": "", "violations": []},
    {"study": 0, "seed": 0, "database": "SQLite", "fault": "b", "hit": False, "told": "", "violations": []},
    {"study": 0, "seed": 0, "database": "SQLite", "end": {}, "endings": {"0": 2, "130": 1}, "violations": ["lost"]},
    {"study": 1, "seed": 0, "database": "PostgreSQL", "fault": "a", "hit": True, "told": "", "violations": ["x", "y"]},
    {"study": 1, "seed": 0, "database": "PostgreSQL", "end": {}, "endings": {"0": 1}, "violations": []},
]


def test_the_table_counts_faults_hits_and_violations():
    told = table_of(LINES)
    assert "| a | 2 | 2 | 1 | 1 | 2 |" in told
    assert "| b | 1 | 0 | 1 | 0 | 0 |" in told
    assert "| **all** | 3 | 2 | 2 | 1 | 2 |" in told
    assert "Studies resumed to their ends: 2, of which 1 without any violation there." in told
    assert "3 with 0, 1 with 130" in told


def test_what_is_in_the_log_is_not_run_again(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in LINES[3:]))
    assert main(["--studies", "0", "--log", str(log)]) == 1  # One was violated.
    log.write_text("".join(json.dumps(line) + "\n" for line in [{**LINES[4], "study": 0}, LINES[4]]))
    assert main(["--studies", "2", "--log", str(log)]) == 0
    assert main(["--table", "--log", str(log)]) == 0
    assert "Studies resumed to their ends: 2" in capsys.readouterr().out


@pytest.fixture
def echoing(tmp_path):
    """A proxy before a server that answers with what it is told."""
    place = tmp_path / "echo"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place))
    listener.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(100):
                client.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    proxy = Proxy(place)
    yield proxy
    proxy.close()
    listener.close()


def connect(proxy: Proxy) -> socket.socket:
    port = int(proxy.url("x").rpartition(":")[2].partition("/")[0])
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def said(connection: socket.socket, word: bytes) -> bytes:
    connection.sendall(word)
    return connection.recv(100)


def test_the_proxy_passes_delays_freezes_and_drops(echoing):
    with connect(echoing) as connection:
        assert said(connection, b"one") == b"one"
        echoing.delay_s, started = 0.1, time.monotonic()
        assert said(connection, b"two") == b"two"
        assert time.monotonic() - started >= 0.2  # There and back.
        echoing.delay_s = 0.0
        connection.settimeout(0.3)
        with echoing.frozen(), pytest.raises(TimeoutError):
            said(connection, b"three")
        connection.settimeout(10)
        assert connection.recv(100) == b"three"
        with echoing.refusing() as n:
            assert n == 1
            assert connection.recv(100) == b""
            with connect(echoing) as refused, contextlib.suppress(ConnectionError):
                assert refused.recv(100) == b""
    with connect(echoing) as connection:
        assert said(connection, b"four") == b"four"


def test_only_file_systems_of_our_own_are_filled(tmp_path):
    with pytest.raises(ValueError, match="only a file system of our own"), fill(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
    if not can_mount():
        pytest.skip("nothing can be mounted here")
    with mounted(tmp_path, size_mb=2):
        with fill(tmp_path) as taken:
            assert taken == 2 * 2**20
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / "file").write_bytes(bytes(4096))
        (tmp_path / "file").write_bytes(bytes(4096))
        (tmp_path / "folder").mkdir()
        with readonly(tmp_path / "folder"), pytest.raises(OSError, match="Read-only"):
            (tmp_path / "folder" / "file").touch()
        (tmp_path / "folder" / "file").touch()
    assert not os.path.ismount(tmp_path)


def test_processes_are_found_by_session_and_by_descent():
    sleep = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
    code = f"{sleep} start_new_session=True); {sleep}); time.sleep(600)"
    leader = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while len(found := processes(leader.pid, "time.sleep(600)")) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert leader.pid in found
        assert len(found) == 3
        assert processes(leader.pid, "no such thing") == []
    finally:
        for pid in processes(leader.pid, ""):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leader.wait()
