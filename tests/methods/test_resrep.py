"""ResRep: the gradient rule, the dynamics of a forgotten row, the choice of rows, and what it leaves."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.compactors import Pointwise
from autoprune.config import TrainSpec
from autoprune.cost import Limits
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.folding import sites
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, NetworkError
from autoprune.methods import ResRep, build
from autoprune.methods._resrep import forgotten_rows, row_gradients, smallest, travel
from autoprune.widths import WIDTH_RULES, Evidence, keep_best, remove_least
from tests.small_networks import SHAPE, make, sequential
from tests.widths.test_rules import chain

torch.set_num_threads(1)

RECIPE = TrainSpec(learning_rate=0.02, schedule="cosine")
COSINE = TrainSpec(learning_rate=0.01, schedule="cosine")


def plan(n_steps=100, recipe=RECIPE, *, traced=None, macs_target=1.0, **limits):
    macs = None if traced is None else macs_target * traced.cost.dense_macs
    return PhasePlan(recipe, n_steps, Limits(macs=macs, **limits))


def attached(name="residual", seed=0, **options):
    target = options.pop("macs_target", 0.5)
    model = make(name, seed)
    traced = trace(model, torch.zeros(1, *SHAPE))
    return model, traced, ResRep(**options).attach(model, traced, plan=plan(traced=traced, macs_target=target))


def compactors(model):
    return [module for module in model.modules() if isinstance(module, Pointwise)]


# -- the gradient rule ----------------------------------------------------------------------------------------------


def test_the_gradient_rule_by_hand():
    rows = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)
    found = row_gradients(rows, torch.ones_like(rows), torch.tensor([0.0, 1.0]), strength=1e-4)
    torch.testing.assert_close(found, torch.tensor([[6e-5, 8e-5], [1.0, 1.0001]], dtype=torch.float64))


def test_a_row_of_zeros_has_a_gradient():
    found = row_gradients(torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(2), strength=1.0)
    assert torch.equal(found, torch.zeros(2, 2))


# -- dynamics -------------------------------------------------------------------------------------------------------


def fall(n_steps, *, strength, momentum, rate=0.01, schedule="cosine"):
    """Norm of a forgotten row at the end, and the step at which it was below 1e-5, by plain SGD."""
    norm, velocity, reached = 1.0, 0.0, None
    for step in range(n_steps):
        now = rate * (1 + np.cos(np.pi * step / n_steps)) / 2 if schedule == "cosine" else rate
        velocity = momentum * velocity + strength * np.sign(norm)
        norm -= now * velocity
        if reached is None and abs(norm) < 1e-5:
            reached = step
    return abs(norm), reached


@pytest.mark.parametrize(("n_steps", "reached"), [(24_000, 12_580), (100_000, 10_522)])
def test_a_forgotten_row_comes_to_rest_in_time(n_steps, reached):
    """η₀ = 0.01, λ = 1e-4, momentum 0.99; the travel that is asked for is there."""
    assert fall(n_steps, strength=1e-4, momentum=0.99)[1] == pytest.approx(reached, rel=0.01)
    assert 1e-4 * travel(COSINE, n_steps, first=0, momentum=0.99) >= 1.2


def test_it_fails_where_the_phase_is_too_short_or_momentum_too_small():
    norm, reached = fall(20_000, strength=1e-4, momentum=0.99)
    assert norm == pytest.approx(9.8e-3, rel=0.5)
    assert reached is None
    assert fall(100_000, strength=1e-4, momentum=0.9)[0] == pytest.approx(0.50, abs=0.01)
    assert 1e-4 * travel(COSINE, 20_000, first=0, momentum=0.99) < 1.2
    assert 1e-4 * travel(COSINE, 100_000, first=0, momentum=0.9) == pytest.approx(0.5, rel=1e-3)


def test_the_way_is_what_the_schedule_adds_up_to():
    """Half a cosine from η₀ to 0 over N steps: η₀ N / 2, over 1 - momentum."""
    assert travel(COSINE, 5000, first=0, momentum=0.99) == pytest.approx(0.01 * 5000 / 2 / 0.01, rel=1e-3)
    constant = TrainSpec(learning_rate=0.01, schedule="constant")
    assert travel(constant, 100, first=60, momentum=0.9) == pytest.approx(40 * 0.01 / 0.1)


def test_strength_follows_from_the_length():
    """λ >= 3 (1 - μ) / (η₀ N) where all steps count: N = 5,000 works with 1e-3, as methods have it."""
    method = ResRep(momentum=0.99, warmup=0.0, choosing=1e-9)
    assert method.strength_for(plan(5000, COSINE)) == pytest.approx(3 * 0.01 / (0.01 * 4999), rel=1e-2)
    assert fall(5000, strength=1e-3, momentum=0.99)[1] is not None
    twice = ResRep(momentum=0.99, warmup=0.0, choosing=1e-9, drive=2.0)
    assert twice.strength_for(plan(5000, COSINE)) == 2 * method.strength_for(plan(5000, COSINE))


def test_a_strength_that_cannot_do_it_is_refused_with_the_inequality():
    told = (
        r"^`strength` must drive rows to zero in time, strength · Σ rate / \(1 - momentum\) >= 1\.5, but from "
        r"step 45 of 100 on it is 0\.0001 · .* = 0\.000\d+\. Give at least 0\.\d+, a longer phase, or no `strength`\.$"
    )
    method = ResRep(strength=1e-4)
    with pytest.raises(ConfigError, match=told):
        method.strength_for(plan())
    needed = ResRep().strength_for(plan())
    assert ResRep(strength=1.001 * needed).strength_for(plan()) == 1.001 * needed
    with pytest.raises(ConfigError, match=r"^resrep needs steps that are left once all rows are chosen"):
        ResRep().strength_for(plan(0))
    with pytest.raises(ConfigError, match=r"^resrep needs `optimizer` = 'sgd' .* but got 'adam'"):
        ResRep().strength_for(plan(recipe=TrainSpec(optimizer="adam")))
    with pytest.raises(ConfigError, match=r"^`warmup` and `choosing` must leave some of the phase"):
        ResRep(warmup=0.6, choosing=0.4)


# -- the choice of rows ---------------------------------------------------------------------------------------------


def test_the_smallest_rows_of_all_groups_go_until_the_target_is_met():
    cost = chain([4, 4])
    norms = {"a": np.array([0.9, 0.1, 0.8, 0.7]), "b": np.array([0.2, 0.95, 0.6, 0.3])}
    found = forgotten_rows(norms, cost, limits=Limits(macs=cost.macs({"a": 3, "b": 2})))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {"a": [1], "b": [0, 3]}


def test_no_more_rows_at_once_than_allowed_and_the_smallest_first():
    cost = chain([4, 4])
    norms = {"a": np.array([0.9, 0.1, 0.8, 0.7]), "b": np.array([0.2, 0.95, 0.6, 0.3])}
    for most, rows in ((0, ([], [])), (1, ([1], [])), (2, ([1], [0]))):
        whole = forgotten_rows(norms, cost, limits=Limits(macs=cost.macs({"a": 3, "b": 2})))
        found = smallest(whole, norms, most=most)
        assert tuple(np.flatnonzero(mask).tolist() for mask in found.values()) == rows


def test_a_group_at_its_minimum_is_passed_over_at_no_cost():
    """A reference lets groups at their minimum use up the allowance; here they do not."""
    cost = chain([4, 4])
    norms = {"a": np.array([0.1, 0.11, 0.12, 0.13]), "b": np.array([0.2, 0.95, 0.6, 0.3])}
    whole = forgotten_rows(norms, cost, limits=Limits(macs=cost.macs({"a": 3, "b": 1}), min_widths={"a": 3, "b": 1}))
    found = smallest(whole, norms, most=4)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {"a": [0], "b": [0, 2, 3]}


# -- in a network ---------------------------------------------------------------------------------------------------


def test_one_compactor_serves_all_branches_of_a_residual_sum():
    model, traced, _ = attached()
    assert [module.weight.shape[0] for module in compactors(model)] == [group.width for group in traced.groups]
    assert {len(module._forward_hooks) for name, module in model.named_modules() if name.endswith("_norm")} == {1}


def test_rows_are_chosen_by_and_by_and_can_come_back():
    model, traced, hooks = attached(warmup=0.1, choosing=0.5, interval=5, macs_target=0.2)
    remembered = [len(hooks.state.state_dict()["remembered"])]
    for step in range(100):
        hooks.after_step()
        remembered.append(int(hooks.state.state_dict()["remembered"].sum()))
        if step < 10:
            assert remembered[-1] == remembered[0], "nothing is chosen in the warmup"
    steps = sorted(set(remembered), reverse=True)
    assert len(steps) > 2
    assert remembered[-1] == steps[-1]
    parts = torch.tensor_split(hooks.state.state_dict()["remembered"], np.cumsum(traced.cost.dense)[:-1].tolist())
    widths = {group.name: int(part.sum()) for group, part in zip(traced.groups, parts, strict=True)}
    assert traced.cost.macs_ratio(widths) <= 0.2
    before = hooks.state.state_dict()["remembered"].clone()
    with torch.no_grad():  # What was forgotten grows, the rest shrinks.
        for module, part in zip(
            compactors(model), torch.tensor_split(before, np.cumsum(traced.cost.dense)[:-1].tolist()), strict=True
        ):
            module.weight.mul_(torch.where(part > 0, 0.1, 5.0)[:, None])
    for _ in range(10):
        hooks.after_step()
    after = hooks.state.state_dict()["remembered"]
    assert bool(((before == 0) & (after == 1)).any())


def test_forgotten_rows_feel_the_lasso_alone():
    model, traced, hooks = attached(interval=1, warmup=0.0)
    for _ in range(60):
        hooks.after_step()
    for module in compactors(model):
        module.weight.grad = torch.ones_like(module.weight)
    hooks.transform_gradients()
    strength = ResRep(interval=1, warmup=0.0).strength_for(plan())
    remembered = torch.tensor_split(hooks.state.state_dict()["remembered"], np.cumsum(traced.cost.dense)[:-1].tolist())
    for module, part in zip(compactors(model), remembered, strict=True):
        pull = torch.where(part > 0, 1e-4, strength)[:, None]
        expected = part[:, None] * torch.ones_like(module.weight) + pull * torch.eye(len(module.weight))
        torch.testing.assert_close(module.weight.grad, expected)


def test_all_rows_are_chosen_in_time_where_the_least_ones_save_little():
    """Of 16 channels each saves 640 MACs, of 64 each 20; the 64 have the least rows, so 53 of them go."""
    model = sequential(16, 64, size=1, stride=8)
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    assert traced.cost.dense_macs == 9 * 16 * 64 + 16 * 64 + 64 * 4
    hooks = ResRep(prior="none", interval=10).attach(model, traced, plan=plan(traced=traced, macs_target=0.9))
    with torch.no_grad():
        compactors(model)[1].weight.mul_(0.1)
    for _ in range(45):  # warm-up and choosing
        hooks.after_step()
    small, large = torch.split(hooks.state.state_dict()["remembered"], [16, 64])
    assert (int(small.sum()), int(large.sum())) == (16, 11)


def test_as_many_rows_stay_as_widths_are_multiples_of():
    model = make("residual")
    traced = trace(model, torch.zeros(1, *SHAPE))
    hooks = ResRep(interval=1, warmup=0.0).attach(model, traced, plan=plan(traced=traced, macs_target=0.5, multiple=2))
    for _ in range(50):
        hooks.after_step()
    remembered = hooks.state.state_dict()["remembered"]
    widths = [int(part.sum()) for part in torch.tensor_split(remembered, np.cumsum(traced.cost.dense)[:-1].tolist())]
    assert all(width % 2 == 0 or width == dense for width, dense in zip(widths, traced.cost.dense, strict=True))
    assert traced.cost.macs(dict(zip(traced.cost.groups, widths, strict=True))) <= 0.5 * traced.cost.dense_macs


def test_compactors_have_their_own_momentum_and_no_decay():
    _, traced, hooks = attached(momentum=0.95)
    places = sites(make("residual"), traced)
    names = [f"{places[group.name][0].norm}.autoprune_compactor.weight" for group in traced.groups]
    assert dict(hooks.momentum) == dict.fromkeys(names, 0.95)
    assert {hooks.weight_decay[name] for name in names} == {0.0}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_what_is_left_answers_as_the_trained_network_without_forgotten_rows(dtype, tolerance):
    """Rows set to zero in the compacted network, against the merged network with their channels cut out."""
    model = make("residual").to(dtype)
    traced = trace(model, torch.zeros(1, *SHAPE, dtype=dtype))
    hooks = ResRep(interval=1, warmup=0.0).attach(model, traced, plan=plan(traced=traced, macs_target=0.5))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in compactors(model):
            module.weight.add_(0.3 * torch.randn(module.weight.shape, generator=generator).to(dtype))
    for _ in range(60):
        hooks.after_step()
    state = hooks.state.state_dict()
    scores = ResRep().rank(model, traced, state=state, batches=())
    assert sum(int((score <= 0).sum()) for score in scores.values()) == int((state["remembered"] == 0).sum()) > 3
    rowless = copy.deepcopy(model)
    with torch.no_grad():
        for module, name in zip(compactors(rowless), scores, strict=True):
            module.weight[torch.from_numpy(scores[name] <= 0)] = 0
    inputs = torch.randn(4, *SHAPE, generator=generator).to(dtype)
    hooks.fold([(torch.randn(8, *SHAPE, generator=generator).to(dtype), torch.zeros(8))])
    kept = keep_best(
        traced.cost,
        scores,
        WIDTH_RULES["learned"].widths(Evidence(traced.cost, scores), Limits(macs=traced.cost.dense_macs)),
    )
    assert traced.cost.macs_ratio({name: len(indices) for name, indices in kept.items()}) <= 0.5
    with torch.no_grad():
        expected, answer = rowless.eval()(inputs), cut(model, traced.groups, kept).eval()(inputs)
    assert (expected - answer).abs().max() <= tolerance * expected.abs().max()


def test_small_rows_left_out_change_the_next_layer_in_proportion():
    """Dropping rows of norm 1e-4 changes what the next layer says by about as much."""
    torch.manual_seed(0)
    model = make("plain")
    traced = trace(model, torch.zeros(1, *SHAPE))
    hooks = ResRep().attach(model, traced, plan=plan(traced=traced))
    inputs = torch.randn(4, *SHAPE)
    changes = []
    for size in (1e-2, 1e-4):
        with torch.no_grad():
            compactors(model)[0].weight[2] = size * torch.nn.functional.normalize(torch.ones(8), dim=0)
            small = model.eval()(inputs)
            compactors(model)[0].weight[2] = 0
            changes.append(float((model(inputs) - small).abs().max() / small.abs().max()))
    assert changes[0] == pytest.approx(100 * changes[1], rel=0.1)
    assert 0 < changes[1] < 1e-4
    assert hooks.fold is not None


def test_networks_without_batchnorm_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).eval()
    traced = trace(model, torch.zeros(1, *SHAPE))
    with pytest.raises(NetworkError, match=r"^channels of group '0' must be written by convolutions"):
        ResRep().attach(model, traced, plan=plan(traced=traced))


def test_rows_are_chosen_by_size_times_what_the_dense_network_says():
    """All rows are of norm 1 at first, so the first choice is that of a global ranking by magnitude."""
    model, traced, hooks = attached(interval=1, warmup=0.0, choosing=0.01)
    scores = build("magnitude", {}).rank(model, traced, state={}, batches=())
    hooks.after_step()
    parts = np.split(hooks.state.state_dict()["remembered"].numpy() > 0, np.cumsum(traced.cost.dense)[:-1])
    limits = Limits(macs=0.5 * traced.cost.dense_macs, min_widths={})
    kept = keep_best(traced.cost, scores, remove_least(traced.cost, scores, limits))
    for name, part in zip(traced.cost.groups, parts, strict=True):
        assert np.flatnonzero(part).tolist() == kept[name].tolist()
    _, _, plain = attached(interval=1, warmup=0.0, choosing=0.01, prior="none")
    assert torch.equal(plain.state.state_dict()["norm"], torch.ones(26))


def test_a_limit_of_parameters_is_kept_while_rows_are_chosen():
    """As for MACs: the smallest rows go until both limits hold."""
    cost = chain([4, 4])
    norms = {"a": np.array([0.9, 0.1, 0.8, 0.7]), "b": np.array([0.2, 0.95, 0.6, 0.3])}
    params = cost.params({"a": 3, "b": 2})
    found = forgotten_rows(norms, cost, limits=Limits(macs=cost.dense_macs, params=params))
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {"a": [1], "b": [0, 3]}
    left = {name: int((~mask).sum()) for name, mask in found.items()}
    assert cost.params(left) <= params
