"""A Ray cluster of two nodes, of which the second may be killed and is replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.processes import descendants, members_of_session
from tests.ray_nodes import Nodes, ray_nodes

__all__ = ["Cluster", "cluster", "processes"]

_START_S = 90.0


def processes(leader: int, part: str) -> list[int]:
    """Processes of a session and those below its leader, which may have sessions of their own, by their command line.

    Args:
        leader: A driver or a node, whose session has its number.
        part: What is in the command line.
    """
    session = members_of_session(leader)
    found = session | descendants(leader, *session)
    return [pid for pid, command in found.items() if part in command]


class Cluster:
    """Two nodes of one CPU each.

    Args:
        head: The first node, which nobody kills.
    """

    def __init__(self, head: Nodes) -> None:
        self.head = head
        self.second = self._join()

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to use it."""
        return {**self.head.environment, "RAY_ADDRESS": self.head.address}

    @property
    def sessions(self) -> tuple[int, ...]:
        """Of its nodes."""
        return (*self.head.pids, self.second.pid)

    def replace(self) -> None:
        """End what is left of the second node and start another one."""
        self.end()
        self.second = self._join()

    def end(self) -> None:
        """End the second node."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.second.pid, signal.SIGKILL)
        self.second.wait()

    def _join(self) -> subprocess.Popen[bytes]:
        log = Path(self.head.environment["RAY_TMPDIR"]) / f"node-{time.monotonic_ns()}.txt"
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--address={self.head.address}"]
        with log.open("w") as file:
            process = subprocess.Popen(
                [*command, "--num-cpus=1", "--object-store-memory=100000000"],
                env={**os.environ, **self.head.environment}, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while "Ray runtime started" not in (told := log.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a second node must start, but: {told}")
            time.sleep(0.1)
        return process


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Start both nodes; all is gone afterwards."""
    with ray_nodes(1, "--num-cpus=1") as head:
        made = Cluster(head)
        try:
            yield made
        finally:
            made.end()
