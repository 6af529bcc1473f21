"""What a sampler sees of a history."""

from __future__ import annotations

from statistics import median

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from autoprune.config import ConstraintsConfig, Range
from autoprune.errors import ConfigError
from autoprune.search.pareto import front_mask, non_domination_rank
from autoprune.search.proposals.observations import Observation, Observations, Observer
from autoprune.search.trials import Point
from tests.search import fakes

COMPLETE, RUNNING, PRUNED, FAIL = TrialState.COMPLETE, TrialState.RUNNING, TrialState.PRUNED, TrialState.FAIL
UNIFORM = Point("plain", "uniform", 0.5)


def look(history, space=None, objectives=fakes.OBJECTIVES):
    return Observer(space or fakes.space(), objectives).look(history)


def stopped(space, point, rungs, **attrs):
    partial = {"rungs": rungs, "partial_accuracy": max(rungs.values()), "partial_macs_ratio": point.macs_target}
    return fakes.trial(space, point, PRUNED, **{**partial, **attrs})


# -- which trials, and as what ---------------------------------------------------------------------------------------


def test_trials_with_a_result_and_running_ones_are_seen():
    space = fakes.space()
    strong = Point("strong", "global", 0.3, {"strength": 1e-3})
    waiting = fakes.trial(space, UNIFORM, TrialState.WAITING)
    history = [
        fakes.trial(space, UNIFORM),
        fakes.trial(space, strong, RUNNING),
        fakes.trial(space, strong, FAIL),
        waiting,
    ]
    done, running = look(history).trials
    assert (done.number, done.values) == (0, (pytest.approx(0.5 + 0.4 * 0.5**0.5), 0.5))
    assert done.params == {"method": "plain", "width_rule": "uniform", "macs_target": 0.5}
    assert (running.number, running.values) == (1, None)
    assert running.params["strong.strength"] == 1e-3


def test_what_the_space_of_today_does_not_hold_is_not_seen_and_what_it_holds_is():
    old = fakes.space()
    points = [fakes.draw(old, seed) for seed in range(40)]
    history = [fakes.trial(old, point) for point in points]
    narrowed = fakes.space(macs_target=Range(low=0.3, high=0.6, step=0.1), width_rules=("global",))
    kept = [i for i, p in enumerate(points) if p.width_rule == "global" and 0.3 <= p.macs_target <= 0.6]
    assert 0 < len(kept) < 40
    assert [observation.number for observation in look(history, narrowed).trials] == kept
    widened = fakes.space(
        methods={**fakes.METHODS, "new": {"a": Range(low=0, high=1)}},
        macs_target=Range(low=0.05, high=0.95),
        width_rules=("global", "per_group", "uniform"),
    )
    assert len(look(history, widened).trials) == 40


def test_a_trial_that_is_tried_again_keeps_its_place():
    space = fakes.space()
    targets = {0: 0.3, 1: 0.5, 2: 0.7}
    first = [fakes.trial(space, Point("plain", "uniform", t), seed_number=i) for i, t in targets.items()]
    lost = fakes.trial(space, Point("plain", "uniform", 0.5), FAIL, seed_number=1)
    again = fakes.trial(space, Point("plain", "uniform", 0.5), seed_number=1, retry_of=1)
    straight, interrupted = look(first), look([first[0], lost, first[2], again])
    assert [(s.number, s.params, s.values) for s in straight.trials] == [
        (s.number, s.params, s.values) for s in interrupted.trials
    ]


# -- trials that were stopped early ----------------------------------------------------------------------------------


def test_a_stopped_trial_is_credited_with_the_median_of_what_others_gained_later():
    space = fakes.space()
    gains = {0: [0.30, 0.10, 0.25], 1: [0.05, 0.02, 0.01]}
    history = []
    for i in range(3):
        target = 0.3 + i / 10
        final = fakes.run_trial(Point("plain", "uniform", target).to_dict())["accuracy"]
        rungs = {"0": final - gains[0][i], "1": final - gains[1][i], "2": final}
        history.append(fakes.trial(space, Point("plain", "uniform", target), rungs=rungs))
    history.append(stopped(space, Point("plain", "global", 0.4), {"0": 0.5}))
    history.append(stopped(space, Point("plain", "global", 0.5), {"0": 0.4, "1": 0.6}))
    # The last rung counts, even where an earlier one was better.
    history.append(stopped(space, Point("plain", "global", 0.6), {"0": 0.7, "1": 0.6}))
    values = [observation.values for observation in look(history).trials[3:]]
    assert values == [
        (pytest.approx(0.5 + median(gains[0])), 0.4),
        (pytest.approx(0.6 + median(gains[1])), 0.5),
        (pytest.approx(0.6 + median(gains[1])), 0.6),
    ]


