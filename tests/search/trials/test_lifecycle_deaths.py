"""A driver dies after each single write of each thing it does; another one heals what is left."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from autoprune.errors import LeaseLostError
from autoprune.search.storage import Database, StudyHandle, schema
from autoprune.search.trials import Claim, Lifecycle, Proposal, Room

N_TRIALS = 2


class DiedError(BaseException):
    pass


def proposal(x: int) -> Proposal:
    return Proposal({"x": x}, {"x": IntDistribution(0, 1_000)}, f"key {x}", {"point": x})


@contextlib.contextmanager
def dying(db: Database, after: int) -> Iterator[None]:
    """Let the process die when it has made ``after`` writes and begins another, within a transaction as well."""
    left = after

    def execute(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal left
        left -= statement.startswith(("INSERT", "UPDATE", "DELETE"))
        if left < 0:
            raise DiedError

    storage: Any = db.storage
    engines = (db._engine, storage._backend.engine)
    for engine in engines:
        sa.event.listen(engine, "before_cursor_execute", execute)
    try:
        yield
    finally:
        for engine in engines:
            sa.event.remove(engine, "before_cursor_execute", execute)


Act = Callable[[Lifecycle, Lifecycle, int], object]
# What ``victim`` does to the trial with this id, which ``owner`` has claimed; both are alive to begin with.
BY_ANOTHER: dict[str, Act] = {
    "reap": lambda victim, owner, trial_id: victim.reap(),
    "claim": lambda victim, owner, trial_id: victim.claim(proposal(1)),
    "claim_waiting": lambda victim, owner, trial_id: victim.claim_waiting(),
}
BY_ITS_OWNER: dict[str, Act] = {
    "complete": lambda victim, owner, trial_id: owner.complete(
        trial_id, [0.5, 0.5], {"macs": 1, "params": 2}, constraints={"params": -1.0}
    ),
    "nan": lambda victim, owner, trial_id: owner.complete(trial_id, [0.5, float("nan")], {"macs": 1}),
    "stopped": lambda victim, owner, trial_id: owner.stopped(trial_id, {"rungs": [1]}),
    "failed": lambda victim, owner, trial_id: owner.failed(trial_id, "broken"),
    "retry": lambda victim, owner, trial_id: owner.failed(trial_id, "worker lost", retry=True),
    "release": lambda victim, owner, trial_id: owner.release(trial_id, "interrupted"),
}


@pytest.mark.parametrize(
    ("what", "late"),
    [(what, False) for what in BY_ANOTHER | BY_ITS_OWNER] + [(what, True) for what in ("reap", *BY_ITS_OWNER)],
)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_death_after_any_write_is_healed(db: Database, clock: Any, what: str, late: bool) -> None:
    n_deaths = 0
    for after in range(30):
        study = StudyHandle.create_or_join(
            db, name=f"death {after}", identity={}, config={}, directions=["maximize", "minimize"]
        )
        owner, victim, healer = (
            Lifecycle(study, owner=name, n_trials=N_TRIALS, grace_s=60) for name in ("owner", "victim", "healer")
        )
        claimed = owner.claim(proposal(0))
        assert isinstance(claimed, Claim)
        clock.now += 61 if what in BY_ANOTHER else 1
        died = False
        with dying(db, after):
            try:
                (BY_ANOTHER | BY_ITS_OWNER)[what](victim, owner, claimed.trial_id)
            except DiedError:
                died = True
        n_deaths += died
        if late:
            # The owner was only slow, or its write failed and it goes on: it tells a result once more.
            with contextlib.suppress(LeaseLostError):
                owner.complete(claimed.trial_id, [0.7, 0.7], {"macs": 3})
        clock.now += 61
        check(study, drain(healer))
        if not died:
            break
    else:
        raise AssertionError("it never came to an end")
    assert n_deaths >= 4


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_a_reaper_that_dies_while_a_result_waits_for_the_lock(db: Database, url: str, clock: Any) -> None:
    reapers_db = Database.open(url, create=False, clock=clock)
    for after in range(1, 8):
        study = StudyHandle.create_or_join(
            db, name=f"wait {after}", identity={}, config={}, directions=["maximize", "minimize"]
        )
        owner = Lifecycle(study, owner="owner", n_trials=N_TRIALS)
        reaper = Lifecycle(StudyHandle.open(reapers_db, study.name), owner="reaper", n_trials=N_TRIALS)
        claimed = owner.claim(proposal(0))
        assert isinstance(claimed, Claim)
        lock = owner.study.lock

        def late_lock(reaper: Lifecycle = reaper, after: int = after, lock: Callable[[], Any] = lock) -> Any:
            clock.now += 61
            with dying(reapers_db, after), contextlib.suppress(DiedError):
                reaper.reap()
            return lock()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner.study, "lock", late_lock)
            with contextlib.suppress(LeaseLostError):
                owner.complete(claimed.trial_id, [0.7, 0.7], {"macs": 3})
        clock.now += 61
        check(study, drain(owner))
    reapers_db.close()


def drain(lifecycle: Lifecycle) -> Lifecycle:
    x = 100
    while lifecycle.room() is not Room.FINISHED:
        claimed = lifecycle.claim_waiting()
        if claimed is None:
            x += 1
            new = lifecycle.claim(proposal(x))
            assert isinstance(new, Claim)
            claimed = new
        lifecycle.complete(claimed.trial_id, [0.5, 0.5], {"macs": 5})
    lifecycle.reap()
    return lifecycle


def check(study: StudyHandle, lifecycle: Lifecycle) -> None:
    trials = study.db.storage.get_all_trials(study.study_id)
    by_state = Counter(trial.state for trial in trials)
    assert by_state[TrialState.COMPLETE] + by_state[TrialState.PRUNED] == N_TRIALS
    assert by_state[TrialState.RUNNING] == by_state[TrialState.WAITING] == 0
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len({trial.user_attrs["key"] for trial in finished}) == N_TRIALS
    assert all(trial.user_attrs.keys() & {"macs", "rungs"} for trial in finished)
    assert all(trial.user_attrs["reason"] for trial in trials if trial.state is TrialState.FAIL)
    # The proposal outlived its driver, unless the trial itself was broken.
    broken = any(trial.user_attrs.get("reason", "").startswith(("broken", "`macs_ratio`")) for trial in trials)
    assert broken or "key 0" in {trial.user_attrs["key"] for trial in finished}
    clones = [trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs]
    assert len(clones) == len(set(clones))
    with study.db.reading() as connection:
        of_study = schema.leases.c.study_id == study.study_id
        assert connection.execute(sa.select(schema.leases.c.trial_id).where(of_study)).all() == []
    assert lifecycle.counts().finished == N_TRIALS
