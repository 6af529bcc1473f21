"""Kills a process before each statement, commit, rename and deletion of what it does, resumes it, and checks all.

``python scripts/crash_points.py`` goes through all points of all operations and writes a table to
``studies/reliability``; ``--sample N --seed S`` draws N of its kills by a seed. Each kill is a process of its own that
ends by SIGKILL; another one then does the same again, as somebody who resumes, and is checked: see
`autoprune.search.invariants` and `histories`. Every second driver is resumed as if from another machine, which can't
see that the process is gone and waits for its leases to run out.

What lies on the disk changes at the commit of a transaction that wrote, and with a file; between two of these a kill
leaves the same behind wherever it hits, since a transaction that was not committed is undone. One kill therefore stands
for all points since the last change: that at the last of them, with the transaction open. ``--every`` spares none.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alembic.command  # noqa: F401  (Optuna imports it late; here once for all processes)
import fake_study
import machine
import sqlalchemy as sa
import torch
from fake_study import NAME, FakeTrial, History, told
from histories import disagreements
from optuna.storages._rdb.storage import _VersionManager

from autoprune.api._cleaning import clean
from autoprune.api._evaluating import _Desk as EvaluationDesk
from autoprune.api._progress import Progress
from autoprune.api._reading import Study
from autoprune.config import Failed, Report
from autoprune.engine.files import PhaseStore
from autoprune.search.dispatch import Dispatcher, Nothing
from autoprune.search.files import driver_signs
from autoprune.search.front import EvaluationRows
from autoprune.search.invariants import file_violations, phase_violations, row_violations, unsettled
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Claim, StoredTrial, expire_dead_leases, new_owner

N_TRIALS, CONCURRENCY, SEEDS, BEAT_EVERY = 7, 2, 2, 4
ROOT = Path(__file__).parents[1]
VERSION_1 = ROOT / "tests" / "search" / "storage" / "version_1.sql"
RESULTS = ROOT / "studies" / "reliability" / "crash_points.md"
PHASE_BYTES = 1.0  # What no trial is to start from goes at once.

# What a process is at, told by the function nearest to the point: (part of the file's name, function) -> operation.
AT = {
    ("lifecycle.py", "claim"): "claim",
    ("lifecycle.py", "claim_waiting"): "claim of a retry",
    ("lifecycle.py", "_reap"): "reap",
    ("lifecycle.py", "beat"): "beat",
    ("lifecycle.py", "complete"): "tell: complete",
    ("lifecycle.py", "stopped"): "tell: stopped early",
    ("lifecycle.py", "failed"): "tell: failed",
    ("lifecycle.py", "release"): "tell: given back",
    ("lifecycle.py", "reached"): "rung reached",
    ("owners.py", "expire_dead_leases"): "resume: leases of the dead",
    ("ledger.py", "claim"): "phases: claim",
    ("ledger.py", "beat"): "phases: beat",
    ("ledger.py", "publish"): "phases: publish",
    ("ledger.py", "give_up"): "phases: give up",
    ("cache.py", "shrink"): "phases: shrink",
    ("_cleaning.py", "apply"): "retain",
    ("_cleaning.py", "clean"): "clean",
    ("phases.py", "get"): "worker: phase file",
    ("weights.py", "publish"): "worker: network file",
    ("study.py", "create_or_join"): "make or join a study",
    ("study.py", "enter"): "driver enters",
    ("study.py", "leave"): "driver leaves",
    ("database.py", "_create"): "make a database",
    ("database.py", "_migrate"): "migrate",
    ("test_scores.py", "add"): "evaluate: test score",
}


# Points


class Points:
    """Counts the points that this process comes to, and kills it before one of them.

    Args:
        folder: Only files in it count.
        fatal: Number of the point, from 1; None: it lives.
    """

    def __init__(self, folder: Path, fatal: int | None) -> None:
        self._folder, self._fatal = str(folder), fatal
        self._writing: set[int] = set()  # connections whose transaction has written
        self.passed: list[str] = []  # operation, kind, and a ! where the disk changes there

    def arm(self) -> None:
        """Count from now on, in this process, for good."""
        sa.event.listen(sa.Engine, "before_cursor_execute", self._executing)
        sa.event.listen(sa.Engine, "commit", self._committing)
        sys.addaudithook(self._audited)

    def _executing(self, connection: sa.Connection, cursor: object, statement: str, *_: object) -> None:
        self._come_to("statement")
        if statement.split(maxsplit=1)[0].upper() not in ("SELECT", "BEGIN", "PRAGMA"):
            self._writing.add(id(connection.connection.dbapi_connection))

    def _committing(self, connection: sa.Connection) -> None:
        place = id(connection.connection.dbapi_connection)
        self._come_to("commit", changes=place in self._writing)
        self._writing.discard(place)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir") or (event == "open" and self._writes(arguments)):
            path = str(arguments[0])
            is_news = event != "os.mkdir" or not os.path.isdir(path)
            if path.startswith(self._folder) and not path.endswith((".lock", ".jsonl")) and is_news:
                self._come_to(event.removeprefix("os."), changes=True)

    def _writes(self, arguments: tuple[Any, ...]) -> bool:
        return isinstance(arguments[1], str) and any(letter in arguments[1] for letter in "wax+")

    def _come_to(self, kind: str, *, changes: bool = False) -> None:
        if len(self.passed) + 1 == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(f"{_operation()} | {kind}{'!' if changes else ''}")


def _operation() -> str:
    frame = sys._getframe(2)
    while frame is not None:
        found = AT.get((Path(frame.f_code.co_filename).name, frame.f_code.co_name))
        if found is not None:
            return found
        frame = frame.f_back
    return "look"


# Operations


@dataclass(frozen=True)
class Operation:
    """Something that a process does and may be killed at.

    Args:
        name: Of the run, not of what is told in the table.
        prepare: Makes the folder that every run of it begins with a copy of.
        act: Does it; called again for who resumes. Given the folder, and whether who was killed is out of sight.
        check: What is amiss afterwards.
        only: The one thing of what is told in the table that counts, where the rest is another operation's.
    """

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, bool], None]
    check: Callable[[Path], list[str]]
    only: str | None = None


def url_of(folder: Path) -> str:
    """The database of a folder."""
    return f"sqlite:///{folder}/study.db"


def nothing(folder: Path) -> None:
    """An empty folder."""


def make_tables(folder: Path) -> None:
    """A database without a study, and a phase of another one."""
    db = Database.open(url_of(folder), create=True)
    phase = PhaseStore(folder / "artifacts" / "phases").get("sparsify", "old", lambda: ({"w": torch.zeros(1)}, {}))
    PhaseRows(db).publish(kind="sparsify", owner="another", **phase.file)
    db.close()


def launch(folder: Path, far: bool, *, interrupt_at: int | None = None) -> None:
    """A driver that makes or joins the study and runs its trials, until it is finished."""
    # Who is out of sight for the next one has a name of another machine, whose leases must run out.
    clock = (lambda: time.time() + 3600.0) if far and any(folder.glob("history.jsonl")) else None
    db = Database.open(url_of(folder), create=True, clock=clock)
    record = fake_study.join(db, folder)
    owner = f"elsewhere|{new_owner()}" if far else new_owner()
    expire_dead_leases(record)
    turns = 0
    dispatcher = fake_study.dispatcher(
        record, folder, owner=owner, n_trials=N_TRIALS, concurrency=CONCURRENCY,
        proposer=fake_study.proposer(N_TRIALS), clock=lambda: float(turns), phase_bytes=PHASE_BYTES,
    )  # fmt: skip
    history, running = History(folder / "history.jsonl"), dict[str, Iterator[Report | None]]()
    history.add("entered", owner)
    record.enter(owner)
    numbers: dict[str, int] = {}
    while True:
        turns += 1
        if turns == interrupt_at:
            dispatcher.interrupt()
        handle = str(turns)
        given = dispatcher.next(handle)
        if isinstance(given, Claim):
            history.add("claimed", owner, number=given.number)
            running[handle], numbers[handle] = FakeTrial(given, folder).reports(), given.number
        elif given is Nothing.EVER and not running:
            break
        if turns % BEAT_EVERY == 0:
            dispatcher.beat()
        for name, reports in list(running.items()):
            if _advance(dispatcher, name, reports, history, numbers[name]):
                del running[name]
    dispatcher.abandon()
    record.leave(owner)
    db.close()


def _advance(
    dispatcher: Dispatcher, handle: str, reports: Iterator[Report | None], history: History, number: int
) -> bool:
    """Hear a trial's next word; returns whether it has ended."""
    report = next(reports)
    crashed = report is None
    if report is not None and type(report).__name__ == "Progressed":
        dispatcher.heard(handle, report)
        if not dispatcher.should_stop(handle, report):
            return False
    history.add("telling", dispatcher.owner, number=number, final=isinstance(report, Failed))
    verdict = dispatcher.ended(handle, report, crashed=crashed)
    history.add("told", dispatcher.owner, number=number, **{"as": told(verdict)})
    return True