def test_where_no_gain_is_known_none_is_credited_and_no_accuracy_exceeds_one():
    space = fakes.space()
    history = [stopped(space, UNIFORM, {"0": 0.75})]
    assert look(history).trials[0].values == (0.75, 0.5)
    final = fakes.run_trial(Point("plain", "uniform", 0.3).to_dict())["accuracy"]
    history.append(fakes.trial(space, Point("plain", "uniform", 0.3), rungs={"0": final - 0.6, "1": final}))
    assert look(history).trials[0].values == (1.0, 0.5)


@pytest.mark.parametrize("missing", ["rungs", "partial_macs_ratio"])
def test_a_stopped_trial_that_came_to_nothing_is_not_seen(missing):
    space = fakes.space()
    known = {"rungs": {"0": 0.75}, "partial_macs_ratio": 0.5}
    assert look([fakes.trial(space, UNIFORM, PRUNED, **known)]).trials[0].values == (0.75, 0.5)
    assert look([fakes.trial(space, UNIFORM, PRUNED, **{**known, missing: None})]).trials == ()


def test_a_stopped_trials_parameters_are_counted_where_its_widths_are_known():
    space = fakes.space()
    history = [stopped(space, Point("plain", rule, 0.5), {"0": 0.75}) for rule in ("uniform", "global")]
    (only,) = look(history, objectives=("accuracy", "params_ratio")).trials
    cost = fakes.cost_model()
    assert only.values == (0.75, cost.params_ratio(space.widths(UNIFORM)))


def test_a_network_that_was_too_slow_is_seen_with_its_excess():
    space = fakes.space(constraints=ConstraintsConfig(latency_ms=4.0))
    slow = stopped(space, UNIFORM, {"0": 0.75}, latency_ms=5.0)
    (observation,) = look([slow], space, objectives=("accuracy", "latency_ms")).trials
    assert observation.values == (0.75, 5.0)
    assert observation.violations == {"latency_ms": 0.25}


RMSE = ("rmse", "macs_ratio")


def look_at_rmse(history):
    return Observer(fakes.space(), RMSE, fakes.RMSE).look([fakes.by_rmse(trial) for trial in history])


def test_a_stopped_trial_s_rmse_may_fall_to_nothing_but_not_below_and_has_no_upper_end():
    space = fakes.space()
    final = fakes.run_trial(UNIFORM.to_dict())["accuracy"]
    history = [
        fakes.trial(space, UNIFORM, rungs={"0": final - 0.15, "1": final}),  # Its rmse falls by 0.6 after rung 0.
        stopped(space, Point("plain", "global", 0.4), {"0": 0.875}),  # 0.5, and so less than nothing
        stopped(space, Point("plain", "global", 0.3), {"0": 0.25}),  # 3.0
    ]
    whole, low, high = look_at_rmse(history).trials
    assert whole.values == (pytest.approx(4 * (1 - final)), 0.5)
    assert low.values == (0.0, 0.4)
    assert high.values == (pytest.approx(2.4), 0.3)


# -- constraints -----------------------------------------------------------------------------------------------------


def test_broken_constraints_are_seen_as_shares_of_their_limits():
    limits = ConstraintsConfig(params=1_000, latency_ms=2.0)
    space = fakes.space(constraints=limits)
    facts = [
        {"params": 1_000, "latency_ms": 2.0},
        {"params": 1_500, "latency_ms": 1.0},
        {"params": 900, "latency_ms": 3.0},
        {},
    ]
    history = [fakes.trial(space, Point("plain", "global", 0.3 + i / 10), **fact) for i, fact in enumerate(facts)]
    observations = look(history, space)
    assert [observation.violations for observation in observations.trials] == [
        {},
        {"params": 0.5},
        {"latency_ms": 0.5},
        {},
    ]
    study, _ = observations.study()
    told = [trial.constraints for trial in study.get_trials(states=[COMPLETE])]
    # All that some trial breaks is told of every trial, because Optuna's processes need as many values of each.
    assert told == [
        {"latency_ms": 0.0, "params": 0.0}, {"latency_ms": 0.0, "params": 0.5},
        {"latency_ms": 0.5, "params": 0.0}, {"latency_ms": 0.0, "params": 0.0},
    ]  # fmt: skip
    assert {trial.number for trial in study.best_trials} == {0, 3}  # Optuna reads them.


