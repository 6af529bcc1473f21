"""Plans over made-up histories: which network a trial starts from, what it is cut to and how long it is trained."""

from __future__ import annotations

import re
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.config import Metric
from autoprune.search.proposals import Budget, Pace, Planner, TimeLeft
from autoprune.search.proposals.planner import Step
from autoprune.search.trials import Point
from tests.search import fakes

LADDER = (0.8, 0.4, 0.2)
N_IMAGES = 10_000
PACE = Pace(base_s=0.0005, macs_s=0.0015, overhead_s=1.0)


def planner(ladder: tuple[float, ...] = LADDER, *, least: float = 0.05, epochs: float = 2.0, **more: Any) -> Planner:
    budget = Budget(N_IMAGES, epochs=epochs, least_epochs=0.25, phase_epochs=1.0)
    made = Planner(ladder, within=(least, 0.9), budget=budget, worst=(0.5, 1.0), **more)
    made.pace = PACE
    return made


def trial(
    number: int, target: float, accuracy: float | None, *, parent: int | None = None, epochs: float = 2.0,
    method: str = "magnitude", **more: Any,
) -> FrozenTrial:  # fmt: skip
    point = Point(method, "global", target, parent=parent, epochs=epochs)
    attrs: dict[str, Any] = {"point": point.to_dict(), "key": str(number), **more}
    if parent is not None:
        attrs["parent"] = parent
    if accuracy is not None:
        wall_s = {"finetune": PACE.seconds(epochs * N_IMAGES, target) - 1, "scoring": 1.0}
        attrs |= {"accuracy": accuracy, "macs_ratio": target, "images": int(epochs * N_IMAGES), "wall_s": wall_s}
        attrs |= {"weights": f"/{number}.safetensors", "sha256": f"hash {number}", "started_from": parent}
    state = TrialState.RUNNING if accuracy is None else TrialState.COMPLETE
    made = create_trial(state=state, values=None if accuracy is None else [accuracy, target], user_attrs=attrs)
    made.number = number
    return made


def plan(history: list[FrozenTrial], *more: TimeLeft, made: Planner | None = None) -> list[Step]:
    made = made or planner()
    steps = made.steps(made.look(history, *more))
    assert steps is not None
    return steps


def numbers(history: list[FrozenTrial]) -> tuple[float, int | None]:
    step = plan(history)[0]
    return step.macs_target, None if step.parent is None else step.parent.number


def test_each_rung_starts_from_the_smallest_finished_network_above_it() -> None:
    history: list[FrozenTrial] = []
    assert numbers(history) == (0.8, None)
    history.append(trial(0, 0.8, None))
    assert numbers(history) == (0.4, None)  # The first one is not finished.
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, None)]
    assert numbers(history) == (0.2, 0)
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85)]
    assert numbers(history) == (0.2, 1)


def opening(errors: dict[str, float | None]) -> Step:
    """The third rung, after one at 0.8 and one at 0.4 of the MACs of these errors at once; None: it still runs."""
    history = [trial(9, 1.0, 0.95, epochs=0.0)]
    for number, (name, error) in enumerate(errors.items()):
        score = None if error is None else 0.9
        rungs = {} if error is None else {"rungs": {"0": 1 - error, "1": 0.9}}
        history.append(trial(number, LADDER[number], score, method=name, **rungs))
    return plan(history, made=planner(methods=("magnitude", "damage")))[0]


def test_each_ranking_opens_one_rung_from_the_dense_network() -> None:
    made, history = planner(methods=("magnitude", "damage")), [trial(0, 0.8, 0.9)]
    first, second = plan([], made=made)[0], plan(history, made=made)[0]
    assert (first.method, first.macs_target, first.parent) == ("magnitude", 0.8, None)
    assert (second.method, second.macs_target, second.parent) == ("damage", 0.4, None)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        # 0.02 / -log(0.8) = 0.090 against 0.07 / -log(0.4) = 0.076 and 0.09 / -log(0.4) = 0.098.
        ({"magnitude": 0.07, "damage": 0.12}, "damage"),
        ({"magnitude": 0.07, "damage": 0.14}, "magnitude"),
        ({"magnitude": 0.04, "damage": 0.05}, "magnitude"),
        ({"magnitude": None, "damage": 0.06}, "magnitude"),
        ({"magnitude": 0.9, "damage": None}, "magnitude"),
    ],
)
def test_what_lost_least_at_once_for_its_cut_ranks_the_rungs_that_follow(
    errors: dict[str, float | None], expected: str
) -> None:
    step = opening(errors)
    assert step.method == expected
    assert f"by {expected}" in step.why


