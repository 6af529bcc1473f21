"""What a history of drivers must agree with: the rows that they have left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from autoprune.search.trials import StoredTrial

__all__ = ["disagreements"]

_STATES = {
    "Complete": (TrialState.COMPLETE,),
    "StopEarly": (TrialState.PRUNED,),
    "Fail": (TrialState.FAIL,),
    "Retry": (TrialState.FAIL,),
    "Release": (TrialState.FAIL,),
}


def disagreements(history: Sequence[Mapping[str, Any]], trials: Sequence[StoredTrial]) -> list[str]:
    """In what the rows are not what the drivers' history says; each a sentence.

    A driver writes ``claimed`` once it holds a trial, ``telling`` before it says how the trial ended (``final``: that
    it has failed for good), and ``told`` with what became of that, ``lost`` where the trial was no longer its own. The
    last of them may be missing where it died.

    Args:
        history: In the order in which things happened.
        trials: Of the study, all.
    """
    by_number, found = {trial.number: trial for trial in trials}, []
    holder: dict[int, str] = {}
    telling: defaultdict[int, set[str]] = defaultdict(set)
    told: dict[int, str] = {}
    final: set[int] = set()  # told to have failed for good, as far as one can know
    for event in history:
        number, owner = event.get("number"), event["owner"]
        if number is None:
            continue
        if event["what"] == "claimed":
            if number in told:
                found.append(f"trial {number} was claimed after its end was told")
            holder[number] = owner
        elif event["what"] == "telling":
            telling[number].add(owner)
            final |= {number} if event["final"] else set()
        elif event["what"] == "told" and event["as"] == "lost":
            final.discard(number)
        elif event["what"] == "told":
            if holder.get(number) != owner:
                found.append(f"trial {number} was told by {owner}, but {holder.get(number)} held it")
            if number in told:
                found.append(f"trial {number} was told twice")
            told[number] = event["as"]
    for number, how in told.items():
        trial = by_number.get(number)
        if trial is None or trial.state not in _STATES[how]:
            state = "not there" if trial is None else trial.state.name
            found.append(f"trial {number} was told as {how}, but is {state}")
    return found + _of_rows(trials, holder, telling, final)


def _of_rows(
    trials: Sequence[StoredTrial], holder: Mapping[int, str], telling: Mapping[int, set[str]], final: Collection[int]
) -> list[str]:
    found = []
    # A key lives on in its next try, or has come to an end where one of them failed for good.
    settled = {trial.key for trial in trials if trial.state is not TrialState.FAIL or trial.number in final}
    for trial in trials:
        number = trial.number
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            if trial.owner not in telling.get(number, ()):
                found.append(f"trial {number} has a result that {trial.owner}, who held it, has not told")
        elif trial.state is TrialState.FAIL and number in holder and trial.key not in settled:
            found.append(f"what trial {number} was to try is lost: {trial.reason}")
    return found
