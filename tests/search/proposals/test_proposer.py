from __future__ import annotations

import dataclasses
import random

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autoprune.config import (
    ConstraintsConfig,
    DataSpec,
    NetworkSpec,
    Range,
    SettingSpec,
    TrainSpec,
    TrialSpec,
)
from autoprune.cost import Limits
from autoprune.errors import IdentityError, SpaceExhaustedError, StorageError
from autoprune.search.proposals import Budget, Planner, TimeLeft, imported_points, opening
from autoprune.search.proposals.samplers import SAMPLERS
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Point, Proposal, Room
from autoprune.widths import WIDTH_RULES, Evidence
from tests.search import fakes

SETTING = SettingSpec(
    network=NetworkSpec(architecture="resnet_digits"),
    data=DataSpec(source="digits"),
    dense=TrainSpec(), sparsify=TrainSpec(), finetune=TrainSpec(),
)  # fmt: skip


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


def test_a_long_study_opens_with_ladders_of_twenty_rungs():
    points = opening(fakes.space(macs_target=Range(low=0.1, high=0.9)), 10_000)
    assert [point.width_rule for point in points] == ["uniform"] * 21 + ["global"] * 20
    assert points[2].macs_target == pytest.approx(0.9 - 0.8 / 19)


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
            assert narrowed.admits(Point.from_dict(proposal.attrs["point"]))
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


# -- a function of history and seed ----------------------------------------------------------------------------------


def several_at_once(propose, space, n, *, at_once=3):
    """A study whose trials run several at a time and end in another order than they began."""
    order, running, history = random.Random(0), [], []
    while len(history) < n or running:
        while len(running) < at_once and len(history) < n:
            proposal = propose(list(history))
            point = Point.from_dict(proposal.attrs["point"])
            running.append((len(history), point))
            history.append(fakes.trial(space, point, TrialState.RUNNING))
        number, point = running.pop(order.randrange(len(running)))
        state = order.choice([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED])
        partial = {"rungs": {"0": 0.1 + number / 100}, "partial_macs_ratio": point.macs_target}
        history[number] = fakes.trial(space, point, state, ended=number, **partial, params=1_000 + 100 * number)
    return history


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_driver_proposes_what_the_one_before_would_have(sampler):
    """Warm and cold agree to the last bit, while trials run, stop early, break a limit and end out of order."""
    space = fakes.space(
        cost=fakes.staged_model(3, 1),
        width_rules=("uniform", "global", "per_stage"),
        macs_target=Range(low=0.1, high=0.9),
        constraints=ConstraintsConfig(params=3_000),
    )
    n = 16 if sampler == "gp" else 48  # Enough for the model to be asked.
    warm = fakes.proposer(space, n_trials=9, sampler=sampler)

    def propose(history):
        proposal = warm.propose(history)
        if sampler != "gp" or len(history) % 3 == 0:
            assert fakes.proposer(space, n_trials=9, sampler=sampler).propose(history) == proposal
        return proposal

    history = several_at_once(propose, space, n)
    assert {trial.state for trial in history} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_other_histories_in_between_change_nothing():
    proposer, histories = fakes.proposer(fakes.space(), n_trials=9), [search(12, seed=seed) for seed in range(3)]
    expected = [fakes.proposer(fakes.space(), n_trials=9).propose(history) for history in histories]
    for history, proposal in [*zip(histories, expected, strict=True)] * 2:
        assert proposer.propose(history) == proposal


def test_a_trial_that_is_tried_again_changes_no_later_proposal():
    space = fakes.space()
    straight = [fakes.trial(space, fakes.draw(space, seed), seed_number=seed) for seed in range(12)]
    lost = fakes.trial(space, fakes.draw(space, 5), TrialState.FAIL, seed_number=5)
    again = fakes.trial(space, fakes.draw(space, 5), seed_number=5, retry_of=5)
    interrupted = [*straight[:5], lost, *straight[6:], again]
    one, other = (fakes.proposer(space, n_trials=3).propose(history) for history in (straight, interrupted))
    assert one == other


# -- where to begin --------------------------------------------------------------------------------------------------


def shaped_space(**changes):
    return fakes.space(**{"cost": fakes.staged_model(), "methods": {"plain": {}}, **changes})


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (("uniform", "per_group", "per_stage"), ["uniform"]),
        (("per_stage", "global"), ["global", "per_stage"]),
        (("per_group", "per_stage"), ["per_group"]),
        (("global",), ["global"]),
    ],
)
def test_rules_with_multipliers_need_no_ladder_where_uniform_has_one(rules, expected):
    points = opening(shaped_space(width_rules=rules), 30)
    assert list(dict.fromkeys(point.width_rule for point in points)) == expected
    assert {value for point in points for value in point.multipliers.values()} <= {1.0}


