"""A reader goes on where it was, and starts again where the history is another one."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import hypothesis.strategies as st
from hypothesis import given
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.search.trials import Growing

RUNNING, COMPLETE, WAITING, FAIL = TrialState.RUNNING, TrialState.COMPLETE, TrialState.WAITING, TrialState.FAIL


def trial(state: TrialState, key: str = "a") -> FrozenTrial:
    return create_trial(state=state, values=[0.5] if state is COMPLETE else None, user_attrs={"key": key})


class News(NamedTuple):
    places: list[int]
    is_anew: bool


def read(growing: Growing, history: list[FrozenTrial]) -> News:
    forgot, told = list[bool](), list[list[int]]()
    growing.read(history, forget=lambda: forgot.append(True), take_in=told.append)
    (places,) = told
    return News(places, is_anew=bool(forgot))


def test_what_is_new_or_in_another_state_is_told_once() -> None:
    growing, history = Growing(), [trial(COMPLETE), trial(RUNNING)]
    assert read(growing, history) == News([0, 1], is_anew=False)
    assert read(growing, list(history)) == News([], is_anew=False)
    history[1] = trial(COMPLETE)
    history.append(trial(WAITING))
    assert read(growing, history) == News([1, 2], is_anew=False)
    history[2].state = RUNNING  # The same object in another state.
    assert read(growing, history) == News([2], is_anew=False)


def test_an_ended_trial_that_is_another_or_gone_makes_another_history() -> None:
    growing, history = Growing(), [trial(COMPLETE), trial(COMPLETE)]
    read(growing, history)
    other = [history[0], trial(COMPLETE)]
    assert read(growing, other) == News([0, 1], is_anew=True)
    assert read(growing, other[:1]) == News([0], is_anew=True)
    assert read(growing, []) == News([], is_anew=True)
    assert read(growing, other) == News([0, 1], is_anew=False)


def test_another_proposal_in_the_place_of_an_open_trial_makes_another_history() -> None:
    growing, kept = Growing(), trial(RUNNING, "kept")
    read(growing, [kept, trial(RUNNING, "lost by a server")])
    assert read(growing, [kept, trial(RUNNING, "made since")]) == News([0, 1], is_anew=True)


def test_who_did_not_come_to_the_end_is_told_all_anew() -> None:
    growing, history = Growing(), [trial(COMPLETE), trial(COMPLETE)]
    read(growing, history[:1])
    with contextlib.suppress(ZeroDivisionError):
        growing.read(history, forget=list, take_in=lambda places: 1 / 0)
    assert read(growing, history) == News([0, 1], is_anew=True)
    assert read(growing, history) == News([], is_anew=False)


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([RUNNING, COMPLETE, WAITING, FAIL]), st.sampled_from("ab")),
        max_size=40,
    )
)
def test_what_is_told_adds_up_to_the_history(changes: list[tuple[int, TrialState, str]]) -> None:
    growing, history, known = Growing(), list[FrozenTrial](), dict[int, tuple[TrialState, str]]()
    for place, state, key in changes:
        if place < len(history):  # An ended trial is never changed in a study; here it may be.
            history[place] = trial(state, key)
        else:
            history.append(trial(state, key))
        news = read(growing, history)
        if news.is_anew:
            known.clear()
        known |= {at: (history[at].state, history[at].user_attrs["key"]) for at in news.places}
        assert known == {at: (each.state, each.user_attrs["key"]) for at, each in enumerate(history)}
