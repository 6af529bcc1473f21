"""Databases that are restarted, slow, cut off, frozen, full, read-only, locked, or whose disk fails."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from faults.arena import LEASE_S, Arena
from faults.kinds import Kind
from faults.mounts import can_mount, fill
from faults.system_calls import failing, has_strace

__all__ = ["KINDS"]


def _is_server(arena: Arena) -> bool:
    return arena.server is not None


def _is_file(arena: Arena) -> bool:
    return arena.server is None


def _restarted(arena: Arena) -> str:
    states, _ = arena.live()
    assert arena.server is not None
    mode, down_s = arena.rng.choice(("immediate", "fast")), arena.rng.uniform(0, LEASE_S * 1.6)
    arena.server.stop(mode)
    time.sleep(down_s)
    arena.server.start()
    return f"server stopped ({mode}) for {down_s:.1f} s, {states['RUNNING']} trials running"


def _slow(arena: Arena) -> str:
    states, _ = arena.live()
    assert arena.proxy is not None
    before = arena.proxy.n_passed
    arena.proxy.delay_s = arena.rng.choice((0.05, 0.2, 0.5))
    time.sleep(LEASE_S * 1.6)
    delay_s, arena.proxy.delay_s = arena.proxy.delay_s, 0.0
    n = arena.proxy.n_passed - before
    return f"{n} packets delayed by {delay_s} s each, {states['RUNNING']} trials running"


def _dropped(arena: Arena) -> str:
    states, _ = arena.live()
    assert arena.proxy is not None
    for_s = arena.rng.uniform(0, LEASE_S * 1.6)
    with arena.proxy.refusing() as n:
        time.sleep(for_s)
    return f"{n} connections cut, new ones refused for {for_s:.1f} s, {states['RUNNING']} trials running"


def _frozen(arena: Arena) -> str:
    states, _ = arena.live()
    assert arena.proxy is not None
    for_s = arena.rng.uniform(1, LEASE_S * 1.6)
    with arena.proxy.frozen():
        time.sleep(for_s)
    return f"nothing passed for {for_s:.1f} s, {states['RUNNING']} trials running"


def _full_server(arena: Arena) -> str:
    states, _ = arena.live()
    assert arena.server is not None
    with arena.server.full():
        time.sleep(LEASE_S * 1.6)
        ended = "" if arena.server.is_up() else ", which ended it"
    return f"no room for the server's data for {LEASE_S * 1.6:.0f} s{ended}, {states['RUNNING']} trials running"


def _readonly_server(arena: Arena) -> str:
    """As after a failover to a replica: it answers, and refuses to write."""
    states, _ = arena.live()
    assert arena.server is not None
    arena.server.execute(f'ALTER DATABASE "{arena.database}" SET default_transaction_read_only = on')
    arena.server.cut_off(arena.database)
    time.sleep(LEASE_S * 1.6)
    arena.server.execute(f'ALTER DATABASE "{arena.database}" RESET default_transaction_read_only')
    arena.server.cut_off(arena.database)
    return f"read-only for {LEASE_S * 1.6:.0f} s, {states['RUNNING']} trials running"


def _file(arena: Arena) -> Path:
    return arena.folder / "db" / "autoprune.db"


def _locked(arena: Arena) -> str:
    """Somebody else holds the write lock for longer than a lease."""
    states, _ = arena.live()
    with contextlib.closing(sqlite3.connect(_file(arena), isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(LEASE_S * 1.6)
        connection.execute("ROLLBACK")
    return f"write lock held for {LEASE_S * 1.6:.0f} s, {states['RUNNING']} trials running"


def _full_file(arena: Arena) -> str:
    states, _ = arena.live()
    with fill(arena.folder / "db") as taken:
        time.sleep(LEASE_S * 1.6)
    return f"{taken:,} bytes taken for {LEASE_S * 1.6:.0f} s, {states['RUNNING']} trials running"


def _calls_fail(arena: Arena, calls: str, error: str) -> str:
    arena.live()
    driver, path = arena.rng.choice(arena.drivers), _file(arena)
    paths = [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]
    return f"driver {driver.pid}: {failing(driver.pid, calls, error, for_s=15, paths=paths)}"


def _readonly_file(arena: Arena) -> str:
    return _calls_fail(arena, "pwrite64,write", "EROFS")


def _writes_fail(arena: Arena) -> str:
    return _calls_fail(arena, "pwrite64,write", "EIO")


def _syncs_fail(arena: Arena) -> str:
    return _calls_fail(arena, "fsync,fdatasync", "EIO")


def _can_fail(arena: Arena) -> bool:
    return _is_file(arena) and has_strace(arena)


KINDS = (
    Kind("PostgreSQL restarted", _restarted, _is_server),
    Kind("PostgreSQL slow", _slow, _is_server),
    Kind("PostgreSQL's connections dropped", _dropped, _is_server),
    Kind("PostgreSQL's network frozen", _frozen, _is_server),
    Kind("PostgreSQL full", _full_server, lambda arena: _is_server(arena) and can_mount()),
    Kind("PostgreSQL read-only", _readonly_server, _is_server),
    Kind("SQLite locked", _locked, _is_file),
    Kind("SQLite full", _full_file, lambda arena: _is_file(arena) and can_mount()),
    Kind("SQLite read-only", _readonly_file, _can_fail),
    Kind("SQLite: writes fail", _writes_fail, _can_fail),
    Kind("SQLite: syncs fail", _syncs_fail, _can_fail),
)