def test_imported_points_come_right_after_the_dense_network_as_far_as_the_space_holds_them():
    space = fakes.space()
    first = Point("strong", "global", 0.35, {"strength": 1e-3})
    alike = Point("plain", "uniform", 0.5)
    gone = [Point("gone", "uniform", 0.5), Point("plain", "uniform", 0.95), Point("plain", "per_stage", 0.5)]
    points = opening(space, 30, [first, *gone, alike])
    assert points[:3] == [opening(space, 30)[0], first, alike]
    assert points[3:] == opening(space, 30)[1:]
    history, proposer = [], fakes.proposer(space, n_trials=30, imported=[first, first, *gone, alike])
    for _ in range(12):
        history.append(finished(proposer.propose(history)))
    assert [Point.from_dict(trial.user_attrs["point"]) for trial in history[1:3]] == [first, alike]
    # The uniform ladder has the second one as well: it is proposed once.
    assert len({trial.user_attrs["key"] for trial in history}) == 12


def finish_study(db, name, identity, points):
    study = StudyHandle.create_or_join(
        db, name=name, identity=identity, config={}, directions=["maximize", "minimize"], objectives=fakes.OBJECTIVES
    )
    lifecycle, space = Lifecycle(study, owner="me", n_trials=99), fakes.space()
    for point in points:
        attrs = {"point": point.to_dict()}
        proposal = Proposal(point.params, space.distributions(point), space.key(point), attrs)
        result = fakes.run_trial(point.to_dict())
        lifecycle.complete(lifecycle.claim(proposal).trial_id, [result[name] for name in fakes.OBJECTIVES], result)


def test_the_fronts_of_other_studies_are_imported(db):
    best = [Point("strong", "global", target, {"strength": 1e-3}) for target in (0.2, 0.8)]
    poor = [Point("strong", "global", target, {"strength": 1e-4}) for target in (0.2, 0.8)]
    finish_study(db, "one", {"network": "a"}, [poor[0], best[0], poor[1]])
    finish_study(db, "two", {"network": "a"}, [best[1], poor[0]])
    # Of the first study, its poor trial at the low target is dominated; each front counts for itself.
    assert imported_points(db, ["one", "two"], {"network": "a"}) == [best[0], poor[1], best[1], poor[0]]
    assert imported_points(db, [], {"network": "a"}) == []


def test_an_imported_point_starts_from_no_trial_of_the_other_study(db):
    plain = Point("strong", "global", 0.2, {"strength": 1e-3}, epochs=2.0)
    finish_study(db, "one", {}, [dataclasses.replace(plain, parent=7, finetune_seed=0)])
    assert imported_points(db, ["one"], {}) == [plain]


def test_the_front_of_another_network_is_refused_with_both_sides(db):
    finish_study(db, "one", {"network": "a", "data": {"seed": 1}}, [])
    told = r"in 'one' `data.seed` is 1 there and 2 here; `network` is \"a\" there and \"b\" here\. Take it out"
    with pytest.raises(IdentityError, match=told):
        imported_points(db, ["one"], {"network": "b", "data": {"seed": 2}})
    with pytest.raises(StorageError, match="there is no study 'gone'"):
        imported_points(db, ["gone"], {})


