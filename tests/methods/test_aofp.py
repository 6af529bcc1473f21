"""Damage at the next layer against a real second pass, what masking does to the network, and how channels rank."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.config import TrainSpec
from autoprune.cost import Limits
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.surgery import cut, masked
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, NetworkError
from autoprune.importances import Damage, GroupNorm, normalise
from autoprune.methods import AOFP
from autoprune.methods._aofp import relative_damage, sole_readers
from autoprune.widths import WIDTH_RULES, Evidence, keep_best
from tests.small_networks import NETWORKS, SHAPE, conv, make

torch.set_num_threads(1)

TARGETS = {
    "plain": {"conv1": "conv2", "conv2": "fc"},
    "residual": {"inner1": "outer1", "inner2": "outer2", "outer2": "fc"},
    "concatenated": {"more": "fc"},
    "depthwise": {"expand": "project", "project": "grouped", "grouped": "fc"},
}
NORMS = {"conv2": "norm2", "outer1": "outer1_norm", "outer2": "outer2_norm"}
NORMS |= {"project": "project_norm", "grouped": "grouped_norm"}
PAIRS = [(network, group) for network, groups in TARGETS.items() for group in groups]


class Chain(nn.Module):
    """A circular convolution of two conv groups and linear layers, with a bias each; one BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 6, 3, stride=2, padding=1, padding_mode="circular", groups=2)
        self.fc1, self.norm, self.fc2 = nn.Linear(6 * 16, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc2(F.relu(self.norm(self.fc1(x.flatten(1)))))


def inputs(n=16, seed=1, dtype=torch.float64):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attached(model, *, macs_target=0.1, n_steps=100, least=None, **hyper):
    """The model, now watched, what tracing it gave, and the hooks."""
    traced = trace(copy.deepcopy(model).float(), torch.zeros(1, *SHAPE))
    plan = PhasePlan(TrainSpec(), n_steps, Limits(macs=macs_target * traced.cost.dense_macs, min_widths=least or {}))
    return model, traced, AOFP(**hyper).attach(model, traced, plan=plan)


def with_masks(hooks, traced, share=0.4, seed=0):
    """Mask some channels of every target; the channels that are kept, by group."""
    state = {key: tensor.clone() for key, tensor in hooks.state.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in traced.groups:
        if f"{group.name}:kept" in state:
            gone = torch.randperm(group.width, generator=generator)[: max(1, int(share * group.width))]
            state[f"{group.name}:kept"][gone] = state[f"{group.name}:searched"][gone] = False
            state[f"{group.name}:order"][gone] = 1 + torch.arange(len(gone))
            kept[group.name] = state[f"{group.name}:kept"].nonzero()[:, 0].numpy()
    hooks.state.load_state_dict(state)
    return kept


def measured(model, hooks, name):
    """What is left out in one step, and the damage."""
    hooks.state.load_state_dict({**hooks.state.state_dict(), "step": torch.tensor(1000)})  # all groups have begun
    model.train()(inputs())
    hooks.after_step()
    state = hooks.state.state_dict()
    drawn = state[f"{name}:count"].nonzero()[:, 0]
    damages = state[f"{name}:sum"][drawn]
    assert damages.unique().numel() == 1
    return drawn, damages[0].item()


def seen_by(model, reader, x):
    """What a layer reads in a training step of a copy."""
    copied, seen = copy.deepcopy(model), []
    copied.get_submodule(reader).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        copied.train()(x)
    return seen[0]


def second_pass(reader, norm, x, gone, out_mask):
    """The relative damage by definition: both paths through layer and BatchNorm, with the statistics of the first."""
    without = x.index_fill(1 if x.dim() > 2 else -1, gone, 0.0)
    with torch.no_grad():
        base, ablated = reader(x), reader(without)
        if norm is not None:
            mean, variance = base.transpose(0, 1).flatten(1).mean(1), base.transpose(0, 1).flatten(1).var(1, False)
            both = [
                F.batch_norm(z, mean, variance, norm.weight, norm.bias, False, 0.0, norm.eps) for z in (base, ablated)
            ]
            torch.testing.assert_close(both[0], copy.deepcopy(norm).train()(base), rtol=1e-12, atol=1e-12)
            base, ablated = both
    mask = out_mask.view(1, -1, *[1] * (base.dim() - 2))
    return ((base - ablated) * mask).square().sum().item() / (base * mask).square().sum().item()


# -- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize(("network", "name"), PAIRS)
def test_damage_is_that_of_a_second_pass(network, name, is_masked):
    model, traced, hooks = attached(make(network).double(), theta=1e-9)
    plain, kept = copy.deepcopy(make(network).double()), {}
    if is_masked:
        kept = with_masks(hooks, traced)
        plain = masked(plain, traced.groups, kept)
    if not is_masked or traced.group(name).width > 3:  # else there is nothing left to search
        drawn, damage = measured(model, hooks, name)
        assert len(drawn) == len(kept.get(name, range(traced.group(name).width))) // 2
        reader = TARGETS[network][name]
        layer, norm = plain.get_submodule(reader), plain.get_submodule(NORMS[reader]) if reader in NORMS else None
        gone = torch.from_numpy(traced.group(name).member(reader, "in").index)[drawn].flatten()
        out_mask = torch.ones(layer.weight.shape[0], dtype=torch.float64)
        for other, indices in kept.items():
            group = traced.group(other)
            if other in TARGETS[network] and any((m.module, m.axis) == (reader, "out") for m in group.members):
                out_mask[np.delete(group.member(reader).index, indices, axis=0).ravel()] = 0
        assert bool((out_mask == 0).any()) == (is_masked and reader in {"conv2", "project", "grouped", "outer2"})
        expected = second_pass(layer, norm, seen_by(plain, reader, inputs()), gone, out_mask)
        assert damage == pytest.approx(expected, rel=1e-10)
        assert 0.001 < damage < 3


@pytest.mark.parametrize(
    ("name", "reader", "norm"), [("conv1", "conv2", None), ("conv2", "fc1", "norm"), ("fc1", "fc2", None)]
)
def test_damage_leaves_biases_out_of_the_difference(name, reader, norm):
    torch.manual_seed(0)
    model, traced, hooks = attached(Chain().double(), theta=1e-9)
    plain = copy.deepcopy(model)
    for module in plain.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    drawn, damage = measured(model, hooks, name)
    assert len(drawn) == {"conv1": 2, "conv2": 1, "fc1": 3}[name]
    layer = plain.get_submodule(reader)
    gone = torch.from_numpy(traced.group(name).member(reader, "in").index)[drawn].flatten()
    x, everything = seen_by(plain, reader, inputs()), torch.ones(len(layer.weight), dtype=torch.float64)
    expected = second_pass(layer, getattr(plain, norm) if norm else None, x, gone, everything)
    assert damage == pytest.approx(expected, rel=1e-10)


def test_a_frozen_norm_is_taken_with_the_statistics_that_it_uses():
    model = make("plain").double()
    x = torch.rand(4, 8, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gone, norm = torch.tensor([1, 4]), model.norm2.eval()
    z = model.conv2(x)
    base, ablated = norm(z), norm(model.conv2(x.index_fill(1, gone, 0.0)))
    expected = (base - ablated).square().sum() / base.square().sum()
    found = relative_damage(model.conv2, x, z, positions=gone, norm=norm)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_damage_of_a_layer_that_says_nothing_is_finite():
    layer = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(layer.weight)
    x = torch.ones(5, 4)
    assert relative_damage(layer, x, layer(x), positions=torch.tensor([0])).item() == 0.0
    nn.init.constant_(layer.weight, 1e-4)  # z is 4e-4, of a mean square 1.6e-7 that is below the floor of 1e-6
    damage = relative_damage(layer, x, layer(x), positions=torch.tensor([0])).item()
    assert damage == pytest.approx(1e-8 / 1e-6, rel=1e-5)


def test_damage_is_float32_under_mixed_precision():
    model, _, hooks = attached(make("plain"), theta=1e-9)
    x = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(x)
        read = torch.rand(4, 8, 8, 8)
        damage = relative_damage(model.conv2, read, model.conv2(read), positions=torch.tensor([0, 3]), norm=model.norm2)
        z, part = model.conv2(read), F.conv2d(read[:, :3], model.conv2.weight[:, :3], padding=1)
        bare = relative_damage(model.conv2, read, z, positions=torch.arange(3))
    assert (z.dtype, part.dtype, bare.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    expected = part.double().square().sum() / z.double().square().sum()
    assert bare.item() == pytest.approx(expected.item(), rel=1e-5)
    exact = relative_damage(model.conv2, read, model.conv2(read), positions=torch.tensor([0, 3]), norm=model.norm2)
    assert (damage.dtype, exact.dtype) == (torch.float32, torch.float32)
    assert damage.item() == pytest.approx(exact.item(), rel=0.02)
    assert damage.item() != exact.item()
    hooks.after_step()
    sums = hooks.state.state_dict()["conv1:sum"]
    assert sums.dtype == torch.float64
    assert sums.float().double().equal(sums), "what was added was float32"


# -- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_watching_leaves_outputs_statistics_and_gradients_as_they_are(network):
    model, _, hooks = attached(make(network).double())
    plain = make(network).double().train()
    for one in (model.train(), plain):
        one(inputs()).square().mean().backward()
    hooks.after_step()
    assert any(tensor.any() for key, tensor in hooks.state.state_dict().items() if key.endswith(":count"))
    assert all(tensor.equal(model.state_dict()[key]) for key, tensor in plain.state_dict().items())
    gradients = dict(model.named_parameters())
    assert all(parameter.grad.equal(gradients[key].grad) for key, parameter in plain.named_parameters())


def test_nothing_is_measured_where_nothing_is_trained():
    model, _, hooks = attached(make("plain"))
    model.train()(inputs(dtype=torch.float32))
    hooks.after_step()
    model.eval()(inputs(dtype=torch.float32))
    with torch.no_grad():
        model.train()(inputs(dtype=torch.float32))
    hooks.after_step()
    state = hooks.state.state_dict()
    assert (int(state["step"]), int(state["conv1:n_recorded"]), int(state["conv2:n_recorded"])) == (2, 1, 0)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_masks_act_as_surgery_does_and_fold_into_weights(network):
    dense = make(network).double()
    model, traced, hooks = attached(copy.deepcopy(dense))
    kept = with_masks(hooks, traced)
    assert set(kept) == set(TARGETS[network])
    with torch.no_grad():
        found = model.eval()(inputs())
        torch.testing.assert_close(found, cut(dense, traced.groups, kept)(inputs()), rtol=1e-10, atol=1e-12)
        assert not torch.allclose(found, dense(inputs()))
        hooks.fold([])
        torch.testing.assert_close(model(inputs()), found, rtol=1e-10, atol=1e-12)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    expected = masked(dense, traced.groups, kept).state_dict()
    assert all(tensor.equal(expected[key]) for key, tensor in model.state_dict().items())


def test_masked_channels_get_no_gradient():
    model, traced, hooks = attached(make("plain").double())
    kept = with_masks(hooks, traced)
    model.train()(inputs()).square().mean().backward()
    gone = np.delete(np.arange(8), kept["conv1"])
    assert not model.conv2.weight.grad[:, gone].any()
    assert not model.conv1.weight.grad[gone].any()
    assert model.conv1.weight.grad[kept["conv1"]].any()


def train(model, hooks, steps):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in steps:
        x = inputs(8, seed=step, dtype=torch.float32)
        optimizer.zero_grad()
        F.cross_entropy(model.train()(x), torch.arange(8) % 4).backward()
        optimizer.step()
        hooks.after_step()


@pytest.mark.parametrize("network", ["plain", "residual", "depthwise"])
def test_masks_to_the_target_and_no_further(network):
    torch.manual_seed(0)
    model, traced, hooks = attached(make(network), theta=5.0, samples=2, macs_target=0.6)
    train(model, hooks, range(40))
    state, cost = hooks.state.state_dict(), traced.cost
    widths = {name: int(state[f"{name}:kept"].sum()) for name in TARGETS[network]}
    last = max(widths, key=lambda name: int(state[f"{name}:order"].max()))
    assert cost.macs(widths) <= 0.6 * cost.dense_macs < cost.macs({**widths, last: widths[last] + 1})
    hooks.fold([])
    scores = AOFP().rank(model.eval(), traced, state=state, batches=[(torch.randn(8, *SHAPE), None)])
    limits = Limits(macs=0.6 * cost.dense_macs, min_widths={})
    kept = keep_best(cost, scores, WIDTH_RULES["global"].widths(Evidence(cost, scores), limits))
    for name in widths:
        assert set(state[f"{name}:kept"].nonzero()[:, 0].tolist()) <= set(kept[name].tolist())
        assert ((scores[name] > 0) == state[f"{name}:kept"].numpy()).all()
    assert all(len(kept[group.name]) == group.width for group in traced.groups if group.name not in widths)


def test_minimum_widths_and_warmup():
    torch.manual_seed(0)
    model, _, hooks = attached(
        make("plain"), theta=9.0, samples=1, n_steps=40, warmup=0.25, least={"conv1": 3, "conv2": 6}
    )
    train(model, hooks, range(10))
    assert int(hooks.state.state_dict()["conv1:kept"].sum()) == 8
    train(model, hooks, range(10, 30))
    state = hooks.state.state_dict()
    assert (int(state["conv1:kept"].sum()), int(state["conv2:kept"].sum())) == (3, 6)
    assert not state["conv2:count"].any()


def test_pausing_changes_no_bit():
    torch.manual_seed(0)
    options = {"theta": 0.4, "samples": 2, "macs_target": 0.2}
    model, _, hooks = attached(make("plain"), **options)
    torch.manual_seed(1)
    train(model, hooks, range(9))
    saved = copy.deepcopy((model.state_dict(), hooks.state.state_dict(), torch.get_rng_state()))
    train(model, hooks, range(9, 30))
    other, _, resumed = attached(make("plain", seed=3), **options)
    other.load_state_dict(saved[0])
    resumed.state.load_state_dict(saved[1])
    torch.set_rng_state(saved[2])
    train(other, resumed, range(9, 30))
    for one, two in ((model, other), (hooks.state, resumed.state)):
        assert all(tensor.equal(two.state_dict()[key]) for key, tensor in one.state_dict().items())
    states = (saved[1], hooks.state.state_dict())
    orders = [max(int(state[f"{name}:order"].max()) for name in TARGETS["plain"]) for state in states]
    assert 0 < orders[0] < orders[1], "some were masked before the pause, others after it"


# -- targets and ranking --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_targets_are_groups_with_one_reader(network):
    model = make(network)
    found = sole_readers(model, trace(model, torch.zeros(1, *SHAPE)))
    assert {name: member.module for name, member in found.items()} == TARGETS[network]


def test_a_network_without_such_a_group_is_refused():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.one, self.other = conv(1, 6), nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, x):
            x = F.relu(self.stem(x)).mean((2, 3))
            return self.one(x) + self.other(x)

    message = r"^aofp needs a channel group that exactly one .* combines, .* but several read 'stem'\. Use another"
    with pytest.raises(NetworkError, match=message):
        attached(Fork())


def test_streams_are_ranked_by_damage_as_all_that_is_left():
    """So some of their channels rank below others of channels that were judged, where they ranked above all of them."""
    torch.manual_seed(0)
    model, traced, hooks = attached(make("residual"), theta=1e-9, samples=10)
    train(model, hooks, range(30))
    hooks.fold([])
    state, batches = hooks.state.state_dict(), [(torch.randn(8, *SHAPE), None)]
    scores = AOFP().rank(model.eval(), traced, state=state, batches=batches)
    expected = Damage().score(model, traced, batches=batches)
    for name, score in scores.items():
        np.testing.assert_allclose(score, np.maximum(expected[name], np.finfo(np.float64).tiny), rtol=1e-12)
    assert scores["stem"].min() < max(scores[name].max() for name in TARGETS["residual"])


def test_streams_rank_above_all_that_was_judged():
    torch.manual_seed(0)
    model, traced, hooks = attached(make("residual"), theta=1e-9, samples=10)
    train(model, hooks, range(30))
    hooks.fold([])
    state = hooks.state.state_dict()
    scores = AOFP(streams="whole").rank(model.eval(), traced, state=state, batches=())
    norms = normalise(GroupNorm().score(model, traced, batches=()), "mean", traced.cost)
    assert list(scores) == ["stem", "inner1", "inner2", "outer2"]
    np.testing.assert_array_equal(scores["inner1"], state["inner1:damage"].numpy())
    top = max(scores[name].max() for name in TARGETS["residual"])
    np.testing.assert_allclose(scores["stem"], 1 + top + norms["stem"], rtol=1e-12)


def test_weight_decay_of_gamma_is_its_own():
    hooks = attached(make("residual"), scale_decay=0.25)[2]
    names = ("stem", "inner1", "outer1", "inner2", "outer2", "skip")
    assert hooks.weight_decay == {f"{name}_norm.weight": 0.25 for name in names}


@pytest.mark.parametrize(
    ("key", "value", "interval"),
    [
        ("theta", 0.0, r"\(0, 10\]"),
        ("samples", 0, r"\[1, 1000000\]"),
        ("mask_ratio", 1.0, r"\(0, 1\)"),
        ("warmup", 1.0, r"\[0, 1\)"),
        ("scale_decay", -0.1, r"\[0, 1\]"),
    ],
)
def test_values_out_of_range(key, value, interval):
    with pytest.raises(ConfigError, match=rf"^`{key}` must be in {interval}, but got {key}={value}"):
        AOFP(**{key: value})
