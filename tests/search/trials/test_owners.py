from __future__ import annotations

import subprocess
import sys

import pytest

from autoprune.search.phases import PhaseLeases, PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle, Proposal, expire_dead_leases, is_gone, new_owner


def test_a_live_driver_is_not_gone_and_has_a_new_name_each_time():
    mine = new_owner()
    assert not is_gone(mine)
    assert mine != new_owner()


def test_a_driver_that_was_killed_here_is_gone():
    code = "import time; from autoprune.search.trials import new_owner; print(new_owner(), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        assert not is_gone(owner)
        process.kill()
    assert is_gone(owner)


def test_another_process_of_the_same_number_does_not_stand_for_a_dead_one():
    place, pid, started, name = new_owner().split("|")
    assert is_gone(f"{place}|{pid}|{int(started) - 1}|{name}")


@pytest.mark.parametrize("owner", ["elsewhere|1|2|x", "driver", "", "a|b|c|d"])
def test_nothing_is_known_of_other_machines(owner):
    assert not is_gone(owner)


def test_trials_of_a_killed_driver_are_free_at_once(tmp_path):
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    study = StudyHandle.create_or_join(db, name="s", identity={}, config={}, directions=["maximize", "minimize"])
    place, pid, started, name = new_owner().split("|")
    killed = f"{place}|{pid}|{int(started) - 1}|{name}"
    for owner in (killed, new_owner()):
        study.enter(owner)
        lifecycle = Lifecycle(study, owner=owner, n_trials=9, grace_s=1e6)
        lifecycle.claim(Proposal(params={}, distributions={}, key=owner))
    assert expire_dead_leases(study) == [killed]
    assert expire_dead_leases(study) == []
    assert [trial.state.name for trial in study.trials()] == ["RUNNING", "RUNNING"]
    again = lifecycle.claim_waiting()
    assert again is not None
    assert again.attempt == 1
    assert again.seed_number == 0
    assert [trial.state.name for trial in study.trials()] == ["FAIL", "RUNNING", "RUNNING"]
    db.close()


def test_phases_of_a_killed_driver_are_free_at_once_whatever_its_study(tmp_path):
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    study = StudyHandle.create_or_join(db, name="s", identity={}, config={}, directions=["maximize", "minimize"])
    alive = new_owner()
    place, pid, started, name = alive.split("|")
    rows = PhaseRows(db)
    killed = PhaseLeases(rows, owner=f"{place}|{pid}|{int(started) - 1}|{name}", grace_s=1e6)
    for key in ("dense", "sparsify", "ready"):
        assert killed.take(key, "sparsify", holder=key) == "mine"
    killed.publish("sparsify", holder="ready", file={"key": "ready", "place": "/x", "sha256": "s", "size_bytes": 1})
    living = PhaseLeases(rows, owner=alive, grace_s=1e6)
    assert living.take("of the living", "sparsify", holder=1) == "mine"
    expire_dead_leases(study)
    keys = ("dense", "sparsify", "ready", "of the living")
    assert [living.take(key, "sparsify", holder=2) for key in keys] == ["mine", "mine", "ready", "busy"]
    db.close()
