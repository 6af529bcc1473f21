"""What a launch reads while its cluster starts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from autoprune.api._ahead import reading_ahead
from autoprune.errors import StorageError
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Proposal


def _study(db: Database, name: str) -> tuple[StudyHandle, Lifecycle]:
    study = StudyHandle.create_or_join(db, name=name, identity={}, config={}, directions=["maximize", "minimize"])
    return study, Lifecycle(study, owner="a", n_trials=9)


def test_a_history_read_ahead_is_not_read_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    db = Database.open(url, create=True)
    _, lifecycle = _study(db, "digits")
    claim = lifecycle.claim(Proposal({}, {}, "key"))
    assert isinstance(claim, Claim)
    lifecycle.complete(claim.trial_id, [0.5, 0.25], {})
    record = StudyHandle.open(db, "digits")
    with reading_ahead(url, "digits") as give:
        give(record)
    with db.writing() as connection:  # What an end has left is not looked at again.
        connection.exec_driver_sql("DELETE FROM trial_values")
    assert [trial.values for trial in record.history()] == [[0.5, 0.25]]
    db.close()


@pytest.mark.parametrize("there", ["nothing", "rubbish", "another study"])
def test_what_is_not_there_is_not_missed(there: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "study.db"
    url = f"sqlite:///{file}"
    if there == "rubbish":
        file.write_text("rubbish")
    elif there == "another study":
        db = Database.open(url, create=True)
        _study(db, "other")
        db.close()
    with caplog.at_level(logging.WARNING), reading_ahead(url, "digits") as give:
        assert file.exists() == (there != "nothing")
        file.unlink(missing_ok=True)
        db = Database.open(url, create=True)
        record, _ = _study(db, "digits")
        give(record)
    assert record.history() == []
    assert not caplog.records
    db.close()


def test_a_history_that_cannot_be_read_is_told_when_it_is_asked_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    db = Database.open(url, create=True)
    study, lifecycle = _study(db, "digits")
    claim = lifecycle.claim(Proposal({}, {}, "key"))
    assert isinstance(claim, Claim)
    with db.writing() as connection:
        connection.exec_driver_sql("UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'attempt'")
    with reading_ahead(url, "digits") as give:
        give(study)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(StorageError, match=r"must be JSON, but those of the trial with id \d+ are not"):
        study.history()
    db.close()
