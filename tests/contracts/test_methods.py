"""What every method keeps, on every kind of network: it attaches without a trace in the answers, pauses to the bit,
ranks every group, and what it leaves can be cut to any target."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import methods
from autoprune.config import Range, TrainSpec
from autoprune.cost import Limits
from autoprune.engine.contracts import Hooks, Method, PhasePlan
from autoprune.engine.files import publish, read_tensors
from autoprune.engine.folding import fold_constants
from autoprune.engine.images import Preprocess
from autoprune.engine.measuring import measure_damages
from autoprune.engine.surgery import cut, masked
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime, Samples
from autoprune.engine.training.loop import Training
from autoprune.errors import ConfigError, InfeasibleError, NetworkError
from autoprune.methods import METHODS
from autoprune.widths import WIDTH_RULES, Evidence, keep_best
from tests.small_networks import NETWORKS, SHAPE, UNSCALED, make

torch.set_num_threads(1)

RECIPE = TrainSpec(epochs=1, batch=8, learning_rate=0.02, augmentation="shift")
RUNTIME = Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))


class Blobs:
    """Two classes of noisy images."""

    shape = SHAPE

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(32) % 2
        noise = torch.randint(0, 100, (32, *SHAPE), generator=generator)
        self.images = (noise + 120 * self.labels[:, None, None, None]).to(torch.uint8)

    def __len__(self):
        return 32

    def read(self, index_batches):
        for indices in index_batches:
            yield self.images[indices]


BATCHES = Samples(Blobs(), RUNTIME, 32, seed=0)


def half(traced):
    return Limits(macs=0.5 * traced.cost.dense_macs)


@pytest.fixture(scope="module", params=list(METHODS))
def name(request):
    return request.param


@pytest.fixture(scope="module", params=sorted({**NETWORKS, **UNSCALED}))
def network(request):
    model = make(request.param)
    return model, trace(model, torch.zeros(1, *SHAPE))


def training(method, network, recipe=RECIPE):
    """A fresh attachment of the method, and its hooks."""
    model, traced = copy.deepcopy(network[0]), network[1]
    reason = ""
    try:
        hooks = method.attach(model, traced, plan=PhasePlan(recipe, n_steps=4, limits=half(traced)))
    except NetworkError as error:
        reason = str(error)
    if reason:
        pytest.skip(reason)
    return model, hooks, Training(model, ImageFeed(Blobs()), recipe, runtime=RUNTIME, seed=0, hooks=hooks)


@pytest.fixture(scope="module")
def phase(name, network):
    """The network and the method's own state after the sparsify phase, if it has one; to be copied before a change."""
    model, hooks, run = training(methods.build(name, {}), network)
    if METHODS[name].trains:
        run.run()
    model.eval()
    if hooks.fold is not None:
        hooks.fold(BATCHES)
    return model, hooks.state.state_dict() if hooks.state is not None else {}


def logits(model):
    inputs = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(inputs)


def relative(one, other):
    return float((one - other).abs().max() / other.abs().max())


def equal(one, other):
    return set(one) == set(other) and all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_builds_from_its_defaults_and_is_frozen(name):
    method = methods.build(name, {})
    assert isinstance(method, Method)
    assert METHODS[name].name == name
    assert type(method).__dataclass_params__.frozen
    assert method == methods.build(name, {})
    assert method == methods.build(name, METHODS[name].hyper_of(method))
    assert {field.metadata.keys() >= {"search"} for field in METHODS[name].fields.values()} <= {True}
    assert set(method.ranking) <= METHODS[name].fields.keys()
    assert METHODS[name].summary.endswith(".")
    assert "References:" in "".join(made_of.__doc__ for made_of in METHODS[name].classes)


# -- the sparsify phase ---------------------------------------------------------------------------------------------


def test_attaching_changes_no_answer(name, network):
    before = logits(network[0])
    model, hooks, _ = training(methods.build(name, {}), network)
    assert isinstance(hooks, Hooks)
    assert relative(logits(model), before) <= 1e-6


