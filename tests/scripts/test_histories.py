"""What drivers say they did, held against rows: each way to disagree is seen."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from autoprune.search.trials import StoredTrial
from scripts.histories import disagreements


def claimed(number: int, owner: str = "a") -> dict[str, Any]:
    return {"what": "claimed", "owner": owner, "number": number}


def telling(number: int, owner: str = "a", *, final: bool = False) -> dict[str, Any]:
    return {"what": "telling", "owner": owner, "number": number, "final": final}


def told(number: int, how: str, owner: str = "a") -> dict[str, Any]:
    return {"what": "told", "owner": owner, "number": number, "as": how}


def rows(*trials: tuple[str, TrialState]) -> list[StoredTrial]:
    """Trials by (key, state), all of driver a."""
    found = []
    for number, (key, state) in enumerate(trials):
        values = [0.5, 0.5] if state is TrialState.COMPLETE else None
        trial = create_trial(state=state, values=values, user_attrs={"key": key, "owner": "a", "reason": "lost"})
        trial.number = number
        found.append(StoredTrial(trial))
    return found


COMPLETE, FAIL, WAITING = TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING


@pytest.mark.parametrize(
    ("history", "trials"),
    [
        ([claimed(0), telling(0), told(0, "Complete")], rows(("k", COMPLETE))),
        ([claimed(0), telling(0)], rows(("k", COMPLETE))),  # It died after the commit.
        ([claimed(0), telling(0), told(0, "lost")], rows(("k", FAIL), ("k", WAITING))),
        ([claimed(0), telling(0, final=True), told(0, "Fail")], rows(("k", FAIL))),
        ([claimed(0), telling(0, final=True)], rows(("k", FAIL))),  # It died while it told that it had failed.
        (
            [claimed(0), claimed(1, "b"), telling(1, "b", final=True), told(1, "Fail", "b")],
            rows(("k", FAIL), ("k", FAIL)),
        ),
    ],
)
def test_what_agrees(history: list[dict[str, Any]], trials: list[StoredTrial]) -> None:
    assert disagreements(history, trials) == []


@pytest.mark.parametrize(
    ("history", "trials", "what"),
    [
        ([claimed(0), telling(0), told(0, "Complete")], rows(("k", FAIL), ("k", WAITING)), "is FAIL"),
        ([claimed(0), telling(0), told(0, "Complete")], [], "not there"),
        ([claimed(0)], rows(("k", COMPLETE)), "has not told"),
        ([claimed(0), telling(0, "b"), told(0, "Complete", "b")], rows(("k", COMPLETE)), "but a held it"),
        ([claimed(0), telling(0), *[told(0, "Complete")] * 2], rows(("k", COMPLETE)), "told twice"),
        ([claimed(0), telling(0), told(0, "Complete"), claimed(0)], rows(("k", COMPLETE)), "after its end"),
        ([claimed(0)], rows(("k", FAIL)), "was to try is lost"),
        ([claimed(0), telling(0), told(0, "Retry")], rows(("k", FAIL)), "was to try is lost"),
        ([claimed(0), telling(0, final=True), told(0, "lost")], rows(("k", FAIL)), "was to try is lost"),
    ],
)
def test_what_does_not(history: list[dict[str, Any]], trials: list[StoredTrial], what: str) -> None:
    assert any(what in found for found in disagreements(history, trials))