def test_one_parameter_too_many_breaks_the_limit():
    space = fakes.space(constraints=ConstraintsConfig(params=10**9))
    history = [fakes.trial(space, Point("plain", "global", 0.5), params=10**9 + excess) for excess in (0, 1)]
    assert [bool(observation.violations) for observation in look(history, space).trials] == [False, True]


# -- warm and cold ---------------------------------------------------------------------------------------------------


@st.composite
def lives(draw):
    """Snapshots of a study whose trials end in any order, in any state, several at once."""
    space = fakes.space(width_rules=("uniform", "global", "per_group"), constraints=ConstraintsConfig(params=3_000))
    history, snapshots = [], []
    for step in range(draw(st.integers(1, 12))):
        open_ones = [i for i, trial in enumerate(history) if trial.state is RUNNING]
        if open_ones and draw(st.booleans()):
            index = draw(st.sampled_from(open_ones))
            point = Point.from_dict(history[index].user_attrs["point"])
            accuracy = draw(st.floats(0, 1))
            state = draw(st.sampled_from([COMPLETE, PRUNED, FAIL]))
            if state is PRUNED:
                history[index] = stopped(space, point, {"0": accuracy})
            else:
                params = draw(st.integers(1_000, 5_000))
                history[index] = fakes.trial(space, point, state, ended=step, rungs={"0": accuracy}, params=params)
        else:
            history.append(fakes.trial(space, fakes.draw(space, draw(st.integers(0, 10**6))), RUNNING))
        snapshots.append(list(history))
    return space, snapshots


def as_data(observations):
    return [(s.number, s.params, s.values, s.violations, s.ended_at) for s in observations.trials]


@given(lives())
def test_a_viewer_that_has_seen_the_past_sees_what_a_new_one_sees(life):
    space, snapshots = life
    observer = Observer(space, fakes.OBJECTIVES)
    for history in snapshots:
        assert as_data(observer.look(history)) == as_data(Observer(space, fakes.OBJECTIVES).look(history))
        assert observer.choices(history) == Observer(space, fakes.OBJECTIVES).choices(history)


def test_a_viewer_shown_another_history_forgets_the_one_before():
    space = fakes.space()
    one, other = ([fakes.trial(space, fakes.draw(space, seed)) for seed in seeds] for seeds in (range(9), range(9, 12)))
    observer = Observer(space, fakes.OBJECTIVES)
    observer.look(one)
    assert as_data(observer.look(other)) == as_data(look(other))


# -- the best and the newest -----------------------------------------------------------------------------------------


def view_of(values, violations=None):
    trials = [
        Observation(i, UNIFORM.params, tuple(value), (violations or {}).get(i, {})) for i, value in enumerate(values)
    ]
    return Observations(fakes.space(), fakes.OBJECTIVES, tuple(trials))


def test_the_best_are_taken_front_by_front_and_from_the_emptiest_part_of_each():
    # Accuracy is maximised and cost minimised. The front is 0, 1, 2, 3; then 4; then 5.
    values = [(0.9, 0.9), (0.8, 0.5), (0.79, 0.48), (0.3, 0.1), (0.7, 0.6), (0.6, 0.7)]
    observations = view_of(values)
    assert [s.number for s in observations.best(6)] == [0, 3, 2, 1, 4, 5]
    assert [s.number for s in observations.best(3)] == [0, 3, 2]
    assert [s.number for s in observations.best(2, observations.finished[4:])] == [4, 5]
    assert view_of([]).best(3) == []


def test_where_rmse_is_minimised_the_least_of_both_is_best():
    # The same front as above, then 4 and 5, which the second beats in both.
    values = [(0.4, 0.9), (0.8, 0.5), (0.84, 0.48), (2.8, 0.1), (1.2, 0.6), (1.6, 0.7)]
    trials = tuple(Observation(i, UNIFORM.params, value) for i, value in enumerate(values))
    observations = Observations(fakes.space(), RMSE, trials, fakes.RMSE)
    assert [s.number for s in observations.best(6)] == [0, 3, 2, 1, 4, 5]
    assert [s.number for s in observations.thinned(4).finished] == [0, 3, 4, 5]  # Two of the front, the two newest.
    assert observations.thinned(4).with_running(UNIFORM.params).metric == fakes.RMSE


def test_the_metric_is_one_of_the_objectives():
    with pytest.raises(ConfigError, match=r"^`metric` must be one of the objectives rmse, macs_ratio, but is accuracy"):
        Observations(fakes.space(), RMSE, ())


