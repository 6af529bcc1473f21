"""Implicit sparsity: what starves a scale and how fast, what is dead, and what its constants become."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune import methods
from autoprune.config import TrainSpec
from autoprune.engine.contracts import PhasePlan
from autoprune.engine.folding import fold_constants, silent_channels
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.engine.training.loop import _optimizer
from autoprune.errors import ConfigError, DataError, NetworkError
from autoprune.importances import ScaleMagnitude
from autoprune.methods import Implicit
from autoprune.methods._implicit import universality
from autoprune.methods._sizes import sizes
from tests.small_networks import NETWORKS, SHAPE, UNSCALED, make

torch.set_num_threads(1)


def batches(n=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(6, *SHAPE, generator=generator), torch.zeros(6, dtype=torch.int64)) for _ in range(n)]


# -- what starves a scale -------------------------------------------------------------------------------------------


def time_to_death(method, recipe):
    """Steps that an idle γ of 0.5 takes to 1e-3, by the optimizer that the engine makes of method and recipe."""
    model = make("plain")
    hooks = method.attach(model, trace(model, torch.zeros(1, *SHAPE)), plan=PhasePlan(recipe, n_steps=100))
    scalar = nn.Module()
    scalar.gamma = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
    optimizer, steps = _optimizer(scalar, hooks.recipe, hooks), 0
    while scalar.gamma.item() > 1e-3:
        scalar.gamma.grad = torch.zeros_like(scalar.gamma)
        optimizer.step()
        steps += 1
    return steps


@pytest.mark.parametrize(("decay", "steps"), [(1e-3, 1396), (1e-4, 1396), (1e-5, 1401)])
def test_adam_starves_an_idle_scale_whatever_the_decay(decay, steps):
    method = Implicit(optimizer="adam_l2", learning_rate=1e-3, decay=decay)
    assert time_to_death(method, TrainSpec()) == pytest.approx(steps, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "decay", "steps"), [("adamw", 0.1, 62_143), ("sgd_l2", 1e-4, 62_096)])
def test_others_take_their_time(optimizer, decay, steps):
    method = Implicit(optimizer=optimizer, learning_rate=1e-3, decay=decay)
    assert time_to_death(method, TrainSpec(learning_rate=0.1, momentum=0.9)) == pytest.approx(steps, rel=0.01)


def test_sgd_with_a_stronger_decay():
    method = Implicit(optimizer="sgd_l2", decay=1e-3)
    assert time_to_death(method, TrainSpec(learning_rate=0.1, momentum=0.9)) == pytest.approx(6_165, rel=0.01)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("adam_l2", {"optimizer": "adam", "learning_rate": 0.002}),
        ("adamw", {"optimizer": "adamw", "learning_rate": 0.002}),
        ("sgd_l2", {"optimizer": "sgd", "learning_rate": 0.3}),
    ],
)
def test_optimizer_and_decay_are_its_own_and_the_rest_is_the_recipe(optimizer, expected):
    model, recipe = make("plain"), TrainSpec(epochs=7, batch=3, learning_rate=0.3, schedule="cosine", weight_decay=0.5)
    method = Implicit(optimizer=optimizer, decay=1e-5, learning_rate=0.002)
    hooks = method.attach(model, trace(model, torch.zeros(1, *SHAPE)), plan=PhasePlan(recipe, n_steps=100))
    assert hooks.recipe == dataclasses.replace(recipe, weight_decay=1e-5, **expected)
    assert hooks.weight_decay == {}  # γ and β decay as all others do


# -- what is dead ---------------------------------------------------------------------------------------------------


def by_hand(model, data):
    """Shares of images that excite the channels of the first convolution of `Plain`."""
    largest = []
    with torch.no_grad():
        for inputs, _ in data:
            largest += F.relu(model.norm1(model.conv1(inputs))).amax((2, 3))
    table = torch.stack(largest)
    return (table > 1e-3 * table.amax(0)).double().mean(0).numpy()


def test_universality_is_the_share_of_images_that_excite_a_channel():
    model, data = make("plain"), batches()
    with torch.no_grad():
        model.norm1.bias[:4] = torch.tensor([-1.5, -2.0, -2.5, -50.0])
    shares = universality(model, trace(model, torch.zeros(1, *SHAPE)), batches=data)
    np.testing.assert_allclose(shares["conv1"], by_hand(model, data), atol=1e-12)
    assert len(np.unique(shares["conv1"])) > 2
    assert shares["conv1"][3] == 0.0
    assert not model.conv2._forward_pre_hooks


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_universality_on_every_kind_of_network(name):
    model = make(name)
    traced = trace(model, torch.zeros(1, *SHAPE))
    shares = universality(model, traced, batches=batches())
    for group in traced.groups:
        assert shares[group.name].shape == (group.width,)
        assert ((shares[group.name] >= 0) & (shares[group.name] <= 1)).all()


def test_a_channel_that_any_reader_sees_counts_as_seen():
    """Positions of a flattened channel are one channel; here only the last of four is ever bright."""

    class Corner(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Linear(12, 2)

        def forward(self, x):
            return self.fc(F.relu(self.norm(self.conv(x))).flatten(1))

    model = Corner().eval()
    with torch.no_grad():
        model.conv.weight.fill_(1.0)
        model.conv.bias.copy_(torch.tensor([0.0, -1.0, -3.0]))
    images = torch.zeros(4, 1, 2, 2)
    images[:, 0, 1, 1] = torch.tensor([0.5, 1.5, 2.5, 3.5])
    shares = universality(model, trace(model, torch.zeros(1, 1, 2, 2)), batches=[(images, torch.zeros(4))])
    assert shares["conv"].tolist() == [1.0, 0.75, 0.25]


def test_dead_channels_rank_last_by_universality():
    model, data = make("plain"), batches()
    traced = trace(model, torch.zeros(1, *SHAPE))
    with torch.no_grad():
        model.norm1.weight[:3] = torch.tensor([9e-4, -5e-4, 0.0])
        model.norm1.bias[:3] = torch.tensor([1e-4, -3e-4, 0.2])
    scores = Implicit().rank(model, traced, state={}, batches=data)
    shares = by_hand(model, data)
    assert scores["conv1"][:3].tolist() == pytest.approx((shares[:3] - 1).tolist(), abs=1e-15)
    assert scores["conv1"][:3].max() <= 0 < 1e-3 < scores["conv1"][3:].min()
    sizes = ScaleMagnitude().score(model, traced, batches=())
    assert np.array_equal(scores["conv1"][3:], sizes["conv1"][3:])
    assert np.array_equal(scores["conv2"], sizes["conv2"])


def test_images_are_looked_at_only_where_a_channel_is_dead():
    def none():
        raise AssertionError("looked at")
        yield

    model = make("plain")
    traced = trace(model, torch.zeros(1, *SHAPE))
    scores = Implicit().rank(model, traced, state={}, batches=none())
    assert scores["conv1"].tolist() == ScaleMagnitude().score(model, traced, batches=())["conv1"].tolist()
    with torch.no_grad():
        model.norm1.weight[0] = 0
    with pytest.raises(DataError, match="at least one batch, but got none"):
        Implicit().rank(model, traced, state={}, batches=())


# -- what constants become ------------------------------------------------------------------------------------------


def folded_and_dropped(padding):
    """A network with three dead channels that still say a constant; folded and not, both cut."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=padding), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 5, 3, padding=padding, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
    ).eval()  # fmt: skip
    dead = [1, 4, 6]
    with torch.no_grad():
        model[1].weight[dead] = torch.tensor([1e-7, -1e-7, 0.0])  # no longer a signal, not yet zero
        model[1].bias[dead] = torch.tensor([0.7, 1.3, -0.4])
    x = torch.randn(3, 1, 9, 9)
    traced = trace(model, x)
    kept = {"0": np.setdiff1d(np.arange(8), dead)}
    folded = cut(fold_constants(model, traced, kept, silence=Implicit().silence), traced.groups, kept)
    dropped = cut(fold_constants(model, traced, kept), traced.groups, kept)
    with torch.no_grad():
        return model(x), folded(x), dropped(x)


