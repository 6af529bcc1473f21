"""A reader goes on where it was, and starts again where the history is another one."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.search.trials import Growing, News

RUNNING, COMPLETE, WAITING = TrialState.RUNNING, TrialState.COMPLETE, TrialState.WAITING


def trial(state: TrialState) -> FrozenTrial:
    return create_trial(state=state, values=[0.5] if state is COMPLETE else None)


def test_what_is_new_or_in_another_state_is_told_once() -> None:
    growing, history = Growing(), [trial(COMPLETE), trial(RUNNING)]
    assert growing.read(history) == News([0, 1], is_anew=False)
    assert growing.read(list(history)) == News([], is_anew=False)
    history[1] = trial(COMPLETE)
    history.append(trial(WAITING))
    assert growing.read(history) == News([1, 2], is_anew=False)
    history[2].state = RUNNING  # The same object in another state.
    assert growing.read(history) == News([2], is_anew=False)


def test_an_ended_trial_that_is_another_or_gone_makes_another_history() -> None:
    growing, history = Growing(), [trial(COMPLETE), trial(COMPLETE)]
    growing.read(history)
    other = [history[0], trial(COMPLETE)]
    assert growing.read(other) == News([0, 1], is_anew=True)
    assert growing.read(other[:1]) == News([0], is_anew=True)
    assert growing.read([]) == News([], is_anew=True)
    assert growing.read(other) == News([0, 1], is_anew=False)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([RUNNING, COMPLETE, WAITING, TrialState.FAIL])), max_size=40)
)
def test_what_is_told_adds_up_to_the_history(changes: list[tuple[int, TrialState]]) -> None:
    growing, history, known = Growing(), list[FrozenTrial](), dict[int, TrialState]()
    for place, state in changes:
        if place < len(history):  # An ended trial is never changed in a study; here it may be.
            history[place] = trial(state)
        else:
            history.append(trial(state))
        news = growing.read(history)
        if news.is_anew:
            known.clear()
        known |= {place: history[place].state for place in news.places}
        assert known == {place: each.state for place, each in enumerate(history)}