def test_those_that_break_a_constraint_come_last_by_how_much():
    values = [(0.9, 0.1), (0.5, 0.5), (0.9, 0.2)]
    observations = view_of(values, {0: {"params": 0.5, "latency_ms": 0.1}, 2: {"params": 0.3}})
    assert [s.number for s in observations.best(3)] == [1, 2, 0]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 1)), min_size=1, max_size=30), st.integers(1, 30))
def test_no_trial_that_is_left_out_is_of_a_better_rank(values, n):
    ranks = non_domination_rank([(1 - a, c) for a, c in values])
    best = [s.number for s in view_of(values).best(n)]
    assert len(set(best)) == min(n, len(values))
    assert sorted(ranks[best].tolist()) == sorted(ranks.tolist())[:n]


def test_thinning_keeps_the_front_the_newest_and_all_that_run():
    rng = np.random.default_rng(0)
    values = rng.random((300, 2))
    front = np.flatnonzero(front_mask(values, minimise=[False, True])).tolist()
    observations = view_of(values).with_running({**UNIFORM.params})
    thinned = observations.thinned(50)
    numbers = [s.number for s in thinned.finished]
    assert len(numbers) == 50
    assert set(front) <= set(numbers)
    assert numbers == sorted({*front, *[i for i in range(300) if i not in front][len(front) - 50 :]})
    assert thinned.trials[-1].number == 300
    assert observations.thinned(300) is observations


def test_a_long_front_leaves_half_of_the_places_to_the_newest():
    values = [(i / 100, i / 100) for i in range(1, 101)]  # All of them are on the front.
    numbers = [s.number for s in view_of(values).thinned(10).finished]
    assert len(numbers) == 10
    assert {0, 99} <= set(numbers)  # Its ends are farthest from others.
    assert set(numbers) >= set(range(95, 100))


# -- as Optuna's study -----------------------------------------------------------------------------------------------


def test_the_study_has_each_trial_with_the_parameters_that_it_uses():
    space = fakes.space()
    points = [Point("strong", "global", 0.4, {"strength": 1e-3}), UNIFORM]
    history = [fakes.trial(space, points[0]), fakes.trial(space, points[1], RUNNING)]
    study, asked = look(history, space).study()
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [COMPLETE, RUNNING, RUNNING]
    assert [trial.params for trial in trials] == [points[0].params, points[1].params, {}]
    assert trials[0].distributions == space.distributions(points[0])
    assert trials[0].values == history[0].values
    assert (asked.number, asked.params) == (2, {})
    assert study.directions == [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]


def test_the_study_of_a_minimised_metric_minimises_both():
    study, _ = look_at_rmse([fakes.trial(fakes.space(), UNIFORM)]).study()
    assert study.directions == [optuna.study.StudyDirection.MINIMIZE] * 2
    accuracy = fakes.run_trial(UNIFORM.to_dict())["accuracy"]
    assert study.get_trials()[0].values == [pytest.approx(4 * (1 - accuracy)), 0.5]


def test_a_flat_study_gives_every_trial_all_parameters():
    space = fakes.space(cost=fakes.staged_model(), width_rules=("uniform", "per_stage"))
    shaped = Point("plain", "per_stage", 0.4, multipliers={"stage1": 0.5, "stage2": 1.0, "stage3": 1.5})
    history = [fakes.trial(space, shaped), fakes.trial(space, UNIFORM)]
    study, _ = look(history, space).study(flat=True, marks={1: {"mark": 7}})
    one, two, _ = study.get_trials()
    assert one.params == {**shaped.params, "strong.strength": 0.001}
    neutral = {f"per_stage.stage{i}": 1.0 for i in (1, 2, 3)}
    assert two.params == {**UNIFORM.params, **neutral, "strong.strength": 0.001}
    assert one.distributions == two.distributions
    assert one.distributions["macs_target"] == FloatDistribution(0.1, 0.9)
    assert (one.system_attrs, two.system_attrs) == ({}, {"mark": 7})


def test_one_more_running_trial():
    observations = look([fakes.trial(fakes.space(), UNIFORM)]).with_running({**UNIFORM.params, "macs_target": 0.3})
    assert [(s.number, s.values is None, s.params["macs_target"]) for s in observations.trials] == [
        (0, False, 0.5), (1, True, 0.3),
    ]  # fmt: skip
    assert [s.number for s in look([]).with_running(UNIFORM.params).trials] == [0]
