"""Whole studies in processes of their own: real SQLite, real Ray, real training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial

from autoprune.errors import AutopruneError
from autoprune.search.storage import Database, StudyHandle
from tests.ray_nodes import Nodes, ray_nodes

STUDY = """
[study]
name = "tiny"
n_trials = {n_trials}
lease_s = 20

[space]
methods = ["magnitude", "slimming"]
macs_target = {{ low = 0.1, high = 0.9, step = 0.05 }}

[network]
architecture = "resnet_digits"

[data]
source = "digits"

[train.dense]
epochs = 1

[train.sparsify]
epochs = 0.5

[train.finetune]
epochs = {epochs}

[engine]
precision = "float32"
recalibration_images = 300
threads = 1
"""


def is_there(pid: int) -> bool:
    """Whether a process lives; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Sandbox:
    """A folder with a study file, and the command line started in it."""

    def __init__(self, folder: Path, *, url: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.url = folder, url or f"sqlite:///{folder}/autoprune.db"
        self.environment = {**(environment or {}), "AUTOPRUNE_STORAGE": self.url, "OMP_NUM_THREADS": "1"}
        self.running: list[subprocess.Popen[str]] = []

    def write(self, *, n_trials: int, epochs: float = 1, text: str = STUDY) -> None:
        (self.folder / "study.toml").write_text(text.format(n_trials=n_trials, epochs=epochs))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / f"log{len(self.running)}.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "autoprune", *arguments],
                cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def output(self, process: subprocess.Popen[str]) -> str:
        return (self.folder / f"log{self.running.index(process)}.txt").read_text()

    def run(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        assert process.wait(timeout=300) == code, self.output(process)
        return self.output(process)

    def trials(self) -> list[FrozenTrial]:
        """All trials; none while there is no study yet."""
        try:
            db = Database.open_readonly(self.url)
        except AutopruneError:
            return []
        try:
            return StudyHandle.open(db, "tiny").trials()
        except AutopruneError:
            return []
        finally:
            db.close()

    def states(self) -> list[str]:
        return [trial.state.name for trial in self.trials()]

    def wait_for(self, ready: Callable[[list[str]], bool], *, timeout_s: float = 240) -> list[str]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if ready(states := self.states()):
                return states
            time.sleep(0.5)
        told = "\n".join(self.output(process) for process in self.running)
        raise AssertionError(f"waited too long; trials are {self.states()}; output:\n{told}")

    def keys_of_finished(self) -> list[str]:
        return [trial.user_attrs["key"] for trial in self.trials() if trial.state.name in ("COMPLETE", "PRUNED")]

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """A Ray node with two CPUs, for all studies that need none of their own."""
    with ray_nodes(1, "--num-cpus=2") as found:
        yield found


@pytest.fixture
def sandbox(tmp_path: Path, nodes: Nodes) -> Iterator[Sandbox]:
    """A folder whose drivers share a cluster that is there already."""
    box = Sandbox(tmp_path, environment={**nodes.environment, "RAY_ADDRESS": nodes.address})
    yield box
    box.end()


@pytest.fixture
def lone_sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A folder in which each driver starts a cluster of its own."""
    box = Sandbox(tmp_path)
    yield box
    box.end()