def interrupted(folder: Path, far: bool) -> None:
    """A driver that is interrupted while two trials run, and gives them back."""
    is_first = not any(folder.glob("history.jsonl"))
    launch(folder, far, interrupt_at=8 if is_first else None)


def check_launch(folder: Path) -> list[str]:
    """Everything, after the study has been driven to its end."""
    launch(folder, False)  # For one that was interrupted; nothing is left to do where it was not.
    db = Database.open(url_of(folder), create=False)
    study = StudyHandle.open(db, NAME)
    found = [
        *row_violations(study),
        *file_violations(study, limits={}, deep=True),
        *phase_violations(db, deep=True),
        *unsettled(study, n_trials=N_TRIALS),
    ]
    trials = [StoredTrial(trial) for trial in study.trials()]
    wrong = disagreements(History(folder / "history.jsonl").read(), trials)
    left = [str(path) for path in folder.rglob("*.lease")]
    db.close()
    return [*map(str, found), *wrong, *left]


def finish(folder: Path) -> None:
    """A study that has been driven to its end."""
    make_tables(folder)
    launch(folder, False)


def opened(folder: Path) -> Study:
    """The study of a folder, to be written to."""
    db = Database.open(url_of(folder), create=False)
    return Study(db, StudyHandle.open(db, NAME))


