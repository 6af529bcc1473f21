"""A PostgreSQL server that can be restarted and filled, and a proxy before it that delays, drops and freezes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from faults.mounts import fill, mounted

__all__ = ["Proxy", "Server", "server"]

_SIZE_MB = 240  # Of the file system that holds the data: 40 MB when it is new, and the write-ahead log.


class Server:
    """A server of our own on a Unix socket, whose data lie in a small file system where one can be mounted.

    Args:
        folder: Of the socket and the log; ``data`` in it is the small file system.
        binaries: Where ``pg_ctl`` lies.
    """

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder, self._binaries = folder, binaries
        self._user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root.
        if self._user is not None:
            shutil.chown(folder, self._user)
            shutil.chown(folder / "data", self._user)
        self._run("initdb", "-A", "trust", "-U", "autoprune", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / ".s.PGSQL.5432"

    def start(self) -> None:
        """Start it, and wait until it answers; one that runs already is left alone."""
        if self.is_up():
            return
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off -c max_connections=200"
        options += " -c min_wal_size=32MB -c max_wal_size=64MB"
        self._run("pg_ctl", "-w", "-t", "60", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is a crash."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run("pg_ctl", "-w", "-t", "60", "-m", mode, "stop")

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            self.execute("SELECT 1")
        except sa.exc.SQLAlchemyError:
            return False
        return True

    def execute(self, statement: str) -> None:
        """Run a statement as its owner, outside any transaction."""
        url = sa.URL.create(
            "postgresql+psycopg", username="autoprune", database="postgres", query={"host": str(self.folder)}
        )
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(statement))

    def blank(self) -> str:
        """Make a database; returns its name."""
        name = f"chaos_{uuid.uuid4().hex[:12]}"
        self.execute(f'CREATE DATABASE "{name}"')
        return name

    def cut_off(self, name: str) -> None:
        """End all connections to a database."""
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    def url(self, name: str) -> str:
        """Straight to it."""
        return f"postgresql://autoprune@/{name}?host={self.folder}"

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Leave no room for its data; started again where that has ended it."""
        with fill(self.folder / "data"):
            yield
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._binaries / program), "-D", str(self.folder / "data" / "pg"), *arguments]
        subprocess.run(
            command, check=True, user=self._user, cwd=self.folder, timeout=120,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


@contextlib.contextmanager
def server() -> Iterator[Server | None]:
    """Start one; None where there are no binaries."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].name:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="autoprune-pg-"))
    (folder / "data").mkdir()
    try:
        with mounted(folder / "data", size_mb=_SIZE_MB):
            made = Server(folder, found[-1].parent)
            try:
                yield made
            finally:
                made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Proxy:
    """Stands between drivers and a server on a Unix socket, at a port of this machine's loopback.

    Args:
        target: The socket.
    """

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._passing = threading.Event()
        self._passing.set()
        self._refuses = False
        self.delay_s = 0.0
        self.n_passed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, name: str) -> str:
        """Of a database behind it."""
        return f"postgresql://autoprune@127.0.0.1:{self._listener.getsockname()[1]}/{name}"

    def drop(self) -> int:
        """Close every connection at once; returns how many there were."""
        with self._guard:
            pairs, self._open = self._open, set()
        for each in pairs:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return len(pairs) // 2

    @contextlib.contextmanager
    def refusing(self) -> Iterator[int]:
        """Close all connections, and each new one at once; gives how many were open."""
        self._refuses = True
        try:
            yield self.drop()
        finally:
            self._refuses = False

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let nothing through and close nothing, as a network that is gone."""
        self._passing.clear()
        try:
            yield
        finally:
            self._passing.set()

    def close(self) -> None:
        """Listen no longer."""
        self._passing.set()
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # Closed.
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        target = socket.socket(socket.AF_UNIX)
        try:
            if self._refuses:
                raise OSError
            target.connect(str(self._target))
        except OSError:
            client.close()
            target.close()
            return
        with self._guard:
            self._open |= {client, target}
        back = threading.Thread(target=self._pump, args=(target, client), daemon=True)
        back.start()
        self._pump(client, target)
        back.join()
        with self._guard:
            self._open -= {client, target}
        client.close()
        target.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._passing.wait()
                self.n_passed += 1
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
