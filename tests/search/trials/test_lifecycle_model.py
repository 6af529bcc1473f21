"""Lifecycle against a plain model: three drivers, a clock, late results, and death between any two transactions."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from optuna.distributions import IntDistribution

from autoprune.errors import LeaseLostError
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Claim, Lifecycle, NotClaimed, Proposal, Room

GRACE_S, MAX_RETRY, N_KEYS = 10.0, 1, 8
KEYS = st.integers(0, N_KEYS - 1)
DRIVERS = st.integers(0, 2)
# After how many writes a driver dies; a driver that gets through all of them dies right after.
# Compiled statements, for all engines of all drivers: compiling is half of what a short life costs.
COMPILED: dict[Any, Any] = {}
HOW = st.sampled_from(["complete", "stopped", "failed", "retry", "release"])
DEATHS = st.none() | st.integers(0, 9)


class DiedError(BaseException):
    """A driver's death: nothing in the code under test may catch it."""


@dataclass
class Row:
    """What the model knows of a trial; ``lease`` is (owner, expires at)."""

    state: str
    key: int
    attempt: int
    owner: str | None
    claimed_at: float | None
    retry_of: int | None = None
    lease: tuple[str, float] | None = None
    partial: bool = False


class Model:
    """The state machine of a trial, said once more in plain Python; trial number = place in the list."""

    def __init__(self, n_trials: int) -> None:
        self.rows: list[Row] = []
        self.n_trials = n_trials
        self.now = 1_000.0

    def count(self, *states: str) -> int:
        return sum(row.state in states for row in self.rows)

    def taken(self, key: int, besides: int | None = None) -> bool:
        return any(row.key == key and row.state != "FAIL" and i != besides for i, row in enumerate(self.rows))

    def is_full(self) -> bool:
        return self.count("WAITING", "RUNNING", "COMPLETE", "PRUNED") >= self.n_trials

    def can_retry(self) -> bool:
        return self.count("WAITING") > 0 and self.count("RUNNING", "COMPLETE", "PRUNED") < self.n_trials

    def room(self) -> Room:
        if self.count("COMPLETE", "PRUNED") >= self.n_trials:
            return Room.FINISHED
        return Room.OPEN if self.can_retry() or not self.is_full() else Room.FULL_FOR_NOW

    def stale(self) -> list[int]:
        def is_stale(row: Row) -> bool:
            if row.lease is not None:
                return row.lease[1] <= self.now
            return row.claimed_at is None or row.claimed_at + GRACE_S <= self.now

        return [i for i, row in enumerate(self.rows) if row.state == "RUNNING" and is_stale(row)]

    def reap(self) -> None:
        for row in self.rows:
            if row.state in ("COMPLETE", "PRUNED", "FAIL"):
                row.lease = None
        for i in self.stale():
            attempt = self.rows[i].attempt
            self.retire(i, attempt + 1 if attempt < MAX_RETRY else None)

    def retire(self, i: int, next_attempt: int | None) -> None:
        row = self.rows[i]
        queued = any(other.retry_of == i for other in self.rows)
        if next_attempt is not None and not queued and not self.taken(row.key, besides=i):
            self.rows.append(Row("WAITING", row.key, next_attempt, None, None, retry_of=i))
        row.state, row.lease = "FAIL", None

    def claim(self, owner: str, key: int) -> NotClaimed | int:
        self.reap()
        if self.is_full():
            return NotClaimed.FULL
        if self.taken(key):
            return NotClaimed.DUPLICATE
        self.rows.append(Row("RUNNING", key, 0, owner, self.now, lease=(owner, self.now + GRACE_S)))
        return len(self.rows) - 1

    def claim_waiting(self, owner: str) -> int | None:
        self.reap()
        if not self.can_retry():
            return None
        i = next(i for i, row in enumerate(self.rows) if row.state == "WAITING")
        self.rows[i].state, self.rows[i].owner, self.rows[i].claimed_at = "RUNNING", owner, self.now
        self.rows[i].lease = (owner, self.now + GRACE_S)
        return i

    def holds(self, i: int, owner: str) -> bool:
        row = self.rows[i]
        return row.state == "RUNNING" and row.lease is not None and row.lease[0] == owner

    def beat(self, numbers: list[int], owner: str) -> set[int]:
        kept = {i for i in numbers if (lease := self.rows[i].lease) is not None and lease[0] == owner}
        for i in kept:
            self.rows[i].lease = (owner, self.now + GRACE_S)
        return set(numbers) - kept


