"""The penalty reaches the scales or filters of prunable channels, nothing else, and in full precision."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import methods
from autoprune.architectures import build
from autoprune.config import TrainSpec, option
from autoprune.config.space_files import find_space
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.images import Preprocess
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime, train
from autoprune.errors import ConfigError, NetworkError
from autoprune.importances import FilterNorm, ScaleMagnitude, normalise
from autoprune.methods import METHODS, Slimming
from autoprune.methods._named import of_penalty
from autoprune.methods._travel import travel
from autoprune.penalties import L1, MCP, PENALTIES, TL1
from tests.small_networks import SHAPE, make

torch.set_num_threads(1)

RECIPE = TrainSpec()


def slimming(penalty="l1", **hyper):
    return methods.build("slimming" if penalty == "l1" else f"slimming_{penalty}", hyper)


class Noise:
    shape = (1, 8, 8)

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(32) % 4
        self.images = torch.randint(0, 256, (32, 1, 8, 8), generator=generator, dtype=torch.uint8)

    def __len__(self):
        return 32

    def read(self, index_batches):
        for indices in index_batches:
            yield self.images[indices]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build("resnet_digits", n_classes=4, in_channels=1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.linspace(-1, 1, module.num_features))
    return model


def runtime(precision="float32"):
    return Runtime(torch.device("cpu"), precision, Preprocess((0.5,), (0.25,)))


def scales(model):
    return {
        name: module.weight.detach().clone() for name, module in model.named_modules() if type(module) is nn.BatchNorm2d
    }


def after_training(model, method, spec, exclude=()):
    copied = copy.deepcopy(model)
    traced = trace(copied, torch.zeros(1, 1, 8, 8), exclude=exclude)
    hooks = method.attach(copied, traced, plan=PhasePlan(spec, n_steps=100)) if method else None
    train(copied, ImageFeed(Noise()), spec, runtime=runtime(), seed=0, hooks=hooks)
    return scales(copied)


def added(method, model, traced):
    """What the method adds to a gradient of zeros, by parameter."""
    copied = copy.deepcopy(model)
    hooks = method.attach(copied, traced, plan=PhasePlan(RECIPE, n_steps=100))
    for parameter in copied.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    return {name: parameter.grad for name, parameter in copied.named_parameters()}


def test_one_step_moves_gamma_by_the_slope(model):
    """Plain SGD without momentum: one step differs from one without penalty by rate × λ × sign."""
    spec = TrainSpec(epochs=1, batch=32, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.0)
    plain = after_training(model, None, spec)
    slim = after_training(model, slimming(strength=0.01), spec)
    start = scales(model)
    for name, gamma in slim.items():
        torch.testing.assert_close(plain[name] - gamma, 0.1 * 0.01 * start[name].sign(), rtol=0, atol=3e-7)
    assert sum(float((slim[name] - start[name]).abs().max()) for name in slim) > 0.01


def test_gamma_shrinks_in_training(model):
    spec = TrainSpec(epochs=10, batch=8, learning_rate=0.01, schedule="constant", weight_decay=0.0)
    plain, slim = after_training(model, None, spec), after_training(model, slimming(strength=0.05), spec)
    start, left, shrunk = (sum(float(g.abs().sum()) for g in found.values()) for found in (scales(model), plain, slim))
    assert left / start == pytest.approx(1.0, abs=0.1)
    assert shrunk / start < 0.75


def test_only_prunable_channels_are_penalised(model):
    traced = trace(model, torch.zeros(1, 1, 8, 8), exclude=["layer2.0.conv1"])
    gradients = added(slimming(strength=0.25), model, traced)
    spared = [name for name, gradient in gradients.items() if not gradient.any()]
    penalised = {name for name in gradients if name not in spared}
    assert penalised == {f"{name}.weight" for name in scales(model)} - {"layer2.0.bn1.weight"}
    for name in penalised:
        assert torch.equal(gradients[name], 0.25 * model.get_parameter(name).detach().sign())


def test_only_their_places_within_a_concatenation_are_penalised():
    torch.manual_seed(0)
    model = build("densenet40", n_classes=4, in_channels=1)
    shape = torch.zeros(1, 1, 8, 8)
    whole, part = trace(model, shape), trace(model, shape, exclude=["conv1"])
    name = whole.group("conv1").scales[1]
    all_places, places = (added(slimming(strength=0.5), model, t)[f"{name}.weight"] for t in (whole, part))
    excluded = whole.group("conv1").member(name).index.ravel()
    kept = np.setdiff1d(np.arange(len(places)), excluded)
    assert (len(excluded), len(kept)) == (24, 12)
    assert torch.equal(all_places, torch.full_like(all_places, 0.5))
    assert places[excluded].eq(0).all()
    assert places[kept].eq(0.5).all()


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 1.0), (0.5, 0.95)])
def test_weight_decay_of_gamma_is_its_own(model, decay, expected):
    """Against a recipe's 0.2: with a frozen loss, one step of rate 0.1 multiplies γ by 1 - 0.1 × decay."""

    class Silent(Noise):
        def __init__(self):
            super().__init__()
            self.labels = torch.zeros(32, dtype=torch.int64)

    copied = copy.deepcopy(model)
    for parameter in copied.fc.parameters():
        nn.init.zeros_(parameter)  # No gradient reaches the layers before it.
    hooks = slimming(strength=1e-12, scale_decay=decay).attach(
        copied, trace(copied, torch.zeros(1, 1, 8, 8)), plan=PhasePlan(RECIPE, n_steps=100)
    )
    spec = TrainSpec(epochs=1, batch=32, learning_rate=0.1, schedule="constant", momentum=0.0, weight_decay=0.2)
    train(copied, ImageFeed(Silent()), spec, runtime=runtime(), seed=0, hooks=hooks)
    for name, gamma in scales(copied).items():
        torch.testing.assert_close(gamma, scales(model)[name] * expected, rtol=1e-6, atol=1e-9)
    weight = copied.layer1[0].conv1.weight
    torch.testing.assert_close(weight, model.layer1[0].conv1.weight * (1 - 0.1 * 0.2), rtol=1e-6, atol=1e-9)
    assert set(hooks.weight_decay) == {f"{name}.weight" for name in scales(model)}


