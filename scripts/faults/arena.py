"""One real study under faults: its folder, its database, its drivers, and what was seen of it on the way."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from autoprune.errors import AutopruneError
from autoprune.search.storage import Database, StudyHandle
from faults import network
from faults.cluster import Cluster, processes
from faults.mounts import mounted
from faults.server import Proxy, Server
from tests.system.conftest import Sandbox

__all__ = ["LEASE_S", "Arena", "Missed", "arena", "write_data"]

LEASE_S = 5
_PATIENCE_S = 240.0  # Longer without anything that lives is a hang; other work may go on beside us.
_STEP = 8  # Trials of the study, and those that are added where it is finished before its faults are.
_TRIAL_LIMIT_S = 60.0  # Many times what one takes, also where other work goes on beside it.
_ENDED_WELL = {0, 1, 2, 130}
_RAW = ("Traceback", "(raylet)", "core_worker.cc", "ray::", "Fatal Python error")

_STUDY = """
[study]
name = "chaos"
n_trials = {n_trials}
seed = {seed}
lease_s = {lease_s}
trial_time_limit = "{limit_s:g}s"
max_retry = 10
max_failures = 1000
max_failures_in_a_row = 1000

[space]
methods = ["magnitude", "slimming"]
macs_target = {{ low = 0.1, high = 0.9, step = 0.01 }}

[network]
factory = "network:Net"

[data]
source = "parquet"
train = "data/train.parquet"
validation = "random:0.25"

[train.dense]
epochs = 2

[train.sparsify]
epochs = 2

[train.finetune]
epochs = 6

