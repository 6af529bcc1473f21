"""Artifacts and data: folders full and read-only, files cut, bits flipped, writes that fail, data that change."""

from __future__ import annotations

import os
import time
from pathlib import Path

from faults.arena import LEASE_S, Arena, Missed, write_data
from faults.kinds import Kind
from faults.mounts import can_mount, fill, readonly
from faults.system_calls import failing, has_strace

__all__ = ["KINDS"]


def _full(arena: Arena) -> str:
    states, _ = arena.live()
    with fill(arena.artifacts) as taken:
        time.sleep(LEASE_S * 1.6)
    return f"{taken:,} bytes taken for {LEASE_S * 1.6:.0f} s, {states['RUNNING']} trials running"


def _readonly(arena: Arena) -> str:
    states, _ = arena.live()
    folder = arena.artifacts / arena.rng.choice(("trials/chaos", "phases"))
    with readonly(folder):
        time.sleep(LEASE_S * 1.6)
    return f"{folder.name} read-only for {LEASE_S * 1.6:.0f} s, {states['RUNNING']} trials running"


def _phase(arena: Arena, ending: str) -> Path:
    found = sorted(arena.artifacts.glob(f"phases/*{ending}"))
    if not found:
        raise Missed("no phase")
    return arena.rng.choice(found)


def _half_written(arena: Arena) -> str:
    """What a writer leaves that died before its data were on the disk: a phase, or its record, that is cut."""
    states, _ = arena.live()
    path = _phase(arena, arena.rng.choice((".safetensors", ".json")))
    size = path.stat().st_size
    kept = arena.rng.randrange(size)
    os.truncate(path, kept)
    (path.parent / f"{path.name}.{'0' * 32}.tmp").write_bytes(b"half")
    return f"{path.name} cut to {kept} of {size} bytes, {states['RUNNING']} trials running"


def _bit_flipped(arena: Arena) -> str:
    states, _ = arena.live()
    path = _phase(arena, ".safetensors")
    at, bit = arena.rng.randrange(path.stat().st_size), arena.rng.randrange(8)
    with path.open("r+b") as file:
        file.seek(at)
        before = file.read(1)[0]
        file.seek(at)
        file.write(bytes([before ^ 1 << bit]))
    return f"bit {bit} of byte {at} of {path.name}, {states['RUNNING']} trials running"


def _renames_fail(arena: Arena) -> str:
    _, worker = arena.live()
    return f"worker {worker}: {failing(worker, 'rename,renameat,renameat2', 'EIO', for_s=20)}"


def _syncs_fail(arena: Arena) -> str:
    _, worker = arena.live()
    return f"worker {worker}: {failing(worker, 'fsync,fdatasync', 'EIO', for_s=10)}"


def _data_changed(arena: Arena) -> str:
    """One label becomes another; the workers end, so that new ones read what is there now. Then all is as before."""
    states, _ = arena.live()
    path = arena.folder / "data" / "train.parquet"
    before = path.with_suffix(".before")
    os.link(path, before)
    write_data(path, changed=True)
    workers = arena.workers
    for pid in workers:
        os.kill(pid, 9)
    time.sleep(LEASE_S * 1.6)
    told = arena.start("resume", "chaos")
    arena.wait_end(told, within_s=120, told="on changed data")
    if told.returncode != 2 or "data" not in arena.output(told):
        arena.blame(f"on changed data a resume ended with {told.returncode}: {arena.output(told)[-300:]}")
    os.replace(before, path)
    return f"one label changed, {len(workers)} workers started anew, {states['RUNNING']} trials running"


KINDS = (
    Kind("artifacts full", _full, lambda arena: can_mount()),
    Kind("artifacts read-only", _readonly, lambda arena: can_mount()),
    Kind("phase half written", _half_written),
    Kind("bit of a phase flipped", _bit_flipped),
    Kind("artifacts: renames fail", _renames_fail, has_strace),
    Kind("artifacts: syncs fail", _syncs_fail, has_strace),
    Kind("data changed", _data_changed),
)
