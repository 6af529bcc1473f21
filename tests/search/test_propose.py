from __future__ import annotations

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autoprune.errors import SpaceExhaustedError
from autoprune.search.propose import opening
from autoprune.search.space import Point
from autoprune.spec import Range
from tests.search import fakes


def finished(proposal, state=TrialState.COMPLETE):
    """The trial that a proposal becomes."""
    result = fakes.run_trial(proposal.attrs["point"])
    values = [result["accuracy"], result["macs_ratio"]] if state is TrialState.COMPLETE else None
    return create_trial(
        state=state,
        values=values,
        params=proposal.params,
        distributions=proposal.distributions,
        user_attrs={"key": proposal.key, **proposal.attrs},
    )


def search(n, *, seed=0, space=None, sampler="tpe"):
    proposer = fakes.proposer(space or fakes.space(), n_trials=n, seed=seed, sampler=sampler)
    history = []
    for _ in range(n):
        history.append(finished(proposer.propose(history)))
    return history


def test_a_study_opens_with_the_dense_network_and_a_ladder_by_each_rule():
    points = opening(fakes.space(), 30)
    assert points[0] == Point("plain", "uniform", 1.0)
    assert [(p.width_rule, p.macs_target) for p in points[1:]] == [
        ("uniform", 0.9), ("uniform", 0.7), ("uniform", 0.5), ("uniform", 0.3), ("uniform", 0.1),
        ("global", 0.9), ("global", 0.7), ("global", 0.5), ("global", 0.3),
    ]  # fmt: skip
    assert {p.method for p in points[1:]} == {"plain", "strong"}


@pytest.mark.parametrize("n_trials", [1, 3, 9, 100])
def test_the_opening_leaves_the_sampler_two_thirds(n_trials):
    assert len(opening(fakes.space(), n_trials)) == max(3, n_trials // 3)


def test_the_same_history_and_seed_give_the_same_proposals():
    first, second, other = search(25), search(25), search(25, seed=1)
    assert [t.params for t in first] == [t.params for t in second]
    assert [t.params for t in first] != [t.params for t in other]


def test_no_point_is_proposed_twice_until_the_space_is_exhausted():
    space = fakes.space(methods={"plain": {}}, macs_target=Range(low=0.2, high=0.8, step=0.2))
    # Dense, and four targets by each of two rules.
    history = search(9, space=space)
    assert len({trial.user_attrs["key"] for trial in history}) == 9
    with pytest.raises(SpaceExhaustedError, match="gave nothing that was not tried in 9 trials"):
        fakes.proposer(space, n_trials=20).propose(history)


def test_a_failed_point_is_not_proposed_again():
    proposer = fakes.proposer(fakes.space(), n_trials=9)
    first = proposer.propose([])
    assert proposer.propose([finished(first, TrialState.FAIL)]).key != first.key


def test_the_sampler_learns_which_strength_is_best():
    late = [t.user_attrs["point"] for t in search(80)[40:]]
    strong = [p["hyper"]["strength"] for p in late if p["method"] == "strong"]
    # The known optimum is 1e-3; uniform draws from the five strengths would hit it and its neighbours 60 times in 100.
    assert len(strong) > 20
    assert sum(3e-4 < s < 3.5e-3 for s in strong) / len(strong) > 0.6


def test_history_that_left_the_space_stays_out_of_the_sampler_and_does_no_harm():
    history = search(20)
    narrowed = fakes.space(
        methods={**fakes.METHODS, "new": {}}, macs_target=Range(low=0.2, high=0.5, step=0.05), width_rules=("global",)
    )
    proposer = fakes.proposer(narrowed, n_trials=60)
    seen = set()
    for _ in range(20):
        proposal = proposer.propose(history)
        seen.add(proposal.attrs["point"]["method"])
        if proposal.attrs["point"]["macs_target"] < 1:
            assert narrowed.admits(Point(**proposal.attrs["point"]))
        history.append(finished(proposal))
    assert "new" in seen


def test_a_changed_list_of_choices_is_stored_under_a_name_of_its_own():
    history = search(5)
    grown = fakes.space(methods={**fakes.METHODS, "new": {}})
    proposal = fakes.proposer(grown, n_trials=60).propose(history)
    assert "method #2" in proposal.params
    assert "method" not in proposal.params
    assert "width_rule" in proposal.params
    # Optuna accepts it beside the old ones, which it would not under the old name.
    study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials([*history, finished(proposal)])
    again = fakes.proposer(grown, n_trials=60).propose([*history, finished(proposal)])
    assert "method #2" in again.params


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_every_sampler_repeats_itself(sampler):
    assert [t.params for t in search(15, sampler=sampler)] == [t.params for t in search(15, sampler=sampler)]
