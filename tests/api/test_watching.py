"""Running trials as another process sees them."""

from __future__ import annotations

import pytest

from autoprune import api
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Attr, Lifecycle, StoredTrial
from tests.conftest import FinishedStudy


def test_a_beat_tells_how_far_a_trial_is_until_it_has_ended(finished: FinishedStudy) -> None:
    study, db = api.open_study("digits", finished.url), Database.open(finished.url, create=False)

    def seen() -> api.RunningStatus:
        (row,) = api.status("digits", finished.url).running
        return row

    assert (seen().number, seen().phase, seen().progress, seen().seconds_left) == (6, None, None, None)
    lifecycle = Lifecycle(StudyHandle.open(db, "digits"), owner="here:1:abc", n_trials=10, grace_s=10**9)
    (trial_id,) = [t._trial_id for t in lifecycle.study.trials() if t.number == 6]
    told = {"phase": "sparsify", "progress": 0.9, "images_per_s": None, "seconds_left": None}
    more = {"phase": "finetune", "progress": 0.25, "images_per_s": 341.0, "seconds_left": 60.0}
    assert lifecycle.beat([trial_id, 999], progress={trial_id: told, 999: told}) == {999}
    assert lifecycle.beat([trial_id], progress={trial_id: more}) == set()
    row = seen()
    assert (row.phase, row.progress, row.images_per_s) == ("finetune", 0.25, 341.0)
    assert row.seconds_left == pytest.approx(60.0, abs=30)
    assert "progress" not in study.trials().columns
    # A driver that no longer holds the trial tells nothing of it.
    other = Lifecycle(StudyHandle.open(db, "digits"), owner="there:2:def", n_trials=10)
    assert other.beat([trial_id], progress={trial_id: told}) == {trial_id}
    assert seen().phase == "finetune"
    lifecycle.stopped(trial_id, {"partial_accuracy": 0.4, "stop_reason": "interrupted"})
    assert api.status("digits", finished.url).running == ()
    ended = StoredTrial(api.open_study("digits", finished.url).handle.trials()[6])
    assert (ended.progress, Attr.PROGRESS in ended.attrs) == (None, False)
    db.close()
    study.close()
