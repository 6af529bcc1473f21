"""Drivers and workers by the thousand in one process, on a clock of its own; what comes of it is checked.

``python scripts/simulate.py`` runs the long form, 10,000 trials, and writes ``studies/reliability/simulation.md``;
``--trials``, ``--drivers``, ``--workers`` and ``--seed`` make another one. Events are taken in the order of a virtual
time: everything that a driver does is done by the real desk, life cycle, proposer, phases and retention on a real
SQLite file, and takes no virtual time; only workers and the net between are made up. What a seed decides: how long each
trial takes, which messages are late or lost, which workers die, which drivers are killed or stopped for longer than
their leases, and by how much their clocks differ.

One database is opened for each driver. They share the cache of trials that have ended and the proposer, both of which
give the same answers shared or not, or 64 drivers would hold every trial 64 times in this one process.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import alembic.command  # noqa: F401  (Optuna imports it late; here before anything is timed)
import fake_study
import machine
from fake_study import NAME, FakeTrial, told
from histories import disagreements
from optuna.storages._rdb.storage import _VersionManager

from autoprune.config import Failed, Progressed, Report
from autoprune.search.dispatch import Dispatcher
from autoprune.search.invariants import file_violations, phase_violations, row_violations, unsettled
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, StoredTrial

RESULTS = Path(__file__).parents[1] / "studies" / "reliability" / "simulation.md"
GRACE_S = 60.0
EPOCH = 1_800_000_000.0  # When the virtual time begins, for the database.


@dataclass(frozen=True)
class Faults:
    """How often things go wrong.

    Args:
        late: Share of the messages that are as late as a minute.
        lost: Share of the messages on progress that are lost; the word on an end comes, or its worker counts as dead.
        worker_dies: Share of the trials whose worker dies.
        killed_every_s: Mean time between two kills of a driver; another one takes its place after a while.
        stopped_every_s: Mean time between two stops of a driver, for up to three times its grace period.
        skew_s: By how much the clocks of drivers differ from the true time, at most.
    """

    late: float = 0.02
    lost: float = 0.01
    worker_dies: float = 0.02
    killed_every_s: float = 120.0
    stopped_every_s: float = 120.0
    skew_s: float = 5.0


@dataclass
class World:
    """The virtual time and what is to happen."""

    rng: random.Random
    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: Iterator[int] = field(default_factory=itertools.count)

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Let something happen so much later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), act))

    def step(self) -> bool:
        """Let the next thing happen; False where there is none."""
        if not self._events:
            return False
        self.now, _, act = heapq.heappop(self._events)
        act()
        return True


@dataclass
class Times:
    """Processor seconds of drivers, by what they did."""

    seconds: Counter[str] = field(default_factory=Counter)

    def of(self, what: str, work: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Do something and count its time."""
        start = time.process_time()
        try:
            return work(*args, **more)
        finally:
            self.seconds[what] += time.process_time() - start