def test_arithmetic_is_float32_under_autocast(model):
    """bfloat16 holds 1e-3 as 9.995e-4 and loses it beside a gradient of 1."""
    copied = copy.deepcopy(model)
    hooks = slimming(strength=1e-3).attach(
        copied, trace(copied, torch.zeros(1, 1, 8, 8)), plan=PhasePlan(RECIPE, n_steps=100)
    )
    for parameter in copied.parameters():
        parameter.grad = torch.ones_like(parameter)
    with runtime("bfloat16").autocast():
        hooks.transform_gradients()
    gamma = copied.bn1.weight
    assert gamma.grad.dtype == torch.float32
    assert torch.equal(gamma.grad, torch.ones(16) + torch.tensor(1e-3) * gamma.detach().sign())


def test_frozen_scales_are_left_alone(model):
    copied = copy.deepcopy(model)
    copied.bn1.weight.requires_grad_(False)
    hooks = slimming(strength=0.1).attach(
        copied, trace(copied, torch.zeros(1, 1, 8, 8)), plan=PhasePlan(RECIPE, n_steps=100)
    )
    spec = TrainSpec(epochs=1, batch=32, learning_rate=0.1)
    train(copied, ImageFeed(Noise()), spec, runtime=runtime(), seed=0, hooks=hooks)
    assert torch.equal(copied.bn1.weight, model.bn1.weight)


def test_ranks_by_magnitude(model):
    scores = slimming().rank(model, trace(model, torch.zeros(1, 1, 8, 8)), state={}, batches=())
    assert scores["layer1.0.conv1"].tolist() == torch.linspace(-1, 1, 16).double().abs().tolist()