class Driver:
    """A driver process: an open database of its own, and the trials that it believes to run."""

    def __init__(self, path: Path, model: Model, owner: str) -> None:
        self.db = Database.open(f"sqlite:///{path}", create=False, clock=lambda: model.now)
        self.study = StudyHandle.open(self.db, "model")
        self.owner = owner
        self.lifecycle = Lifecycle(
            self.study, owner=owner, n_trials=model.n_trials, grace_s=GRACE_S, max_retry=MAX_RETRY
        )
        self.numbers: list[int] = []
        self.writes_left: int | None = None
        self._sabotage()

    def _sabotage(self) -> None:
        """Let every write, Optuna's and ours, first ask whether the driver still lives; in a transaction as well."""

        def execute(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith(("INSERT", "UPDATE", "DELETE")):
                if self.writes_left == 0:
                    raise DiedError
                if self.writes_left is not None:
                    self.writes_left -= 1

        storage: Any = self.db.storage
        for engine in (self.db._engine, storage._backend.engine):
            engine._compiled_cache = COMPILED
            sa.event.listen(engine, "before_cursor_execute", execute)


class Machine(RuleBasedStateMachine):
    template: Path  # a database with the empty study

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="autoprune-model-"))
        self.path = self.folder / "a.db"
        shutil.copy(self.template, self.path)
        self.engine = sa.create_engine(f"sqlite:///{self.path}", poolclass=sa.NullPool)
        self.n_births = 0

    @initialize(n_trials=st.integers(1, 5))
    def begin(self, n_trials: int) -> None:
        self.model = Model(n_trials)
        self.ids: list[int] = []  # trial id by number
        self.drivers = [self.born() for _ in range(3)]

    def born(self) -> Driver:
        self.n_births += 1
        return Driver(self.path, self.model, f"driver {self.n_births}")

    def act(self, d: int, death: int | None, act: Callable[[Driver], Any], expected: Callable[[Driver], Any]) -> Any:
        """Let driver ``d`` act, perhaps to its death; alive, it must see what the model says."""
        driver = self.drivers[d]
        driver.writes_left = death
        try:
            got = act(driver)
        except DiedError:
            got = DiedError
        driver.writes_left = None
        if death is None:
            assert got == expected(driver)
        else:
            # Whatever was committed is the truth now; that it is a state that heals is what the rest of the run shows.
            driver.db.close()
            self.drivers[d] = self.born()
        self.read(resync=death is not None)
        return got

    # What happens

    @rule(d=DRIVERS, key=KEYS, death=DEATHS)
    def claim(self, d: int, key: int, death: int | None) -> None:
        proposal = Proposal({"x": key}, {"x": IntDistribution(0, N_KEYS)}, f"key {key}", {"x": key})

        def act(driver: Driver) -> NotClaimed | int:
            claimed = driver.lifecycle.claim(proposal)
            if isinstance(claimed, NotClaimed):
                return claimed
            assert (claimed.params, claimed.attrs, claimed.attempt) == ({"x": key}, {"x": key}, 0)
            driver.numbers.append(claimed.number)
            return claimed.number

        self.act(d, death, act, lambda driver: self.model.claim(driver.owner, key))

    @rule(d=DRIVERS, death=DEATHS)
    def claim_waiting(self, d: int, death: int | None) -> None:
        def act(driver: Driver) -> int | None:
            claimed = driver.lifecycle.claim_waiting()
            if claimed is None:
                return None
            row = self.model.rows[claimed.number] if claimed.number < len(self.model.rows) else None
            assert row is None or (claimed.attempt, claimed.attrs) == (row.attempt, {"x": row.key})
            driver.numbers.append(claimed.number)
            return claimed.number

        self.act(d, death, act, lambda driver: self.model.claim_waiting(driver.owner))

    @rule(d=DRIVERS, death=DEATHS)
    def reap(self, d: int, death: int | None) -> None:
        def expected(_: Driver) -> list[int]:
            stale = self.model.stale()
            self.model.reap()
            return stale

        self.act(d, death, lambda driver: [self.ids.index(i) for i in driver.lifecycle.reap()], expected)

    @rule(d=DRIVERS)
    def room(self, d: int) -> None:
        def expected(_: Driver) -> Room:
            if self.model.room() is Room.FULL_FOR_NOW:
                self.model.reap()
            return self.model.room()

        self.act(d, None, lambda driver: driver.lifecycle.room(), expected)

    @rule(d=DRIVERS)
    def beat(self, d: int) -> None:
        def act(driver: Driver) -> set[int]:
            lost = driver.lifecycle.beat([self.ids[number] for number in driver.numbers])
            return {self.ids.index(trial_id) for trial_id in lost}

        self.act(d, None, act, lambda driver: self.model.beat(driver.numbers, driver.owner))

    @rule(seconds=st.sampled_from([11.0, 6.0, 1.0]))
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds

    @precondition(lambda self: self.model.rows)
    @rule(d=DRIVERS, which=st.integers(0, 9), how=HOW, death=DEATHS, own=st.sampled_from([True, True, True, False]))
    def tell(self, d: int, which: int, how: str, death: int | None, own: bool) -> None:
        """Tell a trial that the driver believes to run, told before or lost long ago, or one of another driver."""
        numbers = self.drivers[d].numbers if own else range(len(self.model.rows))
        assume(numbers)
        number = numbers[which % len(numbers)]
        trial_id = self.ids[number]

        def act(driver: Driver) -> str:
            lifecycle = driver.lifecycle
            try:
                if how == "complete":
                    lifecycle.complete(trial_id, [0.5, 0.25], {"macs": number})
                elif how == "stopped":
                    lifecycle.stopped(trial_id, {"macs": number})
                elif how == "release":
                    lifecycle.release(trial_id, "interrupted")
                else:
                    lifecycle.failed(trial_id, "broken", retry=how == "retry")
            except LeaseLostError:
                return "lost"
            return "told"

        def expected(driver: Driver) -> str:
            row = self.model.rows[number]
            if not self.model.holds(number, driver.owner):
                if row.lease is not None and row.lease[0] == driver.owner:
                    row.lease = (driver.owner, self.model.now + GRACE_S)  # of a trial that has ended: swept by a reaper
                return "lost"
            if how in ("complete", "stopped"):
                row.state, row.lease = "COMPLETE" if how == "complete" else "PRUNED", None
            else:
                retried = row.attempt + 1 if row.attempt < MAX_RETRY else None
                self.model.retire(number, {"failed": None, "retry": retried, "release": row.attempt}[how])
            return "told"

        self.act(d, death, act, expected)

    @rule(d=DRIVERS)
    def crash(self, d: int) -> None:
        self.drivers[d].db.close()
        self.drivers[d] = self.born()

    @precondition(lambda self: self.model.n_trials < 8)
    @rule()
    def raise_n_trials(self) -> None:
        self.model.n_trials += 1
        for driver in self.drivers:
            driver.lifecycle.n_trials = self.model.n_trials

    # What must hold

    @invariant()
    def never_more_than_asked_for(self) -> None:
        model = self.model
        assert model.count("COMPLETE", "PRUNED") <= model.n_trials
        finished = [row.key for row in model.rows if row.state in ("COMPLETE", "PRUNED")]
        assert len(finished) == len(set(finished))
        retried = [row.retry_of for row in model.rows if row.retry_of is not None]
        assert len(retried) == len(set(retried))

    @invariant()
    def every_running_trial_has_somebody_or_a_time_at_which_it_is_reaped(self) -> None:
        assert all(row.lease or row.claimed_at is not None for row in self.model.rows if row.state == "RUNNING")

    def read(self, *, resync: bool) -> None:
        """Read the database past all our code: it must be as the model says, or after a death it is the model."""
        with self.engine.connect() as connection:
            trials = connection.execute(sa.text("SELECT trial_id, number, state FROM trials ORDER BY number")).all()
            texts = connection.execute(sa.text("SELECT trial_id, key, value_json FROM trial_user_attributes")).all()
            leases = {row.trial_id: (row.owner, row.expires_at) for row in connection.execute(sa.select(schema.leases))}
            values = connection.execute(sa.text("SELECT trial_id, count(*) FROM trial_values GROUP BY trial_id")).all()
        attrs: dict[int, dict[str, Any]] = {trial_id: {} for trial_id, _, _ in trials}
        for trial_id, name, text in texts:
            attrs[trial_id][name] = text
        found = []
        for trial_id, number, state in trials:
            own = attrs[trial_id]
            found.append(
                Row(
                    state,
                    key=int(own["x"]),
                    attempt=int(own["attempt"]),
                    owner=own["owner"].strip('"') if "owner" in own else None,
                    claimed_at=float(own["claimed_at"]) if "claimed_at" in own else None,
                    retry_of=int(own["retry_of"]) if "retry_of" in own else None,
                    lease=leases.get(trial_id),
                )
            )
            # A result is whole: its attributes and all its values, or none of them.
            assert own.get("macs") == str(number) or state not in ("COMPLETE", "PRUNED")
            assert ("reason" in own) >= (state == "FAIL")
        assert [number for _, number, _ in trials] == list(range(len(trials)))
        complete = {trial_id for trial_id, _, state in trials if state == "COMPLETE"}
        assert dict(map(tuple, values)) == dict.fromkeys(complete, 2)
        self.ids = [trial_id for trial_id, _, _ in trials]
        if resync:
            self.model.rows = found
        else:
            assert found == self.model.rows

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.drain()
            for driver in self.drivers:
                driver.db.close()
        shutil.rmtree(self.folder)

    def drain(self) -> None:
        """One driver that works on from here gets exactly ``n_trials`` results, and nothing is left behind."""
        self.model.now += GRACE_S + 1
        last = self.born()
        key = N_KEYS
        while last.lifecycle.room() is not Room.FINISHED:
            claimed = last.lifecycle.claim_waiting()
            if claimed is None:
                key += 1
                new = last.lifecycle.claim(
                    Proposal({"x": 0}, {"x": IntDistribution(0, N_KEYS)}, f"key {key}", {"x": key})
                )
                assert isinstance(new, Claim)
                claimed = new
            last.lifecycle.complete(claimed.trial_id, [0.5, 0.5], {"macs": claimed.number})
        last.lifecycle.reap()
        counts = last.lifecycle.counts()
        last.db.close()
        self.read(resync=True)
        assert counts.finished == self.model.n_trials
        assert counts.running == counts.waiting == 0
        assert all(row.lease is None for row in self.model.rows)
        self.never_more_than_asked_for()


def machine(template: Path) -> type[Machine]:
    return type("Machine", (Machine,), {"template": template})


@pytest.fixture(scope="module")
def template(ready_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "a.db"
    shutil.copy(ready_file, path)
    db = Database.open(f"sqlite:///{path}", create=False)
    StudyHandle.create_or_join(db, name="model", identity={}, config={}, directions=["maximize", "minimize"])
    db.close()
    return path


COMMON = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.target, Phase.shrink],
    database=None,
)


@pytest.fixture(autouse=True)
def births_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out Optuna's look at its migration scripts, nine tenths of what opening costs."""
    checked = "optuna.storages._rdb.storage._VersionManager.check_table_schema_compatibility"
    monkeypatch.setattr(checked, lambda self: None)


def test_claims_agree_with_the_model(template: Path) -> None:
    run_state_machine_as_test(machine(template), settings=settings(COMMON, max_examples=10, stateful_step_count=30))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_claims_agree_with_the_model_for_long(template: Path) -> None:
    run_state_machine_as_test(machine(template), settings=settings(COMMON, max_examples=200, stateful_step_count=60))