def test_a_minimised_metric_chooses_the_ranking_with_the_smaller_error() -> None:
    rungs = [{"rungs": {"0": value}, "rmse": value} for value in (2.0, 0.5)]
    history = [trial(n, LADDER[n], 0.9, method=m, **rungs[n]) for n, m in enumerate(("magnitude", "damage"))]
    made = planner(methods=("magnitude", "damage"), metric=Metric("rmse", "minimize", worst=3.0))
    assert plan(history, made=made)[0].method == "damage"


def test_a_beaten_network_is_nobody_s_parent() -> None:
    history = [trial(0, 0.8, 0.8), trial(1, 0.4, 0.85)]
    assert plan(history, made=planner((0.8, 0.4, 0.6)))[0].parent is None  # 0.8 is dominated, and its file may be gone.


def test_after_the_ladder_come_gaps_ends_and_more_training() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85, parent=0), trial(2, 0.2, 0.8, parent=1)]
    steps = plan(history)
    assert {step.macs_target for step in steps} == {
        0.8, 0.4, 0.2, 0.15, *(float(f"{(a * b) ** 0.5:.4g}") for a, b in ((0.2, 0.4), (0.4, 0.8), (0.8, 1.0))),
    }  # fmt: skip
    by_target = {step.macs_target: step for step in reversed(steps)}  # The best of each.
    assert by_target[0.15].parent is not None
    assert by_target[0.15].parent.number == 2
    # 20,000 images each, counted by the share of those MACs that are left: a quarter, a half, all.
    assert (by_target[0.15].parent.images, by_target[0.15].parent.depth) == (35_000, 2)
    assert by_target[0.8].parent is not None
    assert by_target[0.8].parent.number == 0
    assert "more training for trial 0" in by_target[0.8].why
    assert "hypervolume expected in" in steps[0].why


def test_a_network_that_is_worse_than_it_should_be_is_cut_anew_and_nobody_s_parent() -> None:
    def best(accuracy: float, target: float) -> Step:
        history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.88, parent=0), trial(2, 0.2, accuracy, parent=1)]
        return next(step for step in plan(history) if step.macs_target == target)

    for target, why in ((0.2, "more training for trial 2"), (0.15, "0.15 of the MACs, from trial 2")):
        assert best(0.85, target).why.startswith(why)
    # It has lost a class: what is twice as large is worth more, though less of its training is left.
    for target in (0.2, 0.15):
        step = best(0.4, target)
        assert step.why.startswith(f"{target} of the MACs, from trial 1")
        assert step.again is None


@pytest.mark.parametrize("result", [0.1, 0.39])
def test_a_cut_that_comes_out_as_badly_as_before_is_not_tried_for_ever(result: float) -> None:
    history, cuts = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.88, parent=0), trial(2, 0.2, 0.4, parent=1)], [(1, 0.2)]
    for number in range(3, 13):
        step = plan(history)[0]
        parent = None if step.parent is None else step.parent.number
        score = max(result, 0.0 if step.again is None else step.parent.score)  # type: ignore[union-attr]
        cuts += [] if step.again is not None else [(parent, step.macs_target)]
        history.append(trial(number, step.macs_target, score, parent=parent))
    for parent, target in cuts:
        alike = [each for each in cuts if each[0] == parent and 1 / 1.08 < each[1] / target < 1.08]
        assert parent is None or len(alike) <= 2


def test_the_error_model_knows_the_best_network_however_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.search.proposals.planner._MOST_TOLD", 3)
    history = [trial(0, 1.0, 0.9), trial(1, 0.9, 0.99), *(trial(i, 0.5, 0.8) for i in range(2, 6))]
    look = planner().look(history)
    assert look.model is not None
    assert look.model.floor < 0.01


def test_the_same_history_gives_the_same_plan() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85, parent=0), trial(2, 0.2, 0.8, parent=1)]
    assert plan(history) == plan(list(history))


def test_what_runs_counts_as_it_is_expected_to_turn_out() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85, parent=0), trial(2, 0.2, 0.8, parent=1)]
    best = plan(history)[0]
    parent = None if best.parent is None else best.parent.number
    running = trial(3, best.macs_target, None, parent=parent)
    assert plan([*history, running])[0].macs_target != best.macs_target


def test_the_least_target_is_kept() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85), trial(2, 0.2, 0.8)]
    assert min(step.macs_target for step in plan(history, made=planner(least=0.16))) == 0.2


def left(seconds: float, of: float = 1000.0, workers: int = 2) -> TimeLeft:
    return TimeLeft(seconds, of, workers)