@pytest.mark.parametrize("form", ["subgradient", "prox"])
@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_a_hidden_layer_feels_as_much_as_the_scales(name, form):
    """γ and relative filter norms of the same size move alike, whatever the penalty: here all are 0.4 (mean γ)."""
    network = make("headed")
    with torch.no_grad():
        for norm in (network.norm1, network.norm2):
            norm.weight.fill_(0.4)
        network.hidden.weight.div_(network.hidden.weight.norm(dim=1, keepdim=True)).mul_(1.7)
    traced = trace(network, torch.zeros(1, *SHAPE))
    far = {"knee": 2.0} if name in ("mcp", "scad") else {}
    method, recipe = slimming(name, form=form, strength=0.05, **far), TrainSpec(learning_rate=0.1, momentum=0.0)
    hooks = method.attach(network, traced, plan=PhasePlan(recipe, n_steps=100))
    assert hooks.weight_decay == {"norm1.weight": 0.0, "norm2.weight": 0.0}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    torch.optim.SGD(network.parameters(), 0.1).step()
    hooks.shrink(0.1)
    scale = network.norm1.weight.detach()
    assert 0 < scale[0].item() < 0.4
    torch.testing.assert_close(network.norm2.weight.detach(), scale[:6])
    relative = network.hidden.weight.detach().norm(dim=1) / 1.7 * 0.4
    torch.testing.assert_close(relative, scale[:1].expand(10), rtol=1e-5, atol=0)
    scores = method.rank(network, traced, state=hooks.state.state_dict(), batches=())
    np.testing.assert_allclose(scores["hidden"], scores["conv1"][0], rtol=1e-5)


def test_training_shrinks_a_hidden_layer_too():
    spec = TrainSpec(epochs=20, batch=16, learning_rate=0.05, schedule="constant", weight_decay=0.0)
    copied = make("headed")
    traced, method = trace(copied, torch.zeros(1, *SHAPE)), slimming(form="prox", strength=0.062)
    hooks = method.attach(copied, traced, plan=PhasePlan(spec, n_steps=40))
    train(copied, ImageFeed(Noise()), spec, runtime=runtime(), seed=0, hooks=hooks)
    scores = method.rank(copied.eval(), traced, state=hooks.state.state_dict(), batches=())
    assert 1 <= (scores["hidden"] == 0).sum() < 10
    assert 1 <= sum((score == 0).sum() for name, score in scores.items() if name != "hidden") < 14
    assert np.array_equal(scores["hidden"] == 0, copied.hidden.weight.detach().eq(0).all(1).numpy())


def test_state_is_there_only_where_filters_stand_beside_scales(model):
    plan = PhasePlan(RECIPE, n_steps=100)
    assert slimming().attach(copy.deepcopy(model), trace(model, torch.zeros(1, 1, 8, 8)), plan=plan).state is None
    for name in ("headed", "bare"):
        network = make(name)
        traced = trace(network, torch.zeros(1, *SHAPE))
        assert slimming(acts_on="norms").attach(network, traced, plan=plan).state is None
        assert slimming().attach(network, traced, plan=plan).state.state_dict().keys() == {"unit"}


def test_all_frozen_is_refused_before_training(model):
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    traced = trace(copied, torch.zeros(1, 1, 8, 8))
    told = "must have a BatchNorm scale that trains .* the weights of 'bn1', .* and 6 more are frozen"
    with pytest.raises(NetworkError, match=told):
        slimming().attach(copied, traced, plan=PhasePlan(RECIPE, n_steps=100))
    slimming(acts_on="norms").attach(copied, traced, plan=PhasePlan(RECIPE, n_steps=100))


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"strength": 0.0}, r"`strength` must be in \(0, 1\], but got strength=0.0"),
        ({"strength": 1.5}, r"`strength` must be in \(0, 1\], but got strength=1.5"),
        ({"scale_decay": -0.1}, r"`scale_decay` must be in \[0, 1\], but got scale_decay=-0.1"),
        ({"strength": "much"}, r"`strength` must be a number, but got 'much'"),
    ],
)
def test_values_out_of_range(hyper, told):
    with pytest.raises(ConfigError, match=rf"^\[method\.slimming\]: {told}"):
        methods.build("slimming", hyper)


