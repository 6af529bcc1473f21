"""A few trials at one target tell the fine-tune recipe, which is then frozen."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from autoprune.config import Range
from autoprune.search.proposals import Budget, Planner, Proposer, RecipeSearch, TimeLeft
from autoprune.search.trials import Point, Proposal, StoredTrial
from tests.search import fakes

RANGES = {"learning_rate": Range(low=0.01, high=0.1, scale="log"), "distill.weight": Range(values=(0.5, 0.9))}
OWN = {"learning_rate": 0.05, "distill.weight": 0.9}
SPACE = fakes.space()


def search(n_trials: int = 60) -> RecipeSearch:
    return RecipeSearch(RANGES, own=OWN, target=0.3, n_trials=n_trials, seed=0)


def planner() -> Planner:
    return Planner(
        (0.8, 0.4, 0.2), within=(0.1, 0.9), budget=Budget(1_000, 2.0, 0.25), worst=(0.5, 1.0), methods=["plain"]
    )


def proposer(*, inherit: bool, n_trials: int = 60, **more: Any) -> Proposer:
    more = {"recipe": search(n_trials), **more}
    return fakes.proposer(SPACE, n_trials=n_trials, planner=planner() if inherit else None, **more)


def told(proposal: Proposal, number: int, accuracy: float | None) -> FrozenTrial:
    """The trial of a proposal, complete where there is an accuracy."""
    attrs: dict[str, Any] = {name: value for name, value in proposal.attrs.items() if name != "point"}
    attrs["key"] = proposal.key
    if accuracy is not None:
        ratio = proposal.point.macs_target
        attrs |= {"accuracy": accuracy, "macs_ratio": ratio, "weights": f"/{number}", "sha256": f"hash {number}"}
        attrs |= {"images": 0 if number == 0 else 2_000, "wall_s": {"finetune": 1.0}}
    state = TrialState.RUNNING if accuracy is None else TrialState.COMPLETE
    made = fakes.trial(SPACE, proposal.point, state, ended=number, **attrs)
    made.number = number
    return made


def run(proposer: Proposer, n: int, *, best: float = 0.02) -> list[FrozenTrial]:
    """A study of n trials whose accuracy falls with the distance of the learning rate from ``best``."""
    history: list[FrozenTrial] = []
    for number in range(n):
        proposal = proposer.propose(history)
        assert proposal is not None
        rate = proposal.point.recipe.get("learning_rate", 0.05)
        history.append(told(proposal, number, 0.9 - abs(rate - best)))
    return history


def points(history: list[FrozenTrial]) -> list[Any]:
    return [StoredTrial(trial).point for trial in history]


def test_there_are_four_probes_a_parameter_but_no_more_than_a_fifth_of_the_trials() -> None:
    assert len(search(1_000).probes) == 8
    assert len(search(20).probes) == 4
    assert len(search(1).probes) == 2
    assert search(1_000).probes[0] == OWN
    for probe in search(1_000).probes:
        assert 0.01 <= probe["learning_rate"] <= 0.1
        assert probe["distill.weight"] in (0.5, 0.9)


@pytest.mark.parametrize("inherit", [True, False])
def test_after_the_dense_network_come_probes_that_differ_in_their_recipe_only(inherit: bool) -> None:
    history = run(proposer(inherit=inherit), 9)
    dense, *probes = points(history)
    assert dense.macs_target == 1.0
    assert dense.recipe == {}
    assert [probe.recipe for probe in probes] == search().probes
    assert {(p.method, p.width_rule, p.macs_target, p.finetune_seed, p.parent) for p in probes} == {
        ("plain", "global", 0.3, 0, None)
    }


@pytest.mark.parametrize("inherit", [True, False])
def test_the_best_recipe_is_frozen(inherit: bool) -> None:
    history = run(proposer(inherit=inherit), 20)
    rates = [probe["learning_rate"] for probe in search().probes]
    best = min(rates, key=lambda rate: abs(rate - 0.02))
    later = points(history)[9:]
    assert {point.recipe["learning_rate"] for point in later} == {best}
    assert {point.finetune_seed for point in later} == {None}
    assert (
        history[12].params["finetune.learning_rate"] == best if "finetune.learning_rate" in history[12].params else True
    )


def test_a_longer_trial_has_to_be_better_by_what_length_brings() -> None:
    made = RecipeSearch({"epochs": Range(values=(1.0, 8.0))}, own={"epochs": 1.0}, target=0.3, n_trials=60, seed=0)
    short, long = ({"epochs": 1.0}, {"epochs": 8.0})
    assert sorted(made.probes, key=str) == sorted((short, long), key=str)

    def history(of_long: float) -> list[FrozenTrial]:
        found = []
        for number, (recipe, images, accuracy) in enumerate(((short, 1_000, 0.8), (long, 8_000, of_long))):
            point = made.probe(fakes.draw(SPACE, 0), recipe, epochs=None)
            found.append(fakes.trial(SPACE, point, images=images, accuracy=accuracy))
            found[-1].number = number
        return found

    # Eight times the images are expected to bring the error 0.2 to 0.2 * 8 ** -0.3 = 0.107.
    assert made.chosen(history(0.85)) == short
    assert made.chosen(history(0.90)) == long


def test_while_probes_run_the_others_go_by_the_best_so_far_and_the_same_history_gives_the_same() -> None:
    history = run(proposer(inherit=True), 4)
    for number in range(4, 9):
        proposal = proposer(inherit=True).propose(history)
        assert proposal is not None
        history.append(told(proposal, number, None))
    first, second = (proposer(inherit=True).propose(history) for _ in range(2))
    assert first == second
    assert first is not None
    assert first.point.recipe == search().chosen(history)
    assert first.params["finetune.learning_rate"] == first.point.recipe["learning_rate"]


def test_under_a_time_limit_probes_take_their_share_and_none_is_begun_that_is_too_short() -> None:
    made = proposer(inherit=True)
    dense = made.propose([], TimeLeft(100.0, 100.0, 2))
    assert dense is not None
    history = [told(dense, 0, 0.9)]
    probe = made.propose(history, TimeLeft(100.0, 100.0, 2))
    assert probe is not None
    assert probe.point.finetune_seed == 0
    assert 0.25 <= (probe.point.epochs or 0) <= 2.0
    rung = made.propose(history, TimeLeft(1e-3, 100.0, 2))
    assert rung is None


def test_the_recipe_with_the_least_rmse_is_chosen_at_equal_images() -> None:
    ranges = {"epochs": Range(values=(1.0, 8.0))}
    made = RecipeSearch(ranges, own={"epochs": 1.0}, target=0.3, n_trials=60, seed=0, metric=fakes.RMSE)
    short, long = ({"epochs": 1.0}, {"epochs": 8.0})

    def history(*of_each: tuple[dict[str, float], int, float]) -> list[FrozenTrial]:
        found = []
        for number, (recipe, images, rmse) in enumerate(of_each):
            point = made.probe(fakes.draw(SPACE, 0), recipe, epochs=None)
            found.append(fakes.by_rmse(fakes.trial(SPACE, point, images=images, accuracy=1 - rmse / 4)))
            found[-1].number = number
        return found

    # Eight times the images are expected to bring an rmse of 0.8 to 0.8 * 8 ** -0.3 = 0.429.
    assert made.chosen(history((short, 1_000, 0.8), (long, 8_000, 0.6))) == short
    assert made.chosen(history((short, 1_000, 0.8), (long, 8_000, 0.4))) == long
    assert made.chosen(history((short, 1_000, 0.5), (long, 1_000, 0.6))) == short
    # Where the dense network has 0.4, all but a floor of 0.38 shrinks: 0.8 is expected to come to 0.605.
    dense = fakes.by_rmse(fakes.trial(SPACE, Point("plain", "global", 1.0), images=0, accuracy=0.9))
    assert made.chosen([*history((short, 1_000, 0.8), (long, 8_000, 0.59)), dense]) == long
    assert made.chosen([*history((short, 1_000, 0.8), (long, 8_000, 0.62)), dense]) == short