def test_the_ladder_gets_its_share_of_the_time() -> None:
    # 0.85 of 1,000 s on two workers, shared by the roots of 0.2, 0.6 and 0.8: 0.21132 of 1,700 s, 1 s of it overhead.
    (step,) = plan([], left(1000.0), made=planner(epochs=100.0))
    assert step.epochs == pytest.approx(358.24 / 0.0017 / N_IMAGES, rel=1e-3)
    # The last rung has no more than what remains of that share: 150 s, at 0.0008 s an image.
    (step,) = plan([trial(0, 0.8, 0.9), trial(1, 0.4, 0.85)], left(300.0), made=planner(epochs=100.0))
    assert step.epochs == pytest.approx(149.0 / 0.0008 / N_IMAGES, rel=1e-3)
    (step,) = plan([], left(1000.0))
    assert step.epochs == 2.0  # The rest of a long time is for what comes after the ladder.


def test_methods_and_rules_are_explored_while_their_answers_can_still_be_used() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85), trial(2, 0.2, 0.8)]
    assert all(step.method == "magnitude" for step in plan([], left(1000.0)))
    # Two workers and trials of 23 s: ten of them take 115 s.
    assert all(step.method is None for step in plan(history, left(116.0)))
    assert all(step.method == "magnitude" for step in plan(history, left(114.0)))
    assert all(step.method is None for step in plan(history))


def after_phase(history: list[FrozenTrial], *more: TimeLeft) -> Step | None:
    return planner().after_phase(0.4, planner().look(history, *more))


def test_a_sparsify_phase_may_take_a_twentieth_of_the_time() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85), trial(2, 0.2, 0.8)]
    # 10,000 images at the dense cost of 0.002 s and 1 s: 21 s, where two workers have 2,000 s or 400 s.
    step = after_phase(history, left(900.0))
    assert step is not None
    assert (step.macs_target, step.parent) == (0.4, None)
    assert step.epochs is not None
    assert after_phase(history, left(150.0, of=200.0)) is None
    assert after_phase(history, left(16.0)) is None
    free = after_phase(history)
    assert free is not None
    assert free.epochs is None


def test_the_last_trial_takes_all_of_the_time_and_no_trial_too_short_is_begun() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85), trial(2, 0.2, 0.8)]
    rung_s = PACE.seconds(20_000, 0.4)  # The median of what the rungs took: 23 s.
    assert rung_s == pytest.approx(23.0)
    for step in plan(history, left(500.0)):
        assert step.epochs is not None
        assert PACE.seconds(step.epochs * N_IMAGES, step.macs_target) == pytest.approx(rung_s, rel=0.01)
    for step in plan(history, left(45.0)):  # 15 s are spare; 30 s are less than one and a half trials.
        assert step.epochs is not None
        assert PACE.seconds(step.epochs * N_IMAGES, step.macs_target) == pytest.approx(30.0, rel=0.01)
    assert planner().steps(planner().look(history, left(16.0))) is None
    assert planner().steps(planner().look([], left(2.0))) is None


def test_while_nothing_is_known_of_the_ladder_there_is_no_plan() -> None:
    history = [trial(number, target, None) for number, target in enumerate(LADDER)]
    assert plan(history) == plan(history, left(500.0)) == []


def test_lengths_are_the_study_s_without_a_time_limit() -> None:
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85), trial(2, 0.2, 0.8)]
    assert {step.epochs for step in (*plan([]), *plan(history))} == {None}


# A study that minimises rmse


def expected(step: Step, metric: str) -> tuple[float, float]:
    """The score and the hypervolume that a step says it is expected to bring."""
    found = re.search(rf": {metric} (\S+) and (\S+) hypervolume expected in \d+ s$", step.why)
    assert found is not None
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("running", [[], [trial(3, 0.1, None, parent=2), trial(4, 0.8, None, parent=0)]])
def test_rmse_is_planned_for_like_the_accuracy_that_lacks_as_much(running: list[FrozenTrial]) -> None:
    dense = trial(5, 1.0, 0.9375, epochs=0.0)
    history = [trial(0, 0.8, 0.9), trial(1, 0.4, 0.85, parent=0), trial(2, 0.2, 0.8, parent=1), *running, dense]
    steps = plan(history)
    others = plan([fakes.by_rmse(each) for each in history], made=planner(metric=fakes.RMSE))
    for one, other in zip(
        sorted(steps, key=lambda step: step.macs_target), sorted(others, key=lambda step: step.macs_target), strict=True
    ):
        assert (one.macs_target, one.epochs) == (other.macs_target, other.epochs)
        assert (one.parent and one.parent.number) == (other.parent and other.parent.number)
        (accuracy, more), (rmse, also_more) = expected(one, "accuracy"), expected(other, "rmse")
        assert rmse == pytest.approx(4 * (1 - accuracy), abs=8e-3)  # As far as it is told.
        assert also_more == pytest.approx(more, abs=2e-4)
    assert steps[0].macs_target == others[0].macs_target