def test_default_ranges():
    found = methods.ranges()["slimming"]
    assert set(found) == {"form", "reach", "scored_by"}
    assert found["scored_by"].grid == ("size", "damage")
    assert found["reach"].grid == (1.0, 2.0, 4.0, 8.0)
    assert found["form"].grid == ("prox", "subgradient")
    assert methods.ranges()["slimming_mcp"]["knee"].grid == (0.1, 0.5, 1.0, 2.0)


# -- every penalty --------------------------------------------------------------------------------------------------


def test_every_penalty_is_a_method():
    names = {method.part: name for name, method in METHODS.items() if method.recipe is Slimming}
    assert names == {kind: f"slimming_{name}" if name != "l1" else "slimming" for name, kind in PENALTIES.items()}


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_the_penalty_s_own_gradient_is_added(name, model):
    method = slimming(name, strength=0.25, **({"knee": 0.75} if name in ("mcp", "scad") else {}))
    penalty = PENALTIES[name](strength=0.25, **({"knee": 0.75} if name in ("mcp", "scad") else {}))
    assert method.penalty == penalty
    gradients = added(method, model, trace(model, torch.zeros(1, 1, 8, 8)))
    for layer, gamma in scales(model).items():
        assert torch.equal(gradients[f"{layer}.weight"], penalty.gradient(gamma))


def test_the_penalty_s_own_checks_hold():
    with pytest.raises(ConfigError, match=r"^\[method\.slimming_mcp\]: `knee` must be greater than `strength`"):
        methods.build("slimming_mcp", {"strength": 0.5, "knee": 0.25})
    with pytest.raises(ConfigError, match=r"^\[method\.slimming_tl1\]: `bend` must be in \(0, 1000\]"):
        methods.build("slimming_tl1", {"bend": 0.0})


# -- proximal form --------------------------------------------------------------------------------------------------


def shrunk(method, model, recipe, rate):
    copied = copy.deepcopy(model)
    hooks = method.attach(copied, trace(copied, torch.zeros(1, 1, 8, 8)), plan=PhasePlan(recipe, n_steps=100))
    for parameter in copied.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    assert not any(parameter.grad.any() for parameter in copied.parameters())
    hooks.shrink(rate)
    return copied


@pytest.mark.parametrize(
    ("recipe", "gain"),
    [
        (TrainSpec(optimizer="sgd", momentum=0.9, learning_rate=0.1), 10),
        (TrainSpec(optimizer="sgd", momentum=0.0, learning_rate=0.1), 1),
        (TrainSpec(optimizer="adam", momentum=0.9, learning_rate=0.1), 1),
    ],
)
def test_the_step_is_as_long_as_a_constant_gradient_moves(model, recipe, gain):
    copied = shrunk(slimming("tl1", form="prox", strength=0.1), model, recipe, rate=0.05)
    for name, gamma in scales(copied).items():
        expected = TL1(0.1).prox(scales(model)[name], 0.05 * gain)
        torch.testing.assert_close(gamma, expected, rtol=1e-6, atol=1e-7)
    others = {name for name, tensor in copied.state_dict().items() if not torch.equal(tensor, model.state_dict()[name])}
    assert others == {f"{name}.weight" for name in scales(model)}


