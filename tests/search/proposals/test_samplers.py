"""What holds for every sampler, and what each is there for."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from optuna.trial import TrialState
from scipy.stats import qmc

from autoprune.config import SAMPLERS as NAMES
from autoprune.config import ConstraintsConfig, Range
from autoprune.search.pareto import hypervolume
from autoprune.search.proposals import GP, TPE
from autoprune.search.proposals.observations import Observation, Observations, Observer
from autoprune.search.proposals.samplers import NSGA2, SAMPLERS, Draw
from autoprune.search.trials import Point
from tests.search import fakes

RULES = ("uniform", "global", "per_stage")
DRAW = Draw(0, 40)


def sample(name, observations, draw=DRAW):
    """What is proposed unless it was tried."""
    return next(SAMPLERS[name].attempts(observations, draw))


every_sampler = pytest.mark.parametrize("name", NAMES)


def mixed_space(**changes):
    """Two methods and three rules, and on every branch one to three parameters of its own."""
    return fakes.space(cost=fakes.staged_model(3, 1), width_rules=RULES, **changes)


def trials(space, n, *, n_running=0):
    history = [fakes.trial(space, fakes.draw(space, seed), ended=seed) for seed in range(n)]
    return history + [fakes.trial(space, fakes.draw(space, 1000 + i), TrialState.RUNNING) for i in range(n_running)]


def view_of(space, history):
    return Observer(space, fakes.OBJECTIVES).look(history)


def enough(name):
    """Trials after which a sampler no longer draws at random; processes take long and need fewer than a population."""
    return 12 if name == "gp" else 24


# -- all of them -----------------------------------------------------------------------------------------------------


def test_there_is_a_sampler_for_every_name_of_the_study_file():
    assert tuple(SAMPLERS) == NAMES


@every_sampler
@pytest.mark.parametrize(
    ("n", "n_running"), [(0, 0), (0, 3), (4, 0), (None, 2)], ids=["nothing", "only running", "few", "enough"]
)
def test_values_lie_in_their_ranges_and_points_on_the_grids(name, n, n_running):
    space = mixed_space()
    observations = view_of(space, trials(space, enough(name) if n is None else n, n_running=n_running))
    values = sample(name, observations)
    assert all(space.parameters[key].holds(value) for key, value in values.items())
    point = space.point(values)
    assert space.admits(point)
    assert point.macs_target in Range(low=0.1, high=0.9, step=0.05).grid
    assert set(point.multipliers.values()) <= set(Range(low=0.5, high=1.5, step=0.125).grid)
    assert set(point.hyper.values()) <= set(fakes.METHODS["strong"]["strength"].grid)


def test_every_attempt_at_every_proposal_of_every_study_has_a_seed_of_its_own():
    seeds = {Draw(study, number).seed(attempt) for study in range(5) for number in range(20) for attempt in range(20)}
    assert len(seeds) == 5 * 20 * 20


@every_sampler
def test_a_sampler_repeats_itself_under_a_seed_and_only_there(name):
    space = mixed_space(macs_target=Range(low=0.1, high=0.9))
    observations, again = (view_of(space, trials(space, enough(name))) for _ in range(2))
    values = sample(name, observations)
    assert sample(name, again) == values
    assert sample(name, observations, Draw(1, 40)) != values


@every_sampler
def test_a_space_of_one_point_is_sampled(name):
    config = {
        "methods": {"only": {"a": Range(low=0.5, high=0.5), "b": Range(values=("x",))}},
        "width_rules": ("global",),
    }
    space = fakes.space(**config, macs_target=Range(low=0.5, high=0.5))
    point = Point("only", "global", 0.5, {"a": 0.5, "b": "x"})
    history = [fakes.trial(space, point) for _ in range(24)]
    assert space.point(sample(name, view_of(space, history))) == point


@every_sampler
@pytest.mark.parametrize("n_feasible", [0, 12])
def test_infeasible_trials_are_taken_in(name, n_feasible):
    space = mixed_space(constraints=ConstraintsConfig(params=2_000))
    history = trials(space, 24)
    for i, trial in enumerate(history):
        trial.set_user_attr("params", 1_000 if i < n_feasible else 3_000)
    observations = view_of(space, history)
    assert sum(bool(observation.violations) for observation in observations.trials) == 24 - n_feasible
    assert space.admits(space.point(sample(name, observations)))


# -- each ------------------------------------------------------------------------------------------------------------


def search(name, space, n, seed):
    """Hypervolume after ``n`` trials of `fakes.run_trial` one after another; what is drawn twice is run twice."""
    history, results = [], []
    observer = Observer(space, fakes.OBJECTIVES)
    for number in range(n):
        point = space.point(sample(name, observer.look(history), Draw(seed, number)))
        history.append(fakes.trial(space, point, ended=number))
        results.append((1 - history[-1].values[0], history[-1].values[1]))
    return hypervolume(results, [0.8, 1.0])


def known_problem():
    """The best of eight numbers changes with the target."""
    unit = Range(low=0.0, high=1.0)
    return fakes.space(
        methods={"m": dict.fromkeys("abcdefgh", unit)}, width_rules=("global",), macs_target=Range(low=0.1, high=0.9)
    )


@pytest.mark.parametrize(("name", "n"), [("tpe", 60), ("nsga2", 300)])
def test_a_model_or_a_population_beats_chance_on_every_seed(name, n):
    space = known_problem()
    ours, chance = ([search(which, space, n, seed) for seed in range(5)] for which in (name, "random"))
    assert min(np.subtract(ours, chance)) > 0
    assert np.mean(ours) > np.mean(chance) + 3 * np.std(chance)


@pytest.mark.slow
def test_gaussian_processes_beat_chance_with_few_trials():
    space = known_problem()
    assert search("gp", space, 30, 0) > max(search("random", space, 60, seed) for seed in range(5))


def strength_problem():
    """One strength, which is best at 1e-3, the middle of two decades."""
    space = mixed_space(methods={"strong": {"strength": Range(low=1e-4, high=1e-2, scale="log")}})
    return view_of(space, trials(space, 150))


def drawn_exponents(observations):
    return np.log10([sample("tpe", observations, Draw(0, number))["strong.strength"] for number in range(40)])


def test_tpe_learns_from_the_trials_of_the_drawn_method():
    # By chance, a third of all draws would be that near.
    assert np.mean(np.abs(drawn_exponents(strength_problem()) + 3) < 1 / 3) > 0.55


def test_tpe_learns_where_the_least_rmse_is():
    space = mixed_space(methods={"strong": {"strength": Range(low=1e-4, high=1e-2, scale="log")}})
    history = [fakes.by_rmse(trial) for trial in trials(space, 150)]
    observations = Observer(space, ("rmse", "macs_ratio"), fakes.RMSE).look(history)
    assert np.mean(np.abs(drawn_exponents(observations) + 3) < 1 / 3) > 0.55


def test_the_genetic_algorithm_takes_an_rmse_for_the_accuracy_that_lacks_as_much():
    space = mixed_space()
    history = trials(space, 45)
    observations = view_of(space, history)
    others = Observer(space, ("rmse", "macs_ratio"), fakes.RMSE).look([fakes.by_rmse(trial) for trial in history])
    parents, other_parents = (NSGA2().parents(seen) for seen in (observations, others))
    assert [parent.number for parent in parents] == [parent.number for parent in other_parents]
    assert sample("nsga2", observations) == sample("nsga2", others)


def test_tpe_takes_running_trials_for_poor_ones():
    observations = crowded = strength_problem()
    favourite = float(np.median(drawn_exponents(observations)))
    for _ in range(60):
        crowded = crowded.with_running(Point("strong", "global", 0.5, {"strength": 10**favourite}).params)
    near, far = (np.mean(np.abs(drawn_exponents(seen) - favourite)) for seen in (observations, crowded))
    assert far > 1.5 * near


def test_generations_are_counted_in_the_order_in_which_trials_end():
    space = fakes.space()
    # The even numbers end first, and they alone make up the first generation: 40 trials, 20 of them even.
    history = [
        fakes.trial(space, Point("plain", "global", 0.5), ended=i // 2 + 20 * (i % 2), accuracy=0.5) for i in range(39)
    ]
    observations = view_of(space, history)
    assert sorted(observation.number for observation in NSGA2().parents(observations)) == list(range(0, 39, 2))
    assert NSGA2().parents(view_of(space, history[:19])) == []


def observed(values):
    params = Point("plain", "global", 0.5).params
    return tuple(Observation(i, params, value, ended_at=fakes.moment(i)) for i, value in enumerate(values))


def test_parents_are_the_elite_of_all_generations_before():
    # Every third trial is on the front; the others are far behind.
    values = [(0.5 + i / 200, 0.4 + i / 200) if i % 3 == 0 else (0.1, 0.9) for i in range(73)]
    observations = Observations(fakes.space(), fakes.OBJECTIVES, observed(values))
    parents = [observation.number for observation in NSGA2().parents(observations)]
    assert len(parents) == 20
    assert set(parents) == set(range(0, 60, 3))


def test_children_are_near_their_parents():
    space = known_problem()
    places = np.linspace(0.45, 0.55, 20).tolist()
    near = [
        fakes.trial(space, Point("m", "global", x, dict.fromkeys("abcdefgh", x)), ended=i) for i, x in enumerate(places)
    ]
    observations, numbers = view_of(space, near), ["macs_target", *(f"m.{key}" for key in "abcdefgh")]
    children = [sample("nsga2", observations, Draw(0, number)) for number in range(50)]
    far = [sum(not 0.39 < child[name] < 0.61 for name in numbers) for child in children]
    # Of eleven parameters one mutates on average, of which nine are numbers; most of what mutates is far away.
    assert 0.3 < np.mean(far) < 1.2


def test_many_numbers_at_the_ends_of_their_ranges_are_crossed_at_once():
    # Half of all draws beyond both parents would lie outside, for each of 27 numbers: all inside hardly ever.
    space = fakes.space(cost=fakes.staged_model(3, 9), methods={"m": {}}, width_rules=("per_group",))
    lowest = {f"conv{i}": 0.5 for i in range(27)}
    shapes = [{**lowest, f"conv{i}": 1.5} for i in range(20)]
    history = [
        fakes.trial(space, Point("m", "per_group", 0.5, multipliers=shape), ended=i) for i, shape in enumerate(shapes)
    ]
    observations = view_of(space, history)
    children = [sample("nsga2", observations, Draw(0, number)) for number in range(10)]
    assert all(space.parameters[name].holds(value) for child in children for name, value in child.items())


def test_quasi_random_points_are_one_sequence_read_on():
    space = known_problem()
    attempts = SAMPLERS["quasi_random"].attempts
    first = list(islice(attempts(view_of(space, []), Draw(0, 5)), 64))
    assert first[2] == sample("quasi_random", view_of(space, trials(space, 3)), Draw(0, 7))
    numbers = np.array([[values[f"m.{key}"] for key in "abcdefgh"] for values in first])
    chance = np.random.default_rng(0).random((100, 64, 8))
    assert qmc.discrepancy(numbers) < min(qmc.discrepancy(points) for points in chance)


@pytest.mark.parametrize(("name", "kind"), [("tpe", TPE), ("gp", GP)])
def test_from_some_trials_on_the_costly_samplers_see_a_part_of_them(name, kind, monkeypatch):
    space = known_problem()
    observations = view_of(space, trials(space, 24))
    whole = sample(name, observations)
    monkeypatch.setattr(kind, "most_trials", 12)
    part = sample(name, observations)
    assert part != whole
    assert part == sample(name, observations.thinned(12))


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_attempts_get_away_from_what_was_tried(name):
    space = fakes.space(width_rules=("global",))  # 17 targets, for one method alone and for another with 5 strengths
    history = [
        fakes.trial(space, Point("strong", "global", target, {"strength": 1e-3}), ended=i)
        for i, target in enumerate(space.target_ladder(17) * 3)
    ]
    observations, tried = (
        view_of(space, history),
        {space.key(Point.from_dict(trial.user_attrs["point"])) for trial in history},
    )
    new = [
        any(
            space.key(space.point(values)) not in tried
            for values in SAMPLERS[name].attempts(observations, Draw(0, number))
        )
        for number in range(20)
    ]
    assert sum(new) > 15