def test_weight_decay_of_prunable_scales_is_decided(name, network):
    model, hooks, _ = training(methods.build(name, {}), network)
    assert set(hooks.weight_decay) <= {key for key, _ in model.named_parameters()}
    assert all(decay >= 0 for decay in hooks.weight_decay.values())
    if METHODS[name].trains:
        scales = {f"{scale}.weight" for group in network[1].groups for scale in group.scales}
        assert scales <= set(hooks.weight_decay) or hooks.recipe is not None


def test_pausing_in_mid_phase_changes_no_bit(name, network, tmp_path):
    method = methods.build(name, {})
    if not method.trains:
        pytest.skip("has no sparsify phase")
    _, hooks, whole = training(method, network)
    whole.run()
    _, _, part = training(method, network)
    part.run(until=2)
    publish(tmp_path / "paused.safetensors", part.state_dict(), {})
    _, other, rest = training(method, network)
    rest.load_state_dict(read_tensors(tmp_path / "paused.safetensors"))
    assert (rest.step, rest.n_steps) == (2, 4)
    rest.run()
    assert equal(rest.state_dict(), whole.state_dict())  # weights, the method's state, optimizer, random numbers
    if hooks.state is not None:
        assert equal(other.state.state_dict(), hooks.state.state_dict())
        assert any(key.startswith("method:") for key in rest.state_dict())


def test_training_does_something_that_plain_training_does_not(name, network, phase):
    if not METHODS[name].trains:
        pytest.skip("has no sparsify phase")
    if name == "aofp" and not any(group.scales for group in network[1].groups):
        pytest.skip("has no scales whose weight decay is its own, and a half takes more steps than there are")
    plain = copy.deepcopy(network[0])
    Training(plain, ImageFeed(Blobs()), RECIPE, runtime=RUNTIME, seed=0).run()
    assert not equal(phase[0].state_dict(), plain.state_dict())


@pytest.mark.parametrize("network", ["plain", "residual"], indirect=True)
def test_chains_and_residual_networks_are_not_refused(name, network):
    method = methods.build(name, {})
    method.attach(copy.deepcopy(network[0]), network[1], plan=PhasePlan(RECIPE, n_steps=4, limits=half(network[1])))


def test_folding_changes_no_answer_and_leaves_the_networks_own_layers(name, network):
    model, hooks, run = training(methods.build(name, {}), network)
    if hooks.fold is None:
        pytest.skip("puts nothing into the network")
    run.run()
    trained = logits(model)
    hooks.fold(BATCHES)
    assert relative(logits(model), trained) <= 1e-4
    assert {key: tensor.shape for key, tensor in model.state_dict().items()} == {
        key: tensor.shape for key, tensor in network[0].state_dict().items()
    }
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


# -- what it leaves -------------------------------------------------------------------------------------------------


def test_ranks_every_group_and_leaves_the_network_alone(name, network, phase):
    method, traced, (model, state) = methods.build(name, {}), network[1], phase
    before = copy.deepcopy(model.state_dict())
    scores = method.rank(model, traced, state=state, batches=BATCHES)
    again = method.rank(model, traced, state=state, batches=BATCHES)
    assert list(scores) == [group.name for group in traced.groups]
    for group in traced.groups:
        assert scores[group.name].shape == (group.width,)
        assert scores[group.name].dtype == np.float64
        assert np.isfinite(scores[group.name]).all()
        assert len(np.unique(scores[group.name])) > 1
        assert np.array_equal(scores[group.name], again[group.name])
    assert equal(model.state_dict(), before)


