"""BWCP in a network: what it adds to the gradients, how it ramps up, pauses and folds, and what it decides against."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.compactors import Gate, Whitening
from autoprune.compactors._whitening import activation_probability, effective
from autoprune.config import TrainSpec
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.folding import sites
from autoprune.engine.images import Preprocess
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.engine.training import ImageFeed, Runtime
from autoprune.engine.training.loop import Training
from autoprune.errors import ConfigError, NetworkError
from autoprune.methods import BWCP
from autoprune.methods._bwcp import share_at
from tests.small_networks import SHAPE, make

torch.set_num_threads(1)

RECIPE = TrainSpec(epochs=1, batch=4, learning_rate=0.02)


class Noise:
    """Sixteen images of noise in two classes."""

    shape = SHAPE

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(16) % 2
        self.images = torch.randint(0, 256, (16, *SHAPE), generator=generator).to(torch.uint8)

    def __len__(self):
        return 16

    def read(self, index_batches):
        for indices in index_batches:
            yield self.images[indices]


def attached(name="plain", *, n_steps=4, dtype=torch.float32, change=None, exclude=(), **hyper):
    model = make(name).to(dtype)
    if change is not None:
        change(model)
    traced = trace(model, torch.zeros(1, *SHAPE, dtype=dtype), exclude=list(exclude))
    hooks = BWCP(**hyper).attach(model, traced, plan=PhasePlan(RECIPE, n_steps=n_steps))
    return model, traced, hooks


def trained(name="plain", *, until=None, precision="float32", **options):
    model, traced, hooks = attached(name, **options)
    runtime = Runtime(torch.device("cpu"), precision, Preprocess((0.5,), (0.25,)))
    run = Training(model, ImageFeed(Noise()), RECIPE, runtime=runtime, seed=0, hooks=hooks)
    run.run(until=until)
    return model, traced, hooks, run


def inputs(dtype=torch.float32, seed=1):
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whitenings(model):
    return [module for module in model.modules() if isinstance(module, Whitening)]


# -- each step ------------------------------------------------------------------------------------------------------


def test_the_share_rises_linearly():
    assert [share_at(step, 4) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert share_at(0, 0) == 1.0
    model, _, hooks = attached(n_steps=8, warmup=0.5)
    found = []
    for _ in range(6):
        found.append({whitening.gate.share for whitening in whitenings(model)})
        hooks.after_step()
    assert found == [{0.0}, {0.25}, {0.5}, {0.75}, {1.0}, {1.0}]


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_begins_as_the_network_itself_in_training_mode_too(name):
    expected = make(name).train()(inputs())
    model, _, _ = attached(name, warmup=0.5)
    torch.testing.assert_close(model.train()(inputs()), expected, rtol=1e-5, atol=1e-5)
    sudden, _, _ = attached(name, warmup=0.0)
    assert not torch.allclose(sudden.train()(inputs()), expected, rtol=0.1)


def test_the_sparsity_loss_pulls_on_scales_and_shifts():
    model, traced, hooks = attached("residual", n_steps=8, warmup=0.5, gamma_strength=0.01, shift_ratio=3.0)
    norms = {site.norm for places in sites(make("residual"), traced).values() for site in places}
    with torch.no_grad():
        model.stem_norm.weight[:2] = torch.tensor([0.0, -0.3])
    for share in (0.0, 0.25):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        model.skip_norm.weight.grad = None
        hooks.transform_gradients()
        for name, parameter in model.named_parameters():
            layer, _, leaf = name.rpartition(".")
            if layer not in norms:
                assert not parameter.grad.any(), name
            elif name != "skip_norm.weight":
                slope = 0.01 * parameter.detach().sign() if leaf == "weight" else torch.full_like(parameter, 0.03)
                torch.testing.assert_close(parameter.grad, share * slope, rtol=1e-6, atol=0)
        hooks.after_step()
    assert model.stem_norm.weight.grad[:2].tolist() == pytest.approx([0, -0.0025])
    assert model.skip_norm.weight.grad is None


def test_shifts_do_not_drift_below_the_floor():
    model, _, hooks = attached(floor=0.5)
    with torch.no_grad():
        model.norm1.bias.copy_(torch.linspace(-4, 3, 8))
    hooks.shrink(0.1)
    assert model.norm1.bias.tolist() == pytest.approx([-0.5, -0.5, -0.5, -0.5, 0, 1, 2, 3])


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_attaching_changes_no_answer_and_no_mode(name):
    expected = make(name)(inputs())
    model, _, _ = attached(name)  # in evaluation mode, as the network was
    assert (model(inputs()) - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert not any(module.training for module in whitenings(model))


def test_weight_decay_of_scales_and_shifts_is_its_own():
    _, _, hooks = attached("depthwise", exclude=["project", "grouped"], scale_decay=0.25)
    names = {f"{norm}.{leaf}" for norm in ("expand_norm", "each_norm") for leaf in ("weight", "bias")}
    assert hooks.weight_decay == dict.fromkeys(names, 0.25)


def test_one_whitening_for_each_branch_and_one_gate_for_each_group():
    model, traced, _ = attached("residual")
    places = sites(make("residual"), traced)
    gates = [model.get_submodule(site.norm).autoprune_compactor.gate for found in places.values() for site in found]
    assert len(gates) == len(whitenings(model)) == 6
    assert [gates.index(gate) for gate in gates] == [0, 0, 2, 3, 4, 4]
    assert all(isinstance(gate, Gate) for gate in gates)
    assert not [name for name, _ in model.named_parameters() if "autoprune" in name]


@pytest.mark.parametrize("hyper", [{}, {"std": "exact"}, {"joint": "sum"}])
def test_dead_groups_and_bfloat16_stay_finite(hyper):
    def kill(model):
        with torch.no_grad():
            model.inner1_norm.weight.zero_()
            model.outer2_norm.weight.fill_(1e-4)
            model.outer2_norm.bias.fill_(2.997)

    for precision in ("float32", "bfloat16"):
        model, _, hooks, run = trained("residual", precision=precision, change=kill, warmup=0.0, **hyper)
        assert run.step == 4
        assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
        assert torch.isfinite(hooks.state.state_dict()["probability"]).all()
        assert all(whitening.running.dtype == torch.float32 for whitening in whitenings(model))


# -- pausing, folding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", ["paper", "exact"])
def test_pausing_in_mid_ramp_changes_no_bit(std):
    options = {"warmup": 0.75, "std": std}
    *_, whole = trained("residual", **options)
    *_, paused = trained("residual", until=2, **options)
    saved = paused.state_dict()
    assert int(saved["method:step"]) == 2
    model, _, hooks, rest = trained("residual", until=0, **options)
    rest.load_state_dict(saved)
    assert {whitening.gate.share for whitening in whitenings(model)} == {2 / 3}
    rest.run()
    expected, found = whole.state_dict(), rest.state_dict()
    assert set(expected) == set(found)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert int(hooks.state.state_dict()["step"]) == 4


def test_the_state_outlives_the_fold():
    model, traced, hooks, _ = trained("residual", warmup=0.25, joint="product", start=0.0)
    model.eval()
    before = copy.deepcopy(hooks.state.state_dict())
    assert before["probability"].shape == (26,)
    expected = []
    for group in traced.groups:
        places, product = sites(make("residual"), traced)[group.name], 1
        for one in whitenings(model):
            for site in places:
                norm = model.get_submodule(site.norm)
                if any(branch is one and owner is norm for branch, owner in one.gate._branches):
                    running = one.running.double()
                    shift, scale = (effective(running, x.detach().double()) for x in (norm.bias, norm.weight))
                    product = product * activation_probability(shift, scale, margin=0.05)
        expected.append(product)
    torch.testing.assert_close(before["probability"], torch.cat(expected), rtol=1e-12, atol=0)
    answers = model(inputs())
    hooks.fold([(inputs(seed=seed), torch.zeros(4)) for seed in range(2)])
    after = hooks.state.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert (model(inputs()) - answers).abs().max() <= 1e-5 * answers.abs().max()
    assert set(model.state_dict()) == set(make("residual").state_dict())


def shift(model):
    """Some channels active, some not, in every group, also where probabilities of two branches are multiplied."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.copy_(torch.linspace(-1, 2.5, len(module.bias)))


