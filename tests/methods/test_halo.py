"""HALO's value and gradients in numbers, the penalty that it comes down to, and how its λ move."""

import copy
import itertools

import numpy as np
import pytest
import torch

from autoprune import methods
from autoprune.config import TrainSpec
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, NetworkError
from autoprune.importances import FilterNorm, ScaleMagnitude, normalise
from autoprune.methods import Halo
from autoprune.methods._halo import halo_gradients, halo_value
from autoprune.methods._sizes import sizes
from tests.small_networks import NETWORKS, SHAPE, UNSCALED, make

torch.set_num_threads(1)

RECIPE = TrainSpec()


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_value_and_gradients():
    x, scale = vector(0.5), vector(2.0)
    assert halo_value(x, scale, strength=0.01, price=0.0).item() == pytest.approx(0.00125, abs=1e-12)
    assert halo_value(x, scale, strength=0.01, price=0.02).item() == pytest.approx(0.00125 + 0.04, abs=1e-12)
    by_x, by_scale = halo_gradients(x, scale, strength=0.01, price=0.02)
    assert (by_x.item(), by_scale.item()) == pytest.approx((0.0025, 0.01875), abs=1e-12)


def test_gradients_equal_those_of_autograd():
    x, scale = vector(-1.5, -0.2, 0.3, 2.0).requires_grad_(), vector(0.1, 0.9, 1.1, 7.0).requires_grad_()
    automatic = torch.autograd.grad(halo_value(x, scale, strength=0.3, price=0.7), (x, scale))
    for expected, found in zip(
        automatic, halo_gradients(x.detach(), scale.detach(), strength=0.3, price=0.7), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("x", "best", "value"), [(0.5, 0.793701, 0.0238110), (0.1, 0.464159, 0.0139248), (0.01, 0.215443, 0.00646330)]
)
def test_at_the_best_lambda_it_is_a_cube_root(x, best, value):
    strength, price = 0.01, 0.02
    tried = torch.linspace(0.01, 3, 400_001, dtype=torch.float64)
    values = torch.func.vmap(lambda s: halo_value(vector(x), s[None], strength=strength, price=price))(tried)
    assert tried[values.argmin()].item() == pytest.approx(best, abs=1e-5)
    assert values.min().item() == pytest.approx(value, abs=1e-7)
    assert value == pytest.approx(1.5 * 2 ** (1 / 3) * price ** (2 / 3) * strength ** (1 / 3) * x ** (1 / 3), rel=1e-5)
    pivot = price / (2 * strength)
    assert best == pytest.approx((x / pivot) ** (1 / 3), rel=1e-5)


@pytest.mark.parametrize(("x", "best", "value"), [(0.5, 0.840896, 0.0141421), (0.1, 0.562341, 0.00632456)])
def test_with_weight_decay_on_lambda_instead_it_is_a_square_root(x, best, value):
    """Why λ has none."""
    tried, strength, decay = torch.linspace(0.01, 3, 400_001, dtype=torch.float64), 0.01, 0.02
    lasso = torch.func.vmap(lambda s: halo_value(vector(x), s[None], strength=strength, price=0.0))(tried)
    values = lasso + decay / 2 * tried.square()
    assert tried[values.argmin()].item() == pytest.approx(best, abs=1e-5)
    assert values.min().item() == pytest.approx(value, abs=1e-7)
    assert value == pytest.approx((2 * strength * decay * x) ** 0.5, rel=1e-5)


def attached(name="plain", **hyper):
    model = make(name)
    traced = trace(model, torch.zeros(1, *SHAPE))
    hooks = Halo(**hyper).attach(model, traced, plan=PhasePlan(RECIPE, n_steps=100))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model, traced, hooks


