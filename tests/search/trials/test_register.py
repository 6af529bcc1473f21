"""What a register has read bit by bit is what the whole study says."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from optuna.distributions import IntDistribution
from optuna.trial import FrozenTrial, TrialState

from autoprune.search.storage import StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Proposal, StoredTrial
from autoprune.search.trials.register import Register


def claimed(lifecycle: Lifecycle, x: int) -> Claim:
    key, distribution = f'a "key" {x}', IntDistribution(0, 100)
    found = lifecycle.claim(Proposal(params={"x": x}, distributions={"x": distribution}, key=key, attrs={}))
    assert isinstance(found, Claim)
    return found


def check(register: Register, study: StudyHandle) -> None:
    with study.db.reading() as connection:
        assert register.read(connection) == study.counts()
    trials = [StoredTrial(trial) for trial in study.trials()]
    for trial in trials:
        taken = [one for one in trials if one.key == trial.key and one.state is not TrialState.FAIL]
        assert register.is_taken(str(trial.key)) == bool(taken)
        assert not register.is_taken(str(trial.key), besides=taken[0].frozen._trial_id if taken else None)
        assert register.is_retried(trial.number) == any(one.retry_of == trial.number for one in trials)
        result_key = trial.attrs.get("result_key")
        if result_key is not None:
            same = [one for one in trials if one.attrs.get("result_key") == result_key]
            complete = [one.frozen._trial_id for one in same if one.state is TrialState.COMPLETE]
            assert register.with_result(result_key) == min(complete, default=None)
    waiting = [trial.frozen._trial_id for trial in trials if trial.state is TrialState.WAITING]
    assert register.oldest_waiting() == min(waiting, default=None)
    assert register.n_first_tries == sum(trial.retry_of is None for trial in trials)
    failed = [one.frozen for one in trials if one.state is TrialState.FAIL]
    lost = [one for one in failed if not any(other.retry_of == one.number for other in trials)]
    won = [one.frozen for one in trials if one.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    for since in (0, 2):
        found = [one.number for one in register.failed_for_good(since=since)]
        assert found == [one.number for one in sorted(lost, key=_end) if one._trial_id > since]
        last = max((one for one in won if one._trial_id > since), key=_end, default=None)
        success = register.last_success(since=since)
        assert (success and success.number) == (last and last.number)
    assert not register.is_taken("none has this")
    assert not register.is_retried(10**6)
    assert register.with_result("none has this") is None


def _end(trial: FrozenTrial) -> tuple[Any, int]:
    return trial.datetime_complete, trial._trial_id


def test_what_a_server_lost_while_it_was_away_is_not_remembered(study: StudyHandle, clock: Any) -> None:
    mine = Lifecycle(study, owner="mine", n_trials=2, grace_s=60)
    claimed(mine, 0), claimed(mine, 1)
    assert mine.counts().running == len(study.history()) == 2
    with study.db.writing() as connection:  # As a server that had not yet written it down.
        for table in ("trial_user_attributes", "trial_system_attributes", "trial_params", "autoprune_leases", "trials"):
            connection.execute(sa.text(f"DELETE FROM {table} WHERE trial_id > 1"))
    mine.spare_orphans()
    assert mine.counts().running == len(study.history()) == len(study.trials()) == 1
    assert claimed(mine, 1).number == 1


@pytest.mark.parametrize("n_drivers", [1, 2])
def test_it_reads_on_where_it_was(study: StudyHandle, clock: Any, n_drivers: int) -> None:
    drivers = [Lifecycle(study, owner=f"driver {i}", n_trials=9, grace_s=60) for i in range(n_drivers)]
    mine, theirs = drivers[0], drivers[-1]
    register = Register(study.study_id)
    check(register, study)
    first, second, third, fourth = (claimed(driver, x) for x, driver in enumerate((mine, theirs, mine, theirs)))
    check(register, study)
    mine.complete(first.trial_id, [0.5, 0.5], {"result_key": "one"})
    theirs.failed(second.trial_id, "its worker died", retry=True)
    check(register, study)
    mine.stopped(third.trial_id, {"result_key": "two"})
    again = theirs.claim_waiting()
    assert again is not None
    check(register, study)
    theirs.complete(again.trial_id, [0.5, 0.5], {"result_key": "one"})
    check(register, study)
    clock.now += 61  # Nobody has stood for the fourth.
    assert mine.reap() == [fourth.trial_id]
    check(register, study)
    theirs.release(claimed(theirs, 7).trial_id, "interrupted")
    check(register, study)
    check(Register(study.study_id), study)