class Driver:
    """One driver: the real desk, and the messages that have come for it.

    Args:
        sim: Where it lives.
        name: Its owner's name.
        concurrency: Its workers.
    """

    def __init__(self, sim: Simulation, name: str, concurrency: int) -> None:
        self._sim, self._concurrency, self.owner = sim, concurrency, name
        skew = sim.world.rng.uniform(-sim.faults.skew_s, sim.faults.skew_s)
        self._db = Database.open(sim.url, create=False, clock=lambda: EPOCH + sim.world.now + skew)
        record = StudyHandle.open(self._db, NAME)
        record._history = sim.record._history  # See the module's docstring.
        self.desk: Dispatcher = fake_study.dispatcher(
            record, sim.folder, owner=name, n_trials=sim.n_trials, concurrency=concurrency, proposer=sim.proposer,
            clock=lambda: sim.world.now, grace_s=GRACE_S,
        )  # fmt: skip
        self.is_dead, self.resumes_at, self.has_ended = False, 0.0, False
        self._inbox: list[tuple[str, Claim, Report | None]] = []
        self._handles = itertools.count()
        record.enter(name)
        sim.world.after(sim.world.rng.uniform(0, GRACE_S / 5), self._beat)
        sim.world.after(sim.world.rng.uniform(0, 5), self._look)

    def kill(self) -> None:
        """It is gone, with its workers and its connections."""
        self.is_dead = True
        self._db.close()

    def stop_for(self, seconds: float) -> None:
        """It stands still, as after SIGSTOP, and then goes on as if nothing had been."""
        self.resumes_at = self._sim.world.now + seconds

    def _when_awake(self, act: Callable[[], None]) -> bool:
        """Whether it can act now; where it stands still it does so later."""
        if self.is_dead or self.has_ended:
            return False
        if self._sim.world.now < self.resumes_at:
            self._sim.world.after(self.resumes_at - self._sim.world.now, act)
            return False
        return True

    def _beat(self) -> None:
        if self._when_awake(self._beat):
            self._sim.times.of("beat", self.desk.beat)
            self._sim.world.after(GRACE_S / 5, self._beat)

    def _look(self) -> None:
        """Hand out what there is, and look again later."""
        if self._when_awake(self._look):
            self._hand_out()
            if not self.has_ended:
                self._sim.world.after(5.0, self._look)

    def _hand_out(self) -> None:
        while len(self.desk.live) < self._concurrency:
            handle = f"{self.owner}/{next(self._handles)}"
            given = self._sim.times.of("claim", self.desk.next, handle)
            if not isinstance(given, Claim):
                self.has_ended = self.desk.finished and not self.desk.live
                return
            self._sim.note("claimed", self.owner, number=given.number)
            self._send_next(handle, given, FakeTrial(given, self._sim.folder).reports())

    def _send_next(self, handle: str, claim: Claim, reports: Iterator[Report | None]) -> None:
        """Let a worker come to its next word, which is then on its way; what it publishes is there before."""
        world, faults = self._sim.world, self._sim.faults
        seconds = world.rng.lognormvariate(4.0, 0.6)  # A minute or so.

        def arrive(report: Report | None) -> None:
            if self._when_awake(lambda: arrive(report)):
                self._hear(handle, claim, report, reports)

        def speak() -> None:
            if self.is_dead:
                return
            report = None if world.rng.random() < faults.worker_dies / 3 else next(reports)
            delay = world.rng.uniform(0, 60) if world.rng.random() < faults.late else world.rng.uniform(0, 0.1)
            if isinstance(report, Progressed) and world.rng.random() < faults.lost:
                self._sim.n_lost += 1
                self._send_next(handle, claim, reports)
            else:
                world.after(delay, lambda: arrive(report))

        world.after(seconds, speak)

    def _hear(self, handle: str, claim: Claim, report: Report | None, reports: Iterator[Report | None]) -> None:
        times = self._sim.times
        if isinstance(report, Progressed):
            times.of("hear", self.desk.heard, handle, report)
            if not times.of("hear", self.desk.should_stop, handle, report):
                self._send_next(handle, claim, reports)
                return
        self._sim.note("telling", self.owner, number=claim.number, final=isinstance(report, Failed))
        verdict = times.of("tell", self.desk.ended, handle, report, crashed=report is None)
        self._sim.note("told", self.owner, number=claim.number, **{"as": told(verdict)})
        self._hand_out()