@pytest.mark.parametrize("rule", ["uniform", "global", "aofp"])
def test_can_be_cut_to_any_target_and_answers_as_masked(name, network, phase, rule):
    method, traced, (model, state) = methods.build(name, {}), network[1], phase
    scores = method.rank(model, traced, state=state, batches=BATCHES)
    cost, least = traced.cost, {group.name: 1 for group in traced.groups}
    measure = functools.partial(measure_damages, model, traced, batches=BATCHES)
    for ratio in (1.0, 0.7, 0.3, cost.macs_ratio(least)):
        limits = Limits(macs=ratio * cost.dense_macs * (1 + 1e-12), min_widths=least)
        kept = keep_best(cost, scores, WIDTH_RULES[rule].widths(Evidence(cost, scores, measure=measure), limits))
        widths = {key: len(indices) for key, indices in kept.items()}
        assert cost.macs_ratio(widths) <= ratio * (1 + 1e-9)
        if ratio == 1.0:
            assert widths == dict(zip(cost.groups, cost.dense, strict=True))
        if ratio == cost.macs_ratio(least):
            assert widths == least
        for key, indices in kept.items():  # the best of each group
            assert scores[key][indices].min() >= max(np.delete(scores[key], indices), default=-np.inf)
        folded = fold_constants(model, traced, kept, silence=method.silence)
        pruned = cut(folded, traced.groups, kept)
        assert relative(logits(pruned), logits(masked(folded, traced.groups, kept))) <= 1e-5
    limits = Limits(macs=0.5 * cost.macs(least), min_widths=least)
    with pytest.raises(InfeasibleError, match="the smallest ones cost"):
        WIDTH_RULES[rule].widths(Evidence(cost, scores, measure=measure), limits)


def test_minimum_widths_and_ties_where_every_channel_is_dead(name, network, phase):
    """Nothing is left to tell channels apart, as after too strong a penalty: no group is emptied."""
    method, traced, (model, state) = methods.build(name, {}), network[1], copy.deepcopy(phase)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.Conv2d | nn.Linear):
                module.weight.zero_()
                if module.bias is not None:
                    module.bias.zero_()
    scores = method.rank(model, traced, state={k: torch.ones_like(v) for k, v in state.items()}, batches=BATCHES)
    least = {group.name: min(group.width, 3) for group in traced.groups}
    limits = Limits(macs=traced.cost.macs(least), min_widths=least)
    kept = keep_best(traced.cost, scores, WIDTH_RULES["global"].widths(Evidence(traced.cost, scores), limits))
    assert {key: len(indices) for key, indices in kept.items()} == least
    if name != "random":  # which still draws lots
        first = traced.groups[0].name
        assert kept[first].tolist() == list(range(least[first])), "ties go to the lower index"
    logits(cut(fold_constants(model, traced, kept, silence=method.silence), traced.groups, kept))


# -- hyper-parameters -----------------------------------------------------------------------------------------------


def ends(found):
    values = found.grid or (found.low, found.high)
    return values[0], values[-1]


def test_both_ends_of_every_range_are_valid(name):
    ranges = methods.ranges()[name]
    for corner in itertools.product(*(ends(found) for found in ranges.values())):
        hyper = dict(zip(ranges, corner, strict=True))
        method = methods.build(name, hyper)
        found = METHODS[name].hyper_of(method)
        assert {key: found[key] for key in hyper} == hyper


def test_every_choice_of_every_text_is_valid(name):
    for field in METHODS[name].fields.values():
        for choice in field.metadata["choices"] or ():
            assert getattr(methods.build(name, {field.name: choice}), field.name) == choice


def test_every_method_has_its_ranges():
    assert set(methods.ranges()) == set(METHODS)
    for name, ranges in methods.ranges().items():
        assert ranges.keys() <= METHODS[name].fields.keys()
        assert all(isinstance(found, Range) for found in ranges.values())


def test_unknown_hyper_parameters_are_refused(name):
    with pytest.raises(ConfigError, match=rf"^\[method\.{name}\]: there is no key 'strenght'"):
        methods.build(name, {"strenght": 1.0})


def test_unknown_methods_are_refused():
    with pytest.raises(ConfigError, match=r"^there is no method 'sliming'; did you mean 'slimming'\? Valid: "):
        methods.build("sliming", {})