@pytest.mark.parametrize("pull", [0.5, 2.0])
def test_both_forms_have_the_same_points_of_rest(pull):
    """A task that pulls γ up by less than the strength loses, one that pulls by more wins, whatever the momentum."""
    strength, recipe = 0.01, TrainSpec(momentum=0.9, learning_rate=0.1)
    ends = {}
    for form in ("subgradient", "prox"):
        plain = make("plain")
        hooks = slimming(form=form, strength=strength).attach(
            plain, trace(plain, torch.zeros(1, *SHAPE)), plan=PhasePlan(recipe, n_steps=100)
        )
        gamma = plain.norm1.weight
        gamma.data.fill_(0.02)
        optimizer = torch.optim.SGD([gamma], 0.1, momentum=0.9)
        for _ in range(100):
            gamma.grad = torch.full_like(gamma, -pull * strength)
            hooks.transform_gradients()
            optimizer.step()
            hooks.shrink(0.1)
        ends[form] = gamma.mean().item()
    if pull < 1:
        assert ends["prox"] == 0.0
        assert abs(ends["subgradient"]) < 0.02  # it jitters about zero
    else:
        assert ends["prox"] == pytest.approx(ends["subgradient"], rel=0.2)
        assert ends["prox"] > 0.5


@pytest.mark.parametrize("penalty", sorted(PENALTIES))
def test_training_makes_exact_zeros(penalty):
    spec = TrainSpec(epochs=20, batch=16, learning_rate=0.05, schedule="constant", weight_decay=0.0)
    n_zero = {}
    for form in ("prox", "subgradient"):
        far = {"knee": 2.0} if penalty in ("mcp", "scad") else {}  # Beyond the knee nothing would pull.
        left = after_training(make("residual"), slimming(penalty, form=form, strength=0.05, **far), spec)
        n_zero[form] = sum(int((gamma == 0).sum()) for gamma in left.values())
    assert n_zero["subgradient"] == 0  # it jitters about zero
    assert 3 <= n_zero["prox"] < sum(gamma.numel() for gamma in left.values())


def test_a_step_that_is_too_long_is_refused_before_training(model):
    method, traced = slimming("mcp", form="prox", strength=0.05, knee=0.1), trace(model, torch.zeros(1, 1, 8, 8))
    with pytest.raises(ConfigError, match=r"proximal step of MCP needs `knee` above step size × strength = 0\.15"):
        method.attach(model, traced, plan=PhasePlan(TrainSpec(learning_rate=0.3, momentum=0.9), n_steps=100))
    method.attach(model, traced, plan=PhasePlan(TrainSpec(learning_rate=0.1, momentum=0.9), n_steps=100))
    method.attach(
        model, traced, plan=PhasePlan(TrainSpec(learning_rate=0.3, momentum=0.9, optimizer="adam"), n_steps=100)
    )


# -- norms of filters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "residual", "concatenated", "depthwise"])
@pytest.mark.parametrize("form", ["subgradient", "prox"])
def test_filters_shrink_as_one_vector(name, form):
    network = make(name)
    traced, before = trace(network, torch.zeros(1, *SHAPE)), copy.deepcopy(network)
    method = slimming("mcp", form=form, acts_on="norms", strength=0.5, knee=2.0)
    recipe = TrainSpec(learning_rate=0.05, momentum=0.0)
    hooks = method.attach(network, traced, plan=PhasePlan(recipe, n_steps=100))
    assert hooks.weight_decay == {}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    torch.optim.SGD(network.parameters(), 0.05).step()
    hooks.shrink(0.05)
    norms, left = (FilterNorm().score(found, traced, batches=()) for found in (before, network))
    penalty = MCP(0.5, 2.0)
    for group in traced.groups:
        x = torch.from_numpy(norms[group.name])
        goal = x - 0.05 * penalty.gradient(x) if form == "subgradient" else penalty.prox(x, 0.05)
        np.testing.assert_allclose(left[group.name], goal.numpy(), rtol=1e-5)
    changed = {key for key, tensor in network.state_dict().items() if not torch.equal(tensor, before.state_dict()[key])}
    writers = {m.module for g in traced.groups for m in g.members if m.axis == "out"}
    assert changed == {f"{w}.weight" for w in writers if isinstance(network.get_submodule(w), nn.Conv2d)}