@pytest.mark.parametrize("acts_on", ["scales", "norms"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_one_step_on_every_kind_of_network(name, acts_on):
    """Both gradients are taken at the same point; a λ sees the mean over what its channel has."""
    model, traced, hooks = attached(name, strength=0.1, pivot=0.3, start=0.8, rate=2.0, acts_on=acts_on)
    hooks.transform_gradients()
    hooks.shrink(0.05)
    price = 2 * 0.1 * 0.3
    importance = ScaleMagnitude() if acts_on == "scales" else FilterNorm()
    sizes = np.concatenate(list(importance.score(model, traced, batches=()).values()))
    slope = price - 2 * 0.1 * sizes / 0.8**3
    np.testing.assert_allclose(hooks.state.state_dict()["lambda"].numpy(), 0.8 - 0.05 * 2.0 * slope, rtol=1e-5)
    np.testing.assert_allclose(hooks.state.state_dict()["velocity"].numpy(), slope, rtol=1e-4, atol=1e-6)
    for key, parameter in model.named_parameters():
        if acts_on == "scales":
            is_scale = "norm" in key and key.endswith("weight")
            expected = 0.1 / 0.8**2 * parameter.detach().sign() if is_scale else torch.zeros_like(parameter)
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-6, atol=0)
        else:
            assert bool(parameter.grad.any()) == (parameter.dim() == 4)


def test_lambda_comes_to_rest_where_theory_says():
    model, _, hooks = attached(strength=0.05, pivot=0.4)
    with torch.no_grad():
        model.norm1.weight.copy_(torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8, -0.8, 1.6, 3.2]))
    for _ in range(4000):
        hooks.transform_gradients()
        hooks.shrink(0.05)
    scales = hooks.state.state_dict()["lambda"][:8].double()
    expected = (model.norm1.weight.detach().double().abs() / 0.4) ** (1 / 3)
    torch.testing.assert_close(scales, expected, rtol=1e-3, atol=0)
    # The penalty that the network then feels falls as |γ|**(-2/3).
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    felt = model.norm1.weight.grad.double()
    torch.testing.assert_close(felt, 0.05 * model.norm1.weight.detach().sign() / expected**2, rtol=1e-2, atol=0)