def relative(one, other):
    return float((one - other).abs().max() / other.abs().max())


def test_folding_is_exact_without_padding():
    whole, folded, dropped = folded_and_dropped(padding=0)
    assert relative(folded, whole) <= 1e-6
    assert relative(dropped, whole) > 0.05


def test_with_padding_folding_is_exact_in_the_interior():
    whole, folded, _ = folded_and_dropped(padding=1)
    assert relative(folded[..., 1:-1, 1:-1], whole[..., 1:-1, 1:-1]) <= 1e-6
    assert relative(folded, whole) > 1e-3


def test_no_bias_is_made_where_the_network_has_none():
    """A file of weights then still fits the network that it was cut from."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(3 * 16, 2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].weight[2], model[1].bias[2] = 0, 1.0
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    kept = {"0": np.array([0, 1, 3])}
    assert fold_constants(model, traced, kept)[3].bias is None


def test_a_filter_of_zeros_says_its_bias_to_its_readers():
    """In a hidden layer without a BatchNorm: exact, since a linear layer pads nothing."""
    model, x = make("headed"), torch.randn(5, *SHAPE)
    with torch.no_grad():
        model.hidden.weight[2], model.hidden.bias[2] = 0, 0.7
        model.hidden.weight[5] = 1e-5  # Nearly nothing, and -1 behind a ReLU is nothing.
        model.hidden.bias[5] = -1.0
    traced = trace(model, x)
    silent = {silence: silent_channels(model, traced, silence=silence) for silence in (0.0, 1e-3)}
    assert np.flatnonzero(silent[0.0]["hidden"]).tolist() == [2]
    assert np.flatnonzero(silent[1e-3]["hidden"]).tolist() == [2, 5]
    assert not silent[1e-3]["conv1"].any()
    kept = {"hidden": np.setdiff1d(np.arange(10), [2, 5])}
    folded = fold_constants(model, traced, kept, silence=1e-3)
    with torch.no_grad():
        whole, small = model(x), cut(folded, traced.groups, kept)(x)
        dropped = cut(model, traced.groups, kept)(x)
    assert relative(small, whole) <= 1e-6
    assert relative(dropped, whole) > 0.05
    torch.testing.assert_close(folded.fc.bias, model.fc.bias + 0.7 * model.fc.weight[:, 2])


def test_a_channel_that_one_branch_still_writes_is_not_silent():
    model = make("bare")
    traced = trace(model, torch.zeros(1, *SHAPE))
    with torch.no_grad():
        model.stem.weight[1] = 0
        assert not silent_channels(model, traced)["stem"].any()
        model.outer.weight[1] = 0
    assert np.flatnonzero(silent_channels(model, traced)["stem"]).tolist() == [1]


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(UNSCALED))
def test_without_a_normalisation_filters_starve(name):
    """Idle weights of Adam go to zero, those of filters as γ does: the size of a channel is what is left of either."""
    model = make(name)
    traced = trace(model, torch.zeros(1, *SHAPE))
    method = Implicit(learning_rate=1e-2)
    hooks = method.attach(model, traced, plan=PhasePlan(TrainSpec(), n_steps=100))
    assert hooks.weight_decay == {}
    optimizer = _optimizer(model, hooks.recipe, hooks)
    for _ in range(200):
        model.hidden.weight.grad = torch.full_like(model.hidden.weight, 1e-3)
        model.hidden.weight.grad[:3] = 0  # Nobody excites these.
        optimizer.step()
    assert 0 < model.hidden.weight[:3].detach().norm(dim=1).max().item() <= method.threshold
    scores = method.rank(model, traced, state=hooks.state.state_dict(), batches=batches())
    shares = universality(model, traced, batches=batches())
    assert np.array_equal(scores["hidden"][:3], shares["hidden"][:3] - 1)
    left = sizes(model, traced, state=hooks.state.state_dict())
    assert np.array_equal(scores["hidden"][3:], left["hidden"][3:])
    assert scores["hidden"][:3].max() <= 0 < scores["hidden"][3:].min()
    for group, score in scores.items():
        assert group == "hidden" or np.array_equal(score, left[group])


def test_what_has_nothing_that_could_starve_is_refused():
    model = make("plain")
    for norm in (model.norm1, model.norm2):
        norm.requires_grad_(False)
    with pytest.raises(NetworkError, match=r"must have a BatchNorm scale that trains .* 'norm1', 'norm2' are frozen"):
        Implicit().attach(model, trace(model, torch.zeros(1, *SHAPE)), plan=PhasePlan(TrainSpec(), n_steps=100))


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"optimizer": "adam"}, "`optimizer`: there is no choice 'adam'"),
        ({"decay": -1e-3}, r"`decay` must be in \[0, 1\], but got decay=-0.001"),
        ({"learning_rate": 0.0}, r"`learning_rate` must be in \(0, 1\], but got learning_rate=0.0"),
        ({"threshold": math.nan}, r"`threshold` must be in \[0, 1\], but got threshold=nan"),
    ],
)
def test_values_out_of_range(hyper, told):
    with pytest.raises(ConfigError, match=rf"^\[method\.implicit\]: {told}"):
        methods.build("implicit", hyper)
