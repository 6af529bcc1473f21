"""What every importance keeps: it scores the channels of a group, wherever in the network they lie."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.architectures import build
from autoprune.engine.channels import Member
from autoprune.engine.contracts import Importance
from autoprune.engine.tracing import trace
from autoprune.importances import IMPORTANCES

torch.set_num_threads(1)


class Mixed(nn.Module):
    """A concatenation, a grouped, a depthwise and a flattened layer, each behind a normalisation."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.grouped, self.grouped_norm = nn.Conv2d(12, 6, 3, padding=1, groups=3), nn.BatchNorm2d(6)
        self.wide, self.wide_norm = nn.Conv2d(6, 5, 1), nn.BatchNorm2d(5)
        self.depthwise, self.depthwise_norm = nn.Conv2d(5, 10, 3, padding=1, groups=5), nn.BatchNorm2d(10)
        self.fc = nn.Linear(10 * 16, 7)

    def forward(self, x):
        x = F.relu(self.norm(torch.cat([self.left(x), self.right(x)], 1)))
        x = F.relu(self.wide_norm(self.wide(F.relu(self.grouped_norm(self.grouped(x))))))
        return self.fc(F.relu(self.depthwise_norm(self.depthwise(x))).flatten(1))


NETWORKS = {
    "residual": (lambda: build("resnet_digits", n_classes=10, in_channels=1), (1, 1, 8, 8)),
    "dense": (lambda: build("densenet40", n_classes=10, in_channels=3), (1, 3, 8, 8)),
    "mixed": (Mixed, (1, 3, 4, 4)),
}


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(request):
    make, shape = NETWORKS[request.param]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(0.5 + torch.rand_like(module.weight))
                module.bias.copy_(torch.rand_like(module.weight))  # No channel is dead already.
    return model, trace(model, torch.zeros(shape)), [(torch.randn(4, *shape[1:]), torch.arange(4)) for _ in range(2)]


@pytest.fixture(autouse=True)
def _quick(request):
    """A refit for each channel of each of forty layers takes a minute."""
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    chosen = {value for value in params.values() if isinstance(value, str)}
    if {"obs", "dense"} <= chosen:
        pytest.skip("takes a minute; the other networks are judged alike")


@pytest.fixture(params=sorted(IMPORTANCES))
def importance(request):
    return IMPORTANCES[request.param]()


@pytest.fixture(params=sorted(set(IMPORTANCES) - {"random"}))
def informed(request):
    """One that looks at the channels."""
    return IMPORTANCES[request.param]()


def silence(model, group, channel):
    """Zero every weight of one channel."""
    with torch.no_grad():
        for member in group.members:
            module, places = model.get_submodule(member.module), torch.from_numpy(member.index[channel])
            if member.axis == "out":
                module.weight[places] = 0
            elif isinstance(module, nn.Linear):
                module.weight[:, places] = 0
            else:
                per_group = module.in_channels // module.groups
                rows = module.out_channels // module.groups
                for place in places.tolist():
                    first = place // per_group * rows
                    module.weight[first : first + rows, place % per_group] = 0


def test_builds_from_its_defaults_and_is_frozen(importance):
    assert isinstance(importance, Importance)
    assert type(importance).__dataclass_params__.frozen
    assert importance == type(importance)(**dataclasses.asdict(importance))


def test_scores_are_one_finite_number_a_channel(importance, network):
    model, traced, batches = network
    assert len(traced.groups) >= 3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = importance.score(model, traced, batches=batches)
    again = importance.score(model, traced, batches=batches)
    assert list(scores) == [group.name for group in traced.groups]
    for group in traced.groups:
        score = scores[group.name]
        assert score.shape == (group.width,), group.name
        assert score.dtype == np.float64
        assert np.isfinite(score).all()
        assert (score >= 0).all()
        assert len(np.unique(score)) > 1, group.name
        assert np.array_equal(score, again[group.name])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scores_follow_the_channels(informed, network):
    """Channels listed in another order have their scores in that order."""
    model, traced, batches = network
    generator = np.random.default_rng(0)
    orders = {group.name: generator.permutation(group.width) for group in traced.groups}
    groups = [
        dataclasses.replace(
            group, members=tuple(Member(m.module, m.axis, m.index[orders[group.name]]) for m in group.members)
        )
        for group in traced.groups
    ]
    scores = informed.score(model, traced, batches=batches)
    shuffled = informed.score(model, dataclasses.replace(traced, groups=tuple(groups)), batches=batches)
    for name, score in scores.items():
        np.testing.assert_allclose(shuffled[name], score[orders[name]], rtol=1e-9)  # sums in another order


def test_a_dead_channel_is_the_least_important(informed, network):
    model, traced, batches = network
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for group in (traced.groups[0], traced.groups[len(traced.groups) // 2], traced.groups[-1]):
        channel = group.width // 2
        silence(model, group, channel)
        score = informed.score(model, traced, batches=batches)[group.name]
        assert score[channel] == 0.0, group.name
        assert score.min() == 0.0
        assert score.max() > 0  # a ReLU may have silenced others, and some may say the same
        model.load_state_dict(state)
