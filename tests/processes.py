"""Processes of this machine, as they descend from one another."""

from __future__ import annotations

import subprocess

__all__ = ["descendants", "members_of_session"]


def descendants(*pids: int) -> dict[int, str]:
    """Command lines of the processes below some, such as those of a cluster that a driver has started."""
    rows = _listed()
    found: dict[int, str] = {}
    above = set(pids)
    while above:
        below = {pid: command for pid, parent, _, command in rows if parent in above}
        above = below.keys() - found.keys()
        found |= below
    return found


def members_of_session(leader: int) -> dict[int, str]:
    """Command lines of the processes of a session, by the process that began it."""
    return {pid: command for pid, _, session, command in _listed() if session == leader}


def _listed() -> list[tuple[int, int, int, str]]:
    """Process, parent, session and whole command line, however narrow the terminal is."""
    command = ["ps", "-ww", "-eo", "pid=,ppid=,sess=,args="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = (line.split(None, 3) for line in lines)
    return [(int(pid), int(parent), int(session), "".join(args)) for pid, parent, session, *args in rows]