[engine]
precision = "float32"
recalibration_images = 300
threads = 1
"""


class Missed(Exception):  # noqa: N818  no error: the fault found nothing to hit
    """Nothing live was there to be hit."""


class Arena(Sandbox):
    """A study whose drivers are started, struck and started again.

    Args:
        folder: Its own.
        rng: Of its faults.
        cluster: Where its trials run; None: each driver starts a cluster of its own.
        server: Where its database lies, behind a proxy; None: in a SQLite file.
    """

    def __init__(self, folder: Path, rng: Random, *, cluster: Cluster | None, server: Server | None) -> None:
        self.rng, self.cluster, self.server = rng, cluster, server
        self.database = "" if server is None else server.blank()
        self.proxy = None if server is None else Proxy(server.socket)
        url = f"sqlite:///{folder}/db/autoprune.db" if self.proxy is None else self.proxy.url(self.database)
        super().__init__(folder, url=url, environment={} if cluster is None else cluster.environment)
        self.direct_url = self.url if server is None else server.url(self.database)
        self.wanted = _STEP
        self.seen: dict[int, tuple[float, ...]] = {}  # Values of complete trials: they must stay for ever.
        self.violations: list[str] = []
        self.endings: Counter[str] = Counter()
        self._judged: set[int] = set()
        write_data(folder / "data" / "train.parquet")
        shutil.copy(network.__file__, folder / "network.py")
        text = _STUDY.format(n_trials=_STEP, seed=rng.randrange(1000), lease_s=LEASE_S, limit_s=_TRIAL_LIMIT_S)
        (folder / "study.toml").write_text(text)

    @property
    def artifacts(self) -> Path:
        """Where networks and phases lie."""
        return self.folder / "autoprune_artifacts"

    @property
    def drivers(self) -> list[subprocess.Popen[str]]:
        """Those that live; the one started first comes first."""
        return [process for process in self.running if process.poll() is None]

    @property
    def workers(self) -> list[int]:
        """Processes in which trials run."""
        sessions = [process.pid for process in self.drivers] if self.cluster is None else self.cluster.sessions
        return [pid for session in sessions for pid in processes(session, "ray::ImplicitFunc")]

    def stored(self) -> list[FrozenTrial] | None:
        """All trials, asked past the proxy; None where nobody answers or there is no study."""
        try:
            db = Database.open_readonly(self.direct_url)
        except AutopruneError:
            return None
        try:
            return StudyHandle.open(db, "chaos").trials()
        except AutopruneError:
            return None
        finally:
            db.close()

    def look(self) -> dict[str, int]:
        """Trials by state now; that no result has gone or changed is checked on the way."""
        trials = self.stored()
        if trials is None:
            return {}
        found = {trial.number: tuple(trial.values) for trial in trials if trial.state.name == "COMPLETE"}
        for number, values in self.seen.items():
            if found.get(number) != values:
                self.blame(f"the result {values} of trial {number} is now {found.get(number)}")
        self.seen |= found
        return dict(Counter(trial.state.name for trial in trials))

    def blame(self, violation: str) -> None:
        """Something is not as promised."""
        if violation not in self.violations:
            self.violations.append(violation)

    # Drivers

    def launch(self, *, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        """Start one more driver."""
        before = self.environment
        self.environment = {**before, **(environment or {})}
        try:
            return self.start("launch", "study.toml", "--trials", str(self.wanted), "--concurrency", "2")
        finally:
            self.environment = before

    def judge(self) -> None:
        """Look at the drivers that have ended by themselves: their exit codes and what they said."""
        for process in self.running:
            if process.poll() is None or process.pid in self._judged:
                continue
            self._judged.add(process.pid)
            said = self.output(process)
            self.endings[str(process.returncode)] += 1
            # One that is asked to end while Python starts ends by the signal itself, which shells tell as 130 as well.
            is_unborn = process.returncode == -signal.SIGINT and not said
            if process.returncode not in _ENDED_WELL and not is_unborn:
                self.blame(f"a driver ended with {process.returncode}: {said[-300:]}")
            for part in _RAW:
                if part in said:
                    at = said.index(part)
                    self.blame(f"a driver said {part!r}: {said[max(0, at - 80) : at + 300]}")

    def kill(self, process: subprocess.Popen[str]) -> None:
        """End a driver as `kill -9` does; it owes nobody an exit code."""
        self._judged.add(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self.endings["killed"] += 1

    def end_driver(self, process: subprocess.Popen[str], *, within_s: float = 60.0) -> None:
        """Ask a driver to end, as Ctrl-C does; one that does not is a hang."""
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        self.wait_end(process, within_s=within_s, told="after Ctrl-C")

    def wait_end(self, process: subprocess.Popen[str], *, within_s: float, told: str) -> None:
        """Wait for a driver's end."""
        try:
            process.wait(within_s)
        except subprocess.TimeoutExpired:
            stack = _stack_of(process.pid)
            self.blame(f"hang: a driver still lives {within_s:.0f} s {told}: {self.output(process)[-300:]} {stack}")
            self.kill(process)
        self.judge()

    def until(self, ready: Callable[[], Any], *, what: str, within_s: float = _PATIENCE_S, n_drivers: int = 1) -> Any:
        """Wait for something, starting so many drivers whenever there is none; a hang where it never comes.

        Raises:
            Missed: It did not come.
        """
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            self.judge()
            if not self.drivers:
                states = self.look()
                if states.get("COMPLETE", 0) + states.get("PRUNED", 0) >= self.wanted:
                    self.wanted += _STEP
                for _ in range(n_drivers):
                    self.launch()
            if answer := ready():
                return answer
            time.sleep(0.2)
        told = " ".join(self.output(process)[-300:] for process in self.drivers)
        self.blame(f"hang: waited {within_s:.0f} s for {what}; trials are {self.look()}; drivers said: {told}")
        for process in self.drivers:
            self.kill(process)
        raise Missed(what)

    def live(self, *, n_drivers: int = 1) -> tuple[dict[str, int], int]:
        """Wait until so many drivers live, a trial runs and a worker trains; its states and that worker."""
        for _ in range(n_drivers - len(self.drivers)):
            self.launch()

        def ready() -> tuple[dict[str, int], int] | None:
            if len(self.drivers) < n_drivers:
                return None
            states, workers = self.look(), self.workers
            return (states, self.rng.choice(workers)) if states.get("RUNNING") and workers else None

        return self.until(ready, what="a running trial", n_drivers=n_drivers)

    def settle(self) -> None:
        """Two drivers share the study from here on, or one that has a cluster of its own."""
        n_drivers = 1 if self.cluster is None else 2
        for process in self.drivers[n_drivers:]:
            self.end_driver(process)
        if len(self.drivers) < n_drivers:
            self.launch()  # It takes its time to start; what comes next need not wait for it.

    def end(self) -> None:
        """End all that was started here."""
        for process in self.running:
            for sign in (signal.SIGCONT, signal.SIGKILL):
                try:
                    os.killpg(process.pid, sign)
                except ProcessLookupError:
                    break
            process.wait()
        if self.proxy is not None:
            self.proxy.close()


@contextmanager
def arena(folder: Path, rng: Random, *, cluster: Cluster | None, server: Server | None) -> Iterator[Arena]:
    """A study in a folder, whose database and artifacts lie in small file systems where such can be mounted."""
    with ExitStack() as stack:
        for name, size_mb in (("db", 32), ("autoprune_artifacts", 96), ("data", 8)):
            (folder / name).mkdir(parents=True)
            stack.enter_context(mounted(folder / name, size_mb=size_mb))
        made = Arena(folder, rng, cluster=cluster, server=server)
        try:
            yield made
        finally:
            made.end()


def write_data(path: Path, *, changed: bool = False) -> None:
    """Scikit-learn's digits as encoded images; or the same with one label changed."""
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    encoded = []
    for image in np.round(digits.images * 255 / 16).astype(np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "png")
        encoded.append({"bytes": buffer.getvalue()})
    labels = digits.target.copy()
    if changed:
        labels[0] = (labels[0] + 1) % 10
    temporary = path.with_suffix(".tmp")
    parquet.write_table(pa.table({"img": encoded, "label": labels}), temporary)
    os.replace(temporary, path)


def _stack_of(pid: int) -> str:
    """Where a hanging process stands, as far as the kernel tells."""
    try:
        return f"(waits in {Path(f'/proc/{pid}/wchan').read_text()})"
    except OSError:
        return ""
