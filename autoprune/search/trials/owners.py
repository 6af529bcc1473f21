"""Names of drivers, and what becomes of the leases of those that are known to be dead."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import sqlalchemy as sa

from autoprune.search.storage import StudyHandle, schema

__all__ = ["expire_dead_leases", "is_gone", "new_owner"]


def _place() -> str:
    """This machine's process table: two containers of one host name have different ones."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # No Linux: then a host name must do.
        return socket.gethostname()
    return f"{socket.gethostname()}/{boot[:8]}/{namespace.strip('pid:[]')}"


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot: another one that got the same number started later."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def new_owner() -> str:
    """A name for this driver, new at each call: place, process and when it started."""
    return f"{_place()}|{os.getpid()}|{_started(os.getpid())}|{uuid.uuid4().hex[:8]}"


def is_gone(owner: str) -> bool:
    """Whether the driver of this name ran on this machine and its process is no longer there.

    False wherever that can't be known; its leases then run out by themselves.
    """
    place, _, rest = owner.partition("|")
    pid, _, rest = rest.partition("|")
    started = rest.partition("|")[0]
    if place != _place() or not pid.isdigit() or started == "None":
        return False
    return _started(int(pid)) != started


def expire_dead_leases(study: StudyHandle) -> list[str]:
    """End the leases of drivers that were killed on this machine, so that a resume need not wait for them to run out.

    Shared phases know no study, so those that a dead driver of any study was computing are free again as well.

    Returns:
        The owners found dead among the drivers of this study.
    """
    _free_phases(study)
    dead = [row.owner for row in study.drivers() if row.left_at is None and is_gone(row.owner)]
    if dead:
        leases, drivers = schema.leases, schema.drivers
        now = study.db.now()
        with study.db.writing() as connection:
            connection.execute(sa.update(leases).where(leases.c.owner.in_(dead)).values(expires_at=now))
            connection.execute(sa.update(drivers).where(drivers.c.owner.in_(dead)).values(left_at=now))
    return dead


def _free_phases(study: StudyHandle) -> None:
    phases = schema.phases
    with study.db.reading() as connection:
        query = sa.select(phases.c.owner).where(phases.c.place.is_(None)).distinct()
        # A holder's name is its driver's with something behind, which `is_gone` does not look at.
        dead = [owner for owner in connection.execute(query).scalars() if is_gone(owner)]
    if dead:
        with study.db.writing() as connection:
            connection.execute(sa.delete(phases).where(phases.c.owner.in_(dead), phases.c.place.is_(None)))
