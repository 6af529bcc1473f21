"""Ray nodes in processes of their own, as ``ray start`` makes them on the machines of a cluster."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Nodes:
    """A cluster of nodes on this machine, and what a process needs to reach it.

    Args:
        address: HOST:PORT of the first node.
        environment: What processes that use it must have in theirs.
        pids: Of the nodes; each is the leader of a session of its own, to which its workers belong.
    """

    address: str
    environment: dict[str, str]
    pids: tuple[int, ...]


@contextlib.contextmanager
def ray_nodes(n: int, *flags: str) -> Iterator[Nodes]:
    """Start ``n`` nodes, each with these flags of ``ray start``, which ask for a token; all is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="autoprune-ray-"))  # The paths of Ray's sockets must be short.
    shared = {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Else the suite's own processes go before them.
        "OMP_NUM_THREADS": "1",
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(*more: str) -> None:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--object-store-memory=100000000"]
        with (folder / f"node{len(started)}.txt").open("w") as log:
            process = subprocess.Popen(
                [*command, *flags, *more],
                env={**os.environ, **shared}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 90
        # The address is written after it is told that all has started.
        while "Ray runtime started" not in (told := Path(log.name).read_text()) or not _address(folder):
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.1)

    try:
        start("--head", "--port=0", "--include-dashboard=false")
        address = _address(folder)
        for _ in range(n - 1):
            start(f"--address={address}")
        yield Nodes(address, shared, tuple(process.pid for process in started))
    finally:
        for process in reversed(started):
            process.terminate()  # Ends the node's own processes, too.
        for process in started:
            process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def _address(folder: Path) -> str:
    path = folder / "ray" / "ray_current_cluster"
    return path.read_text().strip() if path.exists() else ""