@dataclass(frozen=True)
class _Job:
    """As much of a job as its desk looks at."""

    number: int
    seed: int
    fingerprint: str = "test"
    name: str = "a run"


def evaluate(folder: Path, far: bool) -> None:
    """Store the test scores of the front, and a phase with each, as the desk of an evaluation does."""
    study = opened(folder)
    known = {(score.number, score.seed) for score in EvaluationRows(study.handle.db, study.handle.study_id).read()}
    desk = EvaluationDesk(study, Progress(), n_runs=0, n_known=0, most_in_a_row=1)
    phase = PhaseRows(study.handle.db).by_last_use()[0]
    file = {"key": phase.key, "place": phase.place, "sha256": phase.sha256, "size_bytes": phase.size_bytes}
    for number in study.front()["number"]:
        for seed in range(SEEDS):
            if (number, seed) not in known:
                facts = {"accuracy": 0.5 + seed / 10, "n_images": 10, "wall_s": 1.0, "is_untouched": False}
                desk.done(_Job(int(number), seed), facts | {"phase_kind": phase.kind, "phase_file": file})
    study.close()


def check_evaluate(folder: Path) -> list[str]:
    """Each member of the front has its scores once."""
    study = opened(folder)
    scores = EvaluationRows(study.handle.db, study.handle.study_id).read()
    expected = {(int(number), seed) for number in study.front()["number"] for seed in range(SEEDS)}
    wrong = [] if {(s.number, s.seed) for s in scores} == expected else ["not every member has its scores"]
    found = [*row_violations(study.handle), *phase_violations(study.handle.db, deep=True)]
    study.close()
    return [*map(str, found), *wrong]


def litter(folder: Path) -> None:
    """A finished study with all that may lie about: strays, scratch of a dead driver, half-written files."""
    finish(folder)
    artifacts, old = folder / "artifacts", time.time() - 7200
    scratch = artifacts / "ray" / "tune-dead" / "study"
    scratch.mkdir(parents=True)
    (scratch / "state.json").write_text("{}")
    study = opened(folder)
    (scratch.parent / "owner").write_text(sorted(driver_signs(study.handle).ended)[0])
    study.close()
    for path in (artifacts / "trials" / NAME / "999.safetensors", artifacts / "trials" / NAME / "999.json",
                 artifacts / "phases" / "dense-x.safetensors.0.tmp"):  # fmt: skip
        path.write_text("")
        os.utime(path, (old, old))


def tidy(folder: Path, far: bool) -> None:
    """What `autoprune clean NAME --phases` does."""
    clean(NAME, phases=True, storage=url_of(folder))


def check_tidy(folder: Path) -> list[str]:
    """All litter is gone, and nothing else."""
    study = opened(folder)
    found = [
        *row_violations(study.handle),
        *file_violations(study.handle, limits={}, deep=True),
        *phase_violations(study.handle.db, deep=True),
        *unsettled(study.handle, n_trials=N_TRIALS),
    ]
    left = [*folder.rglob("999.*"), *folder.rglob("ray/*"), *folder.rglob("*.tmp")]
    left += [path for path in folder.rglob("phases/*") if path.suffix != ".lock"]
    study.close()
    return [*map(str, found), *(f"{path} is still there" for path in left)]