def test_it_starts_where_it_would_come_to_rest():
    """At a pivot of 0.2: 0.63 for a size of 0.05 and 1.36 for one of 0.5, where nothing pulls at λ."""
    model = make("plain")
    with torch.no_grad():
        model.norm1.weight.fill_(0.5)
        model.norm1.weight[0], model.norm1.weight[1] = 0.05, 0.0
    hooks = Halo(pivot=0.2).attach(model, trace(model, torch.zeros(1, *SHAPE)), plan=PhasePlan(RECIPE, n_steps=100))
    first = hooks.state.state_dict()["lambda"].clone()
    assert first[:3].tolist() == pytest.approx([0.63, 0.01, 1.357], abs=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    hooks.shrink(0.05)
    assert hooks.state.state_dict()["lambda"][2:8].tolist() == pytest.approx(first[2:8].tolist(), rel=1e-5)


def test_momentum():
    _, _, hooks = attached(strength=1e-5, pivot=100.0, start=1.0)  # the slope is 2e-3, nearly whatever x is
    places = []
    for _ in range(3):
        hooks.transform_gradients()
        hooks.shrink(0.5)
        places.append(1 - hooks.state.state_dict()["lambda"][0].item())
    step = 0.5 * 2e-3
    assert places == pytest.approx([step, step * 2.9, step * (2.9 + 2.71)], rel=2e-2)


@pytest.mark.parametrize(("strength", "start", "end"), [(1.0, 0.01, 100.0), (1.0, 100.0, 0.01)])
def test_lambda_stays_within_its_range(strength, start, end):
    """Near zero the slope is that of 1 / λ³; one step of it would be 1e6 long."""
    _, _, hooks = attached(strength=strength, start=start, pivot=0.2 if end > 1 else 100.0)
    hooks.transform_gradients()
    hooks.shrink(0.1)
    first = hooks.state.state_dict()["lambda"].clone()
    assert (first - start).abs().max().item() == pytest.approx(0.1, rel=1e-3)
    for _ in range(300):
        hooks.transform_gradients()
        hooks.shrink(10.0)
        assert hooks.state.state_dict()["lambda"].min() >= 0.01
        assert hooks.state.state_dict()["lambda"].max() <= 100.0


def test_the_state_is_taken_up_in_a_fresh_attachment():
    _, _, hooks = attached("residual", strength=0.1, start=1.0)
    for _ in range(5):
        hooks.transform_gradients()
        hooks.shrink(0.1)
    saved = copy.deepcopy(hooks.state.state_dict())
    assert {name: len(tensor) for name, tensor in saved.items()} == {"lambda": 26, "velocity": 26}
    _, _, other = attached("residual", strength=0.1, start=1.0)
    other.state.load_state_dict(saved)
    for found in (hooks, other):
        found.transform_gradients()
        found.shrink(0.1)
    assert torch.equal(hooks.state.state_dict()["lambda"], other.state.state_dict()["lambda"])
    assert not torch.equal(hooks.state.state_dict()["lambda"], saved["lambda"])


@pytest.mark.parametrize("name", sorted(UNSCALED))
def test_one_step_where_some_channels_have_no_scale(name):
    """λ sees filters in the unit of scales: a channel as large as the pivot rests wherever it is."""
    model, traced, hooks = attached(name, strength=0.1, pivot=0.3, start=1.0, rate=2.0)
    found = sizes(model, traced, state=hooks.state.state_dict())
    x = np.concatenate(list(found.values()))
    hooks.transform_gradients()
    hooks.shrink(0.05)
    slope = 2 * 0.1 * (0.3 - x)
    np.testing.assert_allclose(hooks.state.state_dict()["lambda"].numpy(), 1 - 0.05 * 2.0 * slope, rtol=1e-5)
    unit = hooks.state.state_dict()["unit"][-len(found["hidden"]) :]
    directions = model.hidden.weight.detach() / model.hidden.weight.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(model.hidden.weight.grad, 0.1 * unit[:, None] * directions)


def test_units_are_saved_with_lambda():
    _, _, hooks = attached("headed", strength=0.1)
    saved = copy.deepcopy(hooks.state.state_dict())
    assert {name: len(tensor) for name, tensor in saved.items()} == {"lambda": 24, "velocity": 24, "unit": 24}
    _, _, other = attached("headed", strength=0.1)
    other.state.load_state_dict({**saved, "unit": 2 * saved["unit"]})
    assert torch.equal(other.state.state_dict()["unit"], 2 * saved["unit"])


def test_frozen_scales_keep_their_lambda():
    model = make("plain")
    model.norm1.weight.requires_grad_(False)
    traced = trace(model, torch.zeros(1, *SHAPE))
    hooks = Halo(strength=0.1).attach(model, traced, plan=PhasePlan(RECIPE, n_steps=100))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    hooks.shrink(0.05)
    assert hooks.state.state_dict()["lambda"][:8].tolist() == [1.0] * 8
    assert not hooks.state.state_dict()["lambda"][8:].eq(1).any()
    assert not model.norm1.weight.grad.any()
    model.norm2.weight.requires_grad_(False)
    with pytest.raises(NetworkError, match="must have a BatchNorm scale that trains"):
        Halo().attach(model, traced, plan=PhasePlan(RECIPE, n_steps=100))


def test_weight_decay_of_gamma_is_its_own():
    hooks = attached("plain", scale_decay=0.25)[2]
    assert hooks.weight_decay == {"norm1.weight": 0.25, "norm2.weight": 0.25}
    assert attached("plain", acts_on="norms")[2].weight_decay == {}


def test_ranks_by_size_or_by_lambda():
    model, traced, _ = attached("residual")
    for acts_on, importance in (("scales", ScaleMagnitude()), ("norms", FilterNorm())):
        expected = importance.score(model, traced, batches=())
        scores = Halo(acts_on=acts_on).rank(model, traced, state={}, batches=())
        assert all(np.array_equal(score, expected[name]) for name, score in scores.items())
    state = {"lambda": torch.arange(1.0, 27.0)}
    scores = Halo(scored_by="lambda").rank(model, traced, state=state, batches=())
    assert list(itertools.chain(*(score.tolist() for score in scores.values()))) == list(range(1, 27))
    assert {name: len(score) for name, score in scores.items()} == {g.name: g.width for g in traced.groups}
    relative = Halo(scored_by="lambda", normalisation="mean").rank(model, traced, state=state, batches=())
    assert all(np.array_equal(s, normalise(scores, "mean", traced.cost)[name]) for name, s in relative.items())


@pytest.mark.parametrize(
    ("key", "value", "interval"),
    [
        ("strength", 0.0, r"\(0, 1\]"),
        ("pivot", 0.0, r"\(0, 100\]"),
        ("start", 0.001, r"\[0.01, 100.0\]"),
        ("rate", 0.0, r"\(0, 1000\]"),
        ("scale_decay", -0.1, r"\[0, 1\]"),
    ],
)
def test_values_out_of_range(key, value, interval):
    with pytest.raises(ConfigError, match=rf"^\[method\.halo\]: `{key}` must be in {interval}, but got {key}={value}"):
        methods.build("halo", {key: value})