def test_ranks_by_what_it_acts_on(model):
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    for acts_on, importance in (("scales", ScaleMagnitude()), ("norms", FilterNorm())):
        for kind in ("none", "max"):
            method = slimming(acts_on=acts_on, normalisation=kind)
            expected = normalise(importance.score(model, traced, batches=()), kind, traced.cost)
            scores = method.rank(model, traced, state={}, batches=())
            assert all(np.array_equal(score, expected[name]) for name, score in scores.items())


# -- reach ----------------------------------------------------------------------------------------------------------


def test_the_travel_of_a_phase():
    """352 steps at a peak of 0.02, momentum 0.9: a slope of 1 moves a weight by 35.4, by 70.4 at a constant rate."""
    spec = TrainSpec(learning_rate=0.02)
    assert travel(spec, 352, momentum=0.9) == pytest.approx(35.4, abs=0.1)
    constant = dataclasses.replace(spec, schedule="constant")
    assert travel(constant, 352, momentum=0.9) == pytest.approx(70.4)


@pytest.mark.parametrize(("optimizer", "way"), [("sgd", 70.4), ("adam", 7.04)])
def test_reach_is_in_typical_scales_and_phases(model, optimizer, way):
    """Median |γ| of 0.36: a reach of 2 is 0.72 in the whole phase."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.full_like(module.weight, -0.36))
    traced = trace(copied, torch.zeros(1, 1, 8, 8))
    plan = PhasePlan(TrainSpec(optimizer=optimizer, learning_rate=0.02, schedule="constant"), n_steps=352)
    hooks = slimming(reach=2.0, strength=1e-5).attach(copied, traced, plan=plan)
    for parameter in copied.parameters():
        parameter.grad = torch.zeros_like(parameter)
    hooks.transform_gradients()
    gradient = copied.bn1.weight.grad
    assert gradient.tolist() == pytest.approx([-2 * 0.36 / way] * len(gradient), rel=1e-5)


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_no_reach_is_too_far_for_a_penalty(model, name):
    """Knees bound the strength; a phase of a few steps asks for more than any."""
    copied = copy.deepcopy(model)
    traced = trace(copied, torch.zeros(1, 1, 8, 8))
    knees = {"knee": 0.1} if name in ("mcp", "scad") else {}
    method = slimming(name, reach=8.0, **knees)
    method.attach(copied, traced, plan=PhasePlan(RECIPE, n_steps=4))
    method.attach(copied, traced, plan=PhasePlan(RECIPE, n_steps=0))


def test_reach_is_searched_where_no_strength_is(tmp_path):
    ranges = methods.ranges()["slimming"]
    assert ranges["reach"].grid == (1.0, 2.0, 4.0, 8.0)
    assert "strength" not in ranges
    (tmp_path / "space.toml").write_text("""[space]
methods = ["slimming", "slimming_tl1"]
[method.slimming]
strength = [1e-3, 1e-2]
""")
    study = {"space": str(tmp_path / "space.toml")}
    space = find_space(study, {}, path=tmp_path / "study.toml", catalogue=methods.catalogue())
    assert "reach" not in space.methods["slimming"]
    assert "strength" in space.methods["slimming"]
    assert "reach" in space.methods["slimming_tl1"]


@dataclasses.dataclass(frozen=True)
class Own(L1):
    """One whose strength is searched, as those of others may be."""

    strength: float = option(1e-3, above=0, high=1, search={"values": (1e-3, 1e-2)})


def test_a_penalty_of_ones_own_that_searches_its_strength_has_no_reach_unasked():
    assert of_penalty(Own, "own").catalogue["reach"] is None
    assert Own().with_strength(0.5) == Own(0.5)
    assert Own().with_strength(5.0) == Own(1.0)