def old_database(folder: Path) -> None:
    """A database of version 1."""
    with sqlite3.connect(folder / "study.db") as connection:
        connection.executescript(VERSION_1.read_text())
        connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def migrate(folder: Path, far: bool) -> None:
    """Open it to write."""
    Database.open(url_of(folder), create=False).close()


def check_migrate(folder: Path) -> list[str]:
    """Its tables are of this version, once, and its trials are there."""
    db = Database.open(url_of(folder), create=False)
    with db.reading() as connection:
        versions = list(connection.execute(sa.select(schema.schema.c.version)).scalars())
        has_table = sa.inspect(connection).has_table(schema.evaluations.name)
    n_trials = len(StudyHandle.open(db, "digits").trials())
    db.close()
    right = sorted(versions) == [1, schema.SCHEMA_VERSION] and has_table and n_trials == 3
    return [] if right else [f"versions {versions}, evaluations {has_table}, {n_trials} trials"]


def begin(folder: Path, far: bool) -> None:
    """Make the database and the study in it."""
    db = Database.open(url_of(folder), create=True)
    fake_study.join(db, folder)
    db.close()


def check_begin(folder: Path) -> list[str]:
    """The study can be driven."""
    return check_launch(folder)


OPERATIONS = (
    Operation("begin", nothing, begin, check_begin),
    Operation("launch", make_tables, launch, check_launch),
    Operation("interrupt", make_tables, interrupted, check_launch, only="tell: given back"),
    Operation("evaluate", finish, evaluate, check_evaluate),
    Operation("clean", litter, tidy, check_tidy),
    Operation("migrate", old_database, migrate, check_migrate),
)


# Runs


def in_child(work: Callable[[], Any], answer: Path) -> Any:
    """What ``work`` returns in a process of its own; None where it was killed.

    Raises:
        RuntimeError: It raised an error.
    """
    answer.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            found = {"found": work()}
        except BaseException:
            found = {"error": traceback.format_exc()}
        answer.write_text(json.dumps(found))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return None
    told = json.loads(answer.read_text())
    if "error" in told:
        raise RuntimeError(told["error"])
    return told["found"]