@pytest.mark.parametrize("joint", ["product", "sum"])
@pytest.mark.parametrize("name", ["plain", "residual"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_hard_gates_answer_as_the_cut_network(name, joint, dtype, tolerance):
    """Cut channels still enter the whitening of the others; at borders too, since the convolutions pad."""
    model, traced, hooks = attached(name, dtype=dtype, change=shift, group_size=3, joint=joint, start=0.0)
    generator = torch.Generator().manual_seed(2)
    for one in whitenings(model):
        one.running.add_(torch.randn(one.running.shape, generator=generator).to(dtype) / 8)
    scores = BWCP().rank(model, traced, state=hooks.state.state_dict(), batches=())
    kept = {key: np.flatnonzero(score > 0) for key, score in scores.items()}
    assert all(0 < len(kept[group.name]) < group.width for group in traced.groups)
    gated = copy.deepcopy(model)
    for key, found in sites(make(name).to(dtype), traced).items():
        for site in found:
            running = gated.get_submodule(site.norm).autoprune_compactor.running
            for channel in np.flatnonzero(scores[key] <= 0).tolist():
                running[channel // 3, channel % 3] = 0
    hooks.fold([(inputs(dtype, seed), torch.zeros(4)) for seed in range(3)])
    with torch.no_grad():
        expected, found = gated(inputs(dtype)), cut(model, traced.groups, kept)(inputs(dtype))
    assert not torch.allclose(expected, model(inputs(dtype)), rtol=0.01)
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


# -- ranking --------------------------------------------------------------------------------------------------------


def test_channels_below_the_threshold_are_decided_against():
    model, traced, _ = attached("plain")
    probability = torch.tensor([*np.linspace(0, 1, 8), 0.5, 0.4, 0.6, 1.0, 0.0, 0.5], dtype=torch.float64)
    scores = BWCP().rank(model, traced, state={"probability": probability}, batches=())
    assert list(scores) == ["conv1", "conv2"]
    assert (scores["conv1"] > 0).tolist() == [False] * 4 + [True] * 4
    assert scores["conv2"].tolist() == pytest.approx([0, -0.1, 0.1, 0.5, -0.5, 0], abs=1e-12)
    assert (scores["conv2"] > 0).tolist() == [False, False, True, True, False, False]
    assert scores["conv2"].dtype == np.float64
    stricter = BWCP(threshold=0.7).rank(model, traced, state={"probability": probability}, batches=())
    assert (stricter["conv2"] > 0).tolist() == [False, False, False, True, False, False]
    assert np.array_equal(np.argsort(stricter["conv1"]), np.argsort(scores["conv1"]))


def test_a_sum_is_active_where_one_branch_is():
    """Four branches that are each active half of the time are all but never so together."""
    branches = [nn.BatchNorm2d(1) for _ in range(4)]
    for of_sum, expected in ((False, 0.0625), (True, 0.5)):
        gate = Gate(margin=0.0, of_sum=of_sum)
        for norm in branches:
            Whitening(norm, gate)
        assert gate.probability().item() == pytest.approx(expected, abs=1e-12)


def test_channels_of_the_dense_network_begin_open():
    """However rarely they fire; in the paper's form most of them would begin shut."""

    def rare(model):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.data.fill_(1.0)
                module.bias.data.copy_(torch.linspace(-0.8, 0.4, len(module.bias)))

    model, _, hooks = attached("residual", change=rare, start=0.9)
    first = hooks.state.state_dict()["probability"]
    assert first.tolist() == pytest.approx([0.9] * 26, abs=1e-6)
    plain = attached("residual", change=rare, start=0.0)[2].state.state_dict()["probability"]
    assert (plain < 0.5).any()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias -= 2.0
    assert (hooks.state.state_dict()["probability"] < 0.5).all()


def test_whitening_keeps_the_variance_of_a_block():
    """In the paper's form the features of a block of four would vary twice as much."""

    def loud(model):  # All gates are open: what is left is the whitening.
        model.norm1.bias.data.fill_(100.0)

    def spread(variance):
        model, _, _ = attached(
            "plain", change=loud, warmup=0.0, start=0.0, variance=variance, group_size=4, iterations=20
        )
        one = whitenings(model)[0]
        norm, x = model.norm1, torch.randn(64, 8, 6, 6, generator=torch.Generator().manual_seed(0))
        one.train()
        out = norm.train()(x)
        return (out - out.mean((0, 2, 3), keepdim=True)).square().mean((0, 2, 3)).detach(), norm.weight.detach()

    kept, gamma = spread("kept")
    energy = gamma.square().reshape(2, 4).sum(1)
    assert kept.reshape(2, 4).sum(1).tolist() == pytest.approx(energy.tolist(), rel=1e-3)
    grown, _ = spread("paper")
    torch.testing.assert_close(grown, 4 * kept, rtol=1e-3, atol=0)


def test_groups_without_a_place_are_refused():
    with pytest.raises(NetworkError, match=r"^channels of group 'left' must be written by convolutions"):
        attached("concatenated")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("gamma_strength", -1e-3, r"in \[0, 1\]"),
        ("shift_ratio", -0.5, r"in \[0, 100\]"),
        ("temperature", 0.0, r"in \[0.01, 10\]"),
        ("margin", -0.1, r"in \[0, 10\]"),
        ("iterations", 0, r"in \[1, 20\]"),
        ("group_size", 0, r"in \[1, 65536\]"),
        ("rate", 0.0, r"in \(0, 1\]"),
        ("warmup", 1.0, r"in \[0, 1\)"),
        ("start", 1.0, r"in \[0, 1\)"),
        ("floor", 0.0, r"in \(0, 100\]"),
        ("scale_decay", 2.0, r"in \[0, 1\]"),
        ("threshold", 1.0, r"in \(0, 1\)"),
    ],
)
def test_values_out_of_range(key, value, told):
    with pytest.raises(ConfigError, match=rf"^`{key}` must be {told}, but got {key}={value}"):
        BWCP(**{key: value})


@pytest.mark.parametrize(("key", "value"), [("std", "papr"), ("joint", "sums"), ("variance", "keep")])
def test_unknown_choices(key, value):
    with pytest.raises(ConfigError, match=rf"^`{key}`: there is no choice '{value}'; did you mean"):
        BWCP(**{key: value})


def test_a_running_estimate_trains_pauses_and_folds():
    model, traced, hooks = attached("residual", whitening="running")
    estimates = [module.estimate for module in model.modules() if isinstance(module, Whitening)]
    assert len(estimates) == 6
    runtime = Runtime(torch.device("cpu"), "float32", Preprocess((0.5,), (0.25,)))
    run = Training(model, ImageFeed(Noise()), RECIPE, runtime=runtime, seed=0, hooks=hooks)
    run.run()
    assert all((each - torch.eye(each.shape[-1])).abs().max() > 1e-3 for each in estimates)
    assert any(key.endswith("estimate") for key in run.state_dict())
    images = torch.randn(4, *SHAPE)
    with torch.no_grad():
        before = model.eval()(images)
        hooks.fold([(torch.randn(64, *SHAPE), torch.zeros(64))])
        torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-5)
    assert len(traced.groups) == 4