def test_nothing_is_expected_of_training_that_the_dense_network_does_not_reach_either() -> None:
    """0.05 less than its accuracy is lacking: much where it has 0.95, next to nothing where it has 0.86."""

    def expected_of(dense_accuracy: float) -> float:
        dense = trial(3, 1.0, dense_accuracy, epochs=0.0)
        history = [trial(0, 0.8, 0.85), trial(1, 0.4, 0.85, parent=0), trial(2, 0.2, 0.8, parent=1), dense]
        steps = [step for step in plan(history) if step.why.startswith("more training for trial 1")]
        return expected(steps[0], "accuracy")[0]

    # The floor is 0.95 of what the dense network lacks: 0.133 and 0.0475, where trial 1 lacks 0.15.
    assert expected_of(0.86) < 0.855
    assert expected_of(0.95) > 0.858


def test_of_two_networks_the_one_with_less_rmse_is_the_better() -> None:
    made = planner((0.8, 0.4, 0.6), metric=fakes.RMSE)
    for of_large, parent in ((0.4, 0), (0.8, None)):  # Below and above that of the small one.
        networks = trial(0, 0.8, 1 - of_large / 4), trial(1, 0.4, 1 - 0.6 / 4)
        step = plan([fakes.by_rmse(network) for network in networks], made=made)[0]
        assert (None if step.parent is None else step.parent.number) == parent


@st.composite
def lives(draw: st.DrawFn) -> list[list[FrozenTrial]]:
    """A history as it grows: trials begin, from the dense network or from a finished one, and end."""
    history = [trial(0, 1.0, 0.95, epochs=0.0)] if draw(st.booleans()) else []  # The dense network.
    snapshots = []
    for _ in range(draw(st.integers(1, 25))):
        running = [one.number for one in history if one.state is TrialState.RUNNING]
        waiting = [one.number for one in history if one.state is TrialState.WAITING]
        if waiting and draw(st.booleans()):
            number = waiting[0]
            history[number] = create_trial(state=TrialState.RUNNING, user_attrs=history[number].user_attrs)
            history[number].number = number
        elif running and draw(st.booleans()):
            number = draw(st.sampled_from(running))
            point = Point.from_dict(history[number].user_attrs["point"])
            method, target = point.method, point.macs_target
            end = draw(st.sampled_from([TrialState.FAIL, TrialState.PRUNED, *[TrialState.COMPLETE] * 4]))
            if end is not TrialState.COMPLETE:
                history[number] = create_trial(state=end, user_attrs=history[number].user_attrs)
                history[number].number = number
                if end is TrialState.FAIL and draw(st.booleans()):
                    again = dict(history[number].user_attrs, retry_of=number)
                    history.append(create_trial(state=TrialState.WAITING, user_attrs=again))
                    history[-1].number = len(history) - 1
            else:
                score = draw(st.sampled_from([0.6, 0.75, 0.8, 0.85, 0.9]))
                rungs = {"rungs": {"0": score - 0.1}}
                history[number] = trial(number, target, score, parent=point.parent, method=method, **rungs)
        else:
            parents = [one for one in history if one.state is TrialState.COMPLETE and one.user_attrs["images"]]
            parent = draw(st.none() | st.sampled_from(parents)) if parents else None
            most = 0.9 if parent is None else parent.user_attrs["macs_ratio"]
            target = draw(st.sampled_from([ratio for ratio in (0.05, 0.1, 0.2, 0.4, 0.8, 0.9) if ratio <= most]))
            method = draw(st.sampled_from(["magnitude", "damage"]))
            number = None if parent is None else parent.number
            history.append(trial(len(history), target, None, parent=number, method=method))
        snapshots.append(list(history))
    return snapshots


@given(lives())
def test_a_planner_that_has_seen_the_past_plans_as_a_new_one_does(snapshots: list[list[FrozenTrial]]) -> None:
    old = planner(methods=("magnitude", "damage"))
    for history in snapshots:
        for more in ((), (left(40.0),)):
            new = planner(methods=("magnitude", "damage"))
            assert old.steps(old.look(history, *more)) == new.steps(new.look(history, *more))


def test_a_planner_shown_another_history_forgets_the_one_before() -> None:
    made = planner()
    plan([trial(0, 0.8, 0.9), trial(1, 0.4, 0.85), trial(2, 0.2, 0.8)], made=made)
    assert plan([trial(0, 0.8, 0.9)], made=made) == plan([trial(0, 0.8, 0.9)])