class Sweep:
    """The points of one operation.

    Args:
        operation: What is done.
        folder: For its runs; emptied between them.
    """

    def __init__(self, operation: Operation, folder: Path) -> None:
        self._operation, self._folder = operation, folder
        self._template, self._place, self._answer = folder / "template", folder / "run", folder / "answer.json"
        self._place.mkdir(parents=True)
        in_child(lambda: operation.prepare(self._place), self._answer)
        # A study knows its files by their whole paths, so each run is at the same place.
        self._place.rename(self._template)

    def points(self) -> list[str]:
        """What an undisturbed run comes to, in order."""
        self._lay_out()
        found: list[str] = in_child(lambda: self._run(None), self._answer)
        return found

    def kill(self, point: int, *, again: int | None = None) -> list[str] | None:
        """Kill a run before a point, who resumes before another one, and check what is left in the end.

        Args:
            point: From 1.
            again: Where who resumes is killed too.

        Returns:
            What is amiss; None where the run ended before it came to the point.
        """
        self._lay_out()
        far = point % 2 == 0
        try:
            if in_child(lambda: self._run(point, far=far), self._answer) is not None:
                return None
            if again is not None:
                in_child(lambda: self._run(again, far=far), self._answer)
            return list(in_child(lambda: self._resumed(far), self._answer))
        except RuntimeError as error:
            return [f"an error: {str(error).strip().splitlines()[-1]}"]

    def _lay_out(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        shutil.copytree(self._template, self._place)

    def _run(self, fatal: int | None, *, far: bool = False) -> list[str]:
        points = Points(self._place, fatal)
        points.arm()
        self._operation.act(self._place, far)
        return points.passed

    def _resumed(self, far: bool) -> list[str]:
        self._operation.act(self._place, far)
        return self._operation.check(self._place)


@dataclass(frozen=True)
class Kill:
    """One kill, or two, and what came of it.

    Args:
        operation: Which run it was.
        point: Before which it was killed.
        again: Before which its resume was.
        stands_for: How many points leave the same behind.
        at: What the process was at there, and the kind of point.
        violations: What is amiss.
    """

    operation: str
    point: int
    again: int | None
    stands_for: int
    at: str
    violations: list[str]


def chosen(points: list[str], *, only: str | None, every: bool) -> list[tuple[int, int]]:
    """At which points to kill, and how many each stands for."""
    found, since = [], 0
    for k, point in enumerate(points, 1):
        if only is not None and not point.startswith(only):
            continue
        since += 1
        if every or point.endswith("!") or k == len(points):
            found.append((k, since))
            since = 0
    return found


def sweep(
    folder: Path, *, sample: int | None, seed: int, twice: int, names: tuple[str, ...], every: bool
) -> Iterator[Kill]:
    """Kill at all points of the operations, or at a sample of them, and some runs twice."""
    rng = random.Random(seed)
    operations = {each.name: each for each in OPERATIONS if each.name in names}
    sweeps = {name: Sweep(each, folder / name) for name, each in operations.items()}
    at = {name: one.points() for name, one in sweeps.items()}
    kills: list[tuple[str, int, int | None, int]] = [
        (name, point, None, stands_for)
        for name, operation in operations.items()
        for point, stands_for in chosen(at[name], only=operation.only, every=every)
    ]
    print(f"{sum(kill[3] for kill in kills)} points, of which {len(kills)} leave something else behind", flush=True)
    if sample is not None:
        kills = sorted(rng.sample(kills, min(sample, len(kills))))
    if "launch" in at:
        n = len(at["launch"])
        kills += [("launch", rng.randint(1, n), rng.randint(1, n // 2), 0) for _ in range(twice)]
    for name, point, again, stands_for in kills:
        found = sweeps[name].kill(point, again=again)
        if found is None:
            found = ["the run was another one than the undisturbed one: it did not come to the point"]
        yield Kill(name, point, again, stands_for, at[name][point - 1], found)


def table(kills: list[Kill]) -> str:
    """Operations with their points, kills and violations, as Markdown."""
    n_points, n_kills, n_wrong = Counter[str](), Counter[str](), Counter[str]()
    for kill in kills:
        operation = kill.at.split(" | ")[0] if kill.again is None else "launch, killed twice"
        n_points[operation] += kill.stands_for if kill.again is None else 2
        n_kills[operation] += 1 if kill.again is None else 2
        n_wrong[operation] += bool(kill.violations)
    lines = ["| operation | points | kills | violations |", "|---|---:|---:|---:|"]
    lines += [f"| {name} | {n_points[name]} | {n_kills[name]} | {n_wrong[name]} |" for name in sorted(n_points)]
    lines.append(f"| **all** | **{n_points.total()}** | **{n_kills.total()}** | **{n_wrong.total()}** |")
    return "\n".join(lines)


def main() -> int:
    """Run the sweep; 1 where something is amiss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [each.name for each in OPERATIONS]
    parser.add_argument("--sample", type=int, help="so many kills instead of all")
    parser.add_argument("--every", action="store_true", help="a kill for each point, also where it changes nothing")
    parser.add_argument("--twice", type=int, default=None, help="runs whose resume is killed too (default: 50, or 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--to", type=Path, default=None, help=f"the table (default: {RESULTS}, or nothing)")
    args = parser.parse_args()
    is_whole = args.sample is None and args.only == names
    twice = args.twice if args.twice is not None else (50 if is_whole else 0)
    # Optuna's look at its migration scripts is most of what a process costs; here it is left out.
    _VersionManager.check_table_schema_compatibility = lambda self: None
    start, kills = time.monotonic(), list[Kill]()
    to = args.to or (RESULTS if is_whole else None)

    def tell() -> str:
        took = f"{len(kills)} runs in {time.monotonic() - start:.0f} s, seed {args.seed}"
        text = f"{table(kills)}\n\n{took}. {machine.summary()}\n"
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(f"# Crash points\n\n{text}")
        return text

    with tempfile.TemporaryDirectory(prefix="autoprune-crash-") as folder:
        which = {"sample": args.sample, "twice": twice, "names": tuple(args.only), "every": args.every}
        for kill in sweep(Path(folder), seed=args.seed, **which):
            kills.append(kill)
            if len(kills) % 25 == 0:
                tell()
            for violation in kill.violations:
                print(f"{kill.operation} {kill.point} ({kill.at}, again {kill.again}): {violation}", flush=True)
    print(tell())
    return int(any(kill.violations for kill in kills))


if __name__ == "__main__":
    sys.exit(main())
