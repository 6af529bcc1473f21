"""A study that is whole has no violation; each thing that is broken in it is found, and told as what it is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from autoprune.search.front import EvaluationRows, TestScore
from autoprune.search.invariants import file_violations, phase_violations, row_violations, unsettled
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle
from tests.search import fakes

NAME, N_TRIALS = "s", 3


def publish(path: Path, content: bytes) -> dict[str, str]:
    """A network as a worker leaves it; what the trial tells of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256}))
    return {"weights": str(path), "sha256": sha256}


def opened(folder: Path) -> StudyHandle:
    return StudyHandle.open(Database.open(f"sqlite:///{folder}/s.db", create=False), NAME)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of three finished trials, the third of which took over the second's result, and a retry on the way."""
    folder = tmp_path_factory.mktemp("whole")
    db = Database.open(f"sqlite:///{folder}/s.db", create=True)
    study = StudyHandle.create_or_join(db, name=NAME, identity={}, config={}, directions=["maximize", "minimize"])
    lifecycle = Lifecycle(study, owner="me", n_trials=N_TRIALS + 1)
    proposer = fakes.proposer(fakes.space(), n_trials=30)
    for i, macs_ratio in enumerate((1.0, 0.5, 0.5)):
        claim = lifecycle.claim(proposer.propose(study.trials()))
        assert isinstance(claim, Claim)
        facts = {"accuracy": 0.9 if i == 0 else 0.5, "macs_ratio": macs_ratio}
        if i < 2:
            files = publish(folder / "trials" / f"{i}.safetensors", bytes([i]))
        facts |= files | ({"taken_over_from": 1} if i == 2 else {})
        lifecycle.complete(claim.trial_id, [facts["accuracy"], macs_ratio], facts)
    lost = lifecycle.claim(proposer.propose(study.trials()))
    assert isinstance(lost, Claim)
    lifecycle.failed(lost.trial_id, "worker lost", retry=True)
    phases = publish(folder / "phases" / "a.safetensors", b"a")
    PhaseRows(db).publish("a", kind="dense", owner="me", place=phases["weights"], sha256=phases["sha256"], size_bytes=1)
    EvaluationRows(db, study.study_id).add(TestScore(1, 0, "f", 0.5, 10, 1.0))
    db.close()
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it whose files lie where its rows say."""
    for path in whole.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(whole).parent).mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(whole)).write_bytes(path.read_bytes())
    with sa.create_engine(f"sqlite:///{tmp_path}/s.db").begin() as connection:
        for table, column in (("trial_user_attributes", "value_json"), ("autoprune_phases", "place")):
            query = f"UPDATE {table} SET {column} = replace({column}, '{whole}', '{tmp_path}')"
            connection.execute(sa.text(query))
    return tmp_path


def kinds(folder: Path, *, deep: bool = False) -> list[str]:
    study = opened(folder)
    found = [
        *row_violations(study),
        *file_violations(study, limits={}, deep=deep),
        *phase_violations(study.db, deep=deep),
    ]
    study.db.close()
    return [violation.kind for violation in found]


def attribute(number: int, key: str, value: object) -> str:
    text = json.dumps(value)
    return f"UPDATE trial_user_attributes SET value_json = '{text}' WHERE trial_id = {number + 1} AND key = '{key}'"


def added(number: int, key: str, value: object) -> str:
    columns = "INSERT INTO trial_user_attributes (trial_id, key, value_json)"
    return f"{columns} VALUES ({number + 1}, '{key}', '{json.dumps(value)}')"


# What is done to the database, and what is found; trial 3 failed, trial 4 is its next try and waits.
ROWS = {
    "a trial is deleted": (["DELETE FROM trials WHERE number = 1"], {"number", "taken over", "evaluation"}),
    "one key twice": ([attribute(2, "key", "k"), attribute(1, "key", "k")], {"key"}),
    "no value": (["DELETE FROM trial_values WHERE trial_id = 1 AND objective = 1"], {"result"}),
    "values of another tell": ([attribute(0, "accuracy", 0.25)], {"result"}),
    "no reason": ([attribute(3, "reason", "")], {"reason"}),
    "nobody claimed it": (["DELETE FROM trial_user_attributes WHERE trial_id = 1 AND key = 'owner'"], {"lease"}),
    "no revision": ([attribute(0, "revision", None)], {"revision"}),
    "a lease of nobody's trial": (["INSERT INTO autoprune_leases VALUES (99, 1, 'me', 0)"], {"lease"}),
    "RUNNING, and nobody is there": (["UPDATE trials SET state = 'RUNNING' WHERE number = 4"], {"lease"}),
    "a retry of what is complete": ([attribute(4, "retry_of", 0)], {"retry"}),
    "a retry of nothing": ([attribute(4, "retry_of", 9)], {"retry"}),
    "a retry that is another one": ([attribute(4, "seed_number", 1)], {"retry"}),
    "a parent without a network": ([added(2, "parent", 3)], {"parent"}),
    "another parent": ([added(2, "parent", 0), added(2, "parent_sha256", "0")], {"parent"}),
    "an origin without a network": ([added(2, "started_from", 3)], {"parent"}),
    "taken over from a failed one": ([attribute(2, "taken_over_from", 3)], {"taken over"}),
    "taken over and changed": ([attribute(2, "sha256", "0")], {"taken over"}),
    "a test score of a failed one": (["UPDATE autoprune_evaluations SET trial_number = 3"], {"evaluation"}),
}


def test_a_whole_study_has_none(folder: Path) -> None:
    assert kinds(folder, deep=True) == []
    study = opened(folder)
    assert [violation.kind for violation in unsettled(study, n_trials=N_TRIALS)] == ["left over"]  # the retry
    assert [violation.kind for violation in unsettled(study, n_trials=9)] == ["left over", "unfinished"]
    study.db.close()


@pytest.mark.parametrize("what", ROWS)
def test_a_broken_row_is_found(folder: Path, what: str) -> None:
    statements, expected = ROWS[what]
    with sa.create_engine(f"sqlite:///{folder}/s.db").begin() as connection:
        for statement in statements:
            assert connection.execute(sa.text(statement)).rowcount == 1
    assert set(kinds(folder)) == expected


def test_two_tries_of_one_trial_are_one_too_many(folder: Path) -> None:
    study = opened(folder)
    lifecycle = Lifecycle(study, owner="me", n_trials=9)
    proposal = fakes.proposer(fakes.space(), n_trials=30).propose(study.trials())
    claim = lifecycle.claim(proposal)
    assert isinstance(claim, Claim)
    with sa.create_engine(f"sqlite:///{folder}/s.db").begin() as connection:
        connection.execute(sa.text(added(claim.number, "retry_of", 3)))
    assert "retry" in kinds(folder)
    study.db.close()


# Trial 0 then is no longer on the front.
BEATEN = (attribute(0, "accuracy", 0.4), "UPDATE trial_values SET value = 0.4 WHERE trial_id = 1 AND objective = 0")


def test_what_is_beaten_may_be_missing_unless_a_trial_is_to_start_from_it(folder: Path) -> None:
    (folder / "trials" / "0.safetensors").unlink()
    assert kinds(folder) == ["network"]
    with sa.create_engine(f"sqlite:///{folder}/s.db").begin() as connection:
        for statement in BEATEN:
            assert connection.execute(sa.text(statement)).rowcount == 1
    assert kinds(folder) == []
    with sa.create_engine(f"sqlite:///{folder}/s.db").begin() as connection:
        for number in (3, 4):
            connection.execute(sa.text(added(number, "parent", 0)))
    assert kinds(folder) == ["parent's network"]  # of 4, which waits; 3 has failed


@pytest.mark.parametrize("kind", ["network", "phase"])
def test_a_missing_or_damaged_file_is_found(folder: Path, kind: str) -> None:
    path = folder / ("trials/1.safetensors" if kind == "network" else "phases/a.safetensors")
    path.write_bytes(b"b")
    assert kinds(folder) == []  # its record is believed
    assert kinds(folder, deep=True) == [kind]
    path.with_suffix(".json").write_text('{"sha256": "0"}')
    assert kinds(folder) == [kind]
    path.with_suffix(".json").write_text("{")
    assert kinds(folder) == [kind]
    path.with_suffix(".json").unlink()
    path.unlink()
    assert kinds(folder) == [kind]
    study = opened(folder)
    elsewhere = {"folders": (folder,)}
    assert file_violations(study, limits={}, **elsewhere) == phase_violations(study.db, **elsewhere) == []
    study.db.close()