class Simulation:
    """A study driven by many drivers.

    Args:
        folder: For its database and files.
        seed: Of all that is drawn.
        n_trials: Results that it is to have.
        n_drivers: At once.
        n_workers: In all.
        faults: What goes wrong.
        sampler: Of the proposals.
    """

    def __init__(
        self, folder: Path, *, seed: int, n_trials: int, n_drivers: int, n_workers: int, faults: Faults, sampler: str
    ) -> None:
        self.folder, self.n_trials, self.faults = folder, n_trials, faults
        self.url = f"sqlite:///{folder}/study.db"
        self.world, self.times = World(random.Random(seed)), Times()
        self._db = Database.open(self.url, create=True, clock=lambda: EPOCH + self.world.now)
        self.record = fake_study.join(self._db, folder)
        self.proposer = fake_study.proposer(n_trials, sampler=sampler)
        self.history: list[dict[str, Any]] = []
        self.n_lost, self.n_kills, self.n_stops = 0, 0, 0
        self._concurrency = max(1, n_workers // n_drivers)
        self._names = itertools.count()
        self.drivers = [self._born() for _ in range(n_drivers)]
        self.windows: list[tuple[int, float]] = []  # results, and driver seconds a trial since the last entry
        self._again("kill", faults.killed_every_s, self._kill_one)
        self._again("stop", faults.stopped_every_s, self._stop_one)

    def note(self, what: str, owner: str, **facts: Any) -> None:
        """Write down what a driver did."""
        self.history.append({"what": what, "owner": owner, **facts})

    def run(self, *, every: int = 1_000) -> None:
        """Let everything happen, until the study is finished and all drivers have seen it."""
        n_told, before = every, 0.0
        while not all(driver.has_ended for driver in self.drivers):
            if not self.world.step():
                raise RuntimeError("nothing is left to happen, but the study is not finished")
            if len(self.history) % 100 == 0 and (done := self._db_counts()) >= n_told:
                spent = self.times.seconds.total()
                self.windows.append((done, (spent - before) / every))
                n_told, before = done - done % every + every, spent
                print(f"{done} results: {self.windows[-1][1] * 1e3:.1f} ms of a driver each", flush=True)

    def _db_counts(self) -> int:
        return sum(event["what"] == "told" and event["as"] in ("Complete", "StopEarly") for event in self.history)

    def violations(self) -> list[str]:
        """What is amiss."""
        study = StudyHandle.open(self._db, NAME)
        trials = [StoredTrial(trial) for trial in study.trials()]
        found = [
            *row_violations(study),
            *file_violations(study, limits={}, deep=True),
            *phase_violations(self._db, deep=True),
            *unsettled(study, n_trials=self.n_trials),
        ]
        return [*map(str, found), *disagreements(self.history, trials)]

    def close(self) -> None:
        """Close all connections."""
        for driver in self.drivers:
            driver.kill()
        self._db.close()

    def _born(self) -> Driver:
        return Driver(self, f"driver {next(self._names)}", self._concurrency)

    def _again(self, what: str, mean_s: float, act: Callable[[], None]) -> None:
        if mean_s == float("inf"):
            return

        def happen() -> None:
            act()
            self.world.after(self.world.rng.expovariate(1 / mean_s), happen)

        self.world.after(self.world.rng.expovariate(1 / mean_s), happen)

    def _kill_one(self) -> None:
        place = self.world.rng.randrange(len(self.drivers))
        if self.drivers[place].has_ended:
            return
        self.drivers[place].kill()
        self.n_kills += 1
        self.drivers[place] = self._born()

    def _stop_one(self) -> None:
        self.world.rng.choice(self.drivers).stop_for(self.world.rng.uniform(0, 3 * GRACE_S))
        self.n_stops += 1


_COMMAND = """
import json, re, sys, time
from pathlib import Path
from autoprune.cli.main import main
start = time.perf_counter()
code = main(sys.argv[1:])
took = time.perf_counter() - start
# What the parent held counts to a child's maximum, but not there.
most = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps([code, took, most]), file=sys.stderr)
"""


def command_times(url: str) -> list[str]:
    """Seconds and memory of commands that read, each in a process of its own; imports included."""
    told = []
    for words in (["status", NAME], ["pareto", NAME], ["pareto", NAME, "--top", "5"]):
        command = [sys.executable, "-W", "ignore", "-c", _COMMAND, *words, "--storage", url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        code, took, most = json.loads(done.stderr.splitlines()[-1])
        told.append(
            f"| `autoprune {' '.join(words)}` | {took:.2f} s, {most:.0f} MB{'' if code == 0 else f', exit {code}'} |"
        )
    return told


def report(sim: Simulation, violations: list[str], *, wall_s: float, title: str) -> str:
    """What was simulated and what came of it, as Markdown."""
    outcomes = Counter(event["as"] for event in sim.history if event["what"] == "told")
    n_claims = sum(event["what"] == "claimed" for event in sim.history)
    seconds, n = sim.times.seconds, sim.n_trials
    size = sum(path.stat().st_size for path in sim.folder.glob("study.db*")) / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = [
        ("claims", f"{n_claims:,}"),
        ("ends by how they were told", ", ".join(f"{name} {n:,}" for name, n in sorted(outcomes.items()))),
        ("drivers killed, stopped", f"{sim.n_kills:,}, {sim.n_stops:,}"),
        ("messages lost", f"{sim.n_lost:,}"),
        ("virtual time", f"{sim.world.now / 3600:.1f} h"),
        ("processor time of drivers a result", f"{seconds.total() / n * 1e3:.1f} ms: "
         + ", ".join(f"{name} {s / n * 1e3:.1f}" for name, s in sorted(seconds.items()))),
        ("the same by number of results", ", ".join(f"{done:,}: {s * 1e3:.0f} ms" for done, s in sim.windows)),
        ("database", f"{size:.0f} MB, {size / n * 1e3:.1f} kB a result"),
        ("memory of the process, with all drivers", f"{most:,.0f} MB"),
        ("wall time", f"{wall_s / 60:.1f} min"),
        ("**violations**", f"**{len(violations)}**"),
    ]  # fmt: skip
    lines = [f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    return "\n".join([*lines, *command_times(sim.url), "", *violations[:20]])


def main() -> int:
    """Simulate; 1 where something is amiss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--drivers", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--calm", action="store_true", help="nothing goes wrong")
    parser.add_argument("--to", type=Path, help=f"the tables are added to this file, such as {RESULTS}")
    args = parser.parse_args()
    _VersionManager.check_table_schema_compatibility = lambda self: None  # Most of what opening a database costs.
    never = float("inf")
    calm = Faults(late=0, lost=0, worker_dies=0, killed_every_s=never, stopped_every_s=never, skew_s=0)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="autoprune-sim-") as folder:
        sim = Simulation(
            Path(folder), seed=args.seed, n_trials=args.trials, n_drivers=args.drivers, n_workers=args.workers,
            faults=calm if args.calm else Faults(), sampler=args.sampler,
        )  # fmt: skip
        sim.run()
        wall_s, violations = time.monotonic() - start, sim.violations()
        what = f"{args.trials:,} trials, {args.drivers} drivers, {args.workers:,} workers, seed {args.seed}"
        title = f"{what}, {args.sampler}{', nothing goes wrong' if args.calm else ''}"
        text = f"{report(sim, violations, wall_s=wall_s, title=title)}\n{machine.summary()}\n"
        sim.close()
    print(text)
    if args.to is not None:
        args.to.parent.mkdir(parents=True, exist_ok=True)
        with args.to.open("a") as file:
            file.write(f"{text}\n")
    return int(bool(violations))


if __name__ == "__main__":
    sys.exit(main())