# -- a long study under constraints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "n"), [("random", 100), ("nsga2", 100), pytest.param("tpe", 500, marks=pytest.mark.slow)]
)
def test_every_launched_trial_keeps_both_constraints_and_none_is_launched_twice(tmp_path, sampler, n):
    cost = fakes.staged_model(3, 2)
    limits = ConstraintsConfig(macs_ratio=0.6, params=cost.dense_params * 2 // 5)
    space = fakes.space(cost=cost, width_rules=tuple(WIDTH_RULES), constraints=limits)
    db = Database.open(f"sqlite:///{tmp_path}/study.db", create=True)
    study = StudyHandle.create_or_join(
        db, name="s", identity={}, config={}, directions=["maximize", "minimize"], objectives=fakes.OBJECTIVES
    )
    lifecycle, proposer = Lifecycle(study, owner="me", n_trials=n), fakes.proposer(space, n_trials=n, sampler=sampler)
    while lifecycle.room() is Room.OPEN:
        claim = lifecycle.claim(proposer.propose(study.trials()))
        assert isinstance(claim, Claim)
        result = fakes.run_trial(claim.attrs["point"])
        lifecycle.complete(claim.trial_id, [result[name] for name in fakes.OBJECTIVES], result)
    launched = [
        TrialSpec(
            setting=SETTING,
            study="s",
            number=trial.number,
            **space.trial_fields(Point.from_dict(trial.user_attrs["point"])),
        )
        for trial in study.trials()
    ]
    db.close()
    assert len(launched) == n
    rng, fixed = np.random.default_rng(0), []
    damages = {name: np.eye(width) / width for name, width in zip(cost.groups, cost.dense, strict=True)}
    for spec in launched:
        bounds = Limits(
            macs=spec.macs_target * cost.dense_macs, params=spec.params_limit, min_widths=dict.fromkeys(cost.groups, 1)
        )
        scores = {name: rng.random(width) for name, width in zip(cost.groups, cost.dense, strict=True)}
        widths = WIDTH_RULES[spec.width_rule].widths(Evidence(cost, scores, spec.multipliers, lambda: damages), bounds)
        assert cost.macs_ratio(widths) <= 0.6
        assert cost.params(widths) <= cost.dense_params * 2 // 5
        if not WIDTH_RULES[spec.width_rule].ranks:
            fixed.append((spec.method, tuple(spec.hyper.items()), tuple(widths.values())))
    assert len(fixed) > n / 4
    assert len(set(fixed)) == len(fixed)
    assert {spec.width_rule for spec in launched} == set(WIDTH_RULES)


@pytest.mark.parametrize(("phase_epochs", "are_proposed"), [(50.0, False), (1.0, True)])
def test_methods_whose_phase_takes_too_much_of_the_time_are_not_proposed(phase_epochs, are_proposed):
    space, budget = fakes.space(), Budget(1_000, 1.0, 0.25, phase_epochs=phase_epochs)
    planner = Planner((0.8, 0.4), within=(0.1, 0.9), budget=budget, worst=(0.9, 1.0), methods=["plain"])
    proposer = fakes.proposer(space, n_trials=1_000, planner=planner, has_phase=lambda point: point.method == "strong")
    wall_s = {"finetune": 1.0, "scoring": 0.1}
    history = [fakes.trial(space, Point("plain", "uniform", 1.0))]
    for number, target in enumerate((0.8, 0.4), start=1):
        made = {"images": 1_000, "weights": f"/{number}", "sha256": f"{number}", "wall_s": wall_s}
        history.append(fakes.trial(space, Point("plain", "global", target), **made))
    found = set()
    for number in range(3, 23):
        for at, trial in enumerate(history):
            trial.number = at
        proposal = proposer.propose(history, TimeLeft(400.0, of=500.0, workers=2))
        found.add(proposal.attrs["point"]["method"])
        assert proposal.attrs["point"]["epochs"] is not None
        told = {key: value for key, value in proposal.attrs.items() if key != "point"} | {"key": proposal.key}
        made = {"images": 1_000, "weights": f"/{number}", "sha256": f"{number}", "wall_s": wall_s}
        history.append(fakes.trial(space, Point.from_dict(proposal.attrs["point"]), **told, **made))
    assert found == ({"plain", "strong"} if are_proposed else {"plain"})


def test_more_training_keeps_the_parent_s_own_point_and_is_not_repeated_under_another_name():
    """What a method or rule would choose is of no account where nothing is cut."""
    space, budget = fakes.space(width_rules=("global", "aofp", "uniform")), Budget(1_000, 1.0, 0.25)
    planner = Planner((0.8, 0.4), within=(0.1, 0.9), budget=budget, worst=(0.9, 1.0), methods=["plain"])
    proposer = fakes.proposer(space, n_trials=1_000, planner=planner)
    history, more = [fakes.trial(space, Point("plain", "uniform", 1.0))], []
    for number in range(1, 40):
        for at, trial in enumerate(history):
            trial.number = at
        proposal = proposer.propose(history)
        point, parent = Point.from_dict(proposal.attrs["point"]), proposal.attrs.get("parent")
        if "more training" in proposal.attrs["why"]:
            own = Point.from_dict(history[parent].user_attrs["point"])
            assert (point.method, point.width_rule, point.hyper) == (own.method, own.width_rule, own.hyper)
            more.append(parent)
        told = {key: value for key, value in proposal.attrs.items() if key != "point"} | {"key": proposal.key}
        made = {"images": 1_000, "weights": f"/{number}", "sha256": f"{number}", "wall_s": {"finetune": 1.0}}
        history.append(fakes.trial(space, point, **told, **made))
    assert len(more) > 3
    assert len(set(more)) == len(more)
