"""Peak activation memory: by hand, and against what the tensors of a pass really are, before and after surgery."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.architectures import build
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


class Uses(TorchDispatchMode):
    """By storage: its bytes, and the first and the last operator that has to do with it; knows nothing of channels."""

    def __init__(self, model, x):
        super().__init__()
        self.weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
        self.seen, self.kept, self.n = {}, [], 0
        self.note(x)

    def note(self, tensor):
        self.kept.append(tensor)  # So that no other one gets its address.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights and storage.nbytes():
            first = self.seen.get(storage.data_ptr(), (0, self.n))[1]
            self.seen[storage.data_ptr()] = (storage.nbytes(), first, self.n)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.n += 1
        for leaf in tree_leaves((args, kwargs or {}, output)):
            if isinstance(leaf, torch.Tensor):
                self.note(leaf)
        return output


def measured(model, x):
    with torch.no_grad(), Uses(model, x) as uses:
        output = model(x)
    for leaf in tree_leaves(output):
        uses.note(leaf)
    return max(
        sum(size for size, first, last in uses.seen.values() if first <= step <= last) for step in range(uses.n + 1)
    )


def held(model, x):
    """Bytes of storages that Python itself holds at once, the input not counted: it frees late, not early."""
    alive, peak = {}, [0]
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers(), x]}

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            output = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(output):
                if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in weights:
                    key = leaf.untyped_storage()._cdata
                    alive.setdefault(key, [leaf.untyped_storage().nbytes(), 0])[1] += 1
                    weakref.finalize(leaf, drop, key)
            peak[0] = max(peak[0], sum(size for size, _ in alive.values()))
            return output

    def drop(key):
        alive[key][1] -= 1
        if not alive[key][1]:
            del alive[key]

    with torch.no_grad(), Counting():
        model(x)
    return peak[0]


class ByHand(nn.Module):
    """Of 3 × 4 × 4 inputs; every map has 16 positions, so 64 bytes a channel."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 5, 3, padding=1)
        self.c = nn.Conv2d(5, 8, 3, padding=1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.a(x), inplace=True)  # input and a: 3 + 8
        y = self.b(x)  # a and b: 8 + 5
        y = torch.sigmoid(y)  # a, b and its sigmoid: 8 + 5 + 5
        y = self.c(y)  # a, sigmoid, c: 8 + 5 + 8
        x = x + y  # a, c, sum: 8 + 8 + 8
        return self.fc(x.mean((2, 3)))  # sum and 8 means


def test_a_network_by_hand():
    traced = trace(ByHand().eval(), torch.zeros(1, 3, 4, 4))
    assert [(group.name, group.width) for group in traced.groups] == [("a", 8), ("b", 5)]
    for a, b in ((8, 5), (8, 1), (2, 5), (3, 3), (1, 1)):
        expected = 64 * max(3 + a, a + b, a + b + b, a + b + a, 3 * a)
        assert traced.cost.peak_activation_bytes({"a": a, "b": b}) == expected


class InPlace(nn.Module):
    """Views and changes in place take no room; a buffer that is written into does from then on."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 1, bias=False)
        self.fc = nn.Linear(6 * 16, 3)

    def forward(self, x):
        x = self.conv(x).mul_(2).relu_()
        board = torch.zeros(1, 10)
        board[:, 0] = x.flatten(1).sum(1)  # the maps, their sum and the board
        return self.fc(x.view(1, -1)) + board[:, :3]


def test_views_and_what_is_changed_in_place_are_counted_once():
    model, x = InPlace().eval(), torch.zeros(1, 1, 4, 4)
    cost = trace(model, x).cost
    assert cost.dense_peak_activation_bytes == max(4 * (16 + 96), 4 * (96 + 10 + 3)) == 448
    assert measured(model, x) == 448


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 24, 3, 2, 1)
        self.deep, self.up = nn.Conv2d(24, 24, 3, padding=1), nn.ConvTranspose2d(24, 16, 2, 2)
        self.norm, self.leave, self.head = nn.GroupNorm(4, 24), nn.Conv2d(28, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = F.relu(self.enter(x))
        y = F.relu(self.norm(self.down(x)))
        y = self.up(F.silu(self.deep(y)))
        return self.head(F.relu(self.leave(torch.cat([x, y], 1))))


def network(name):
    torch.manual_seed(0)
    return (UNet() if name == "unet" else build(name, n_classes=10, in_channels=3)).eval()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "unet"])
def test_it_is_what_the_tensors_of_a_pass_are_before_and_after_surgery(name):
    model, x = network(name), torch.zeros(1, 3, 32, 32)
    traced = trace(model, x)
    assert traced.cost.dense_peak_activation_bytes == measured(model, x)
    generator = np.random.default_rng(0)
    for _ in range(2):
        shares = {group.name: generator.uniform(0.3, 1) for group in traced.groups}
        kept = {group.name: np.arange(max(1, int(group.width * shares[group.name]))) for group in traced.groups}
        small, widths = cut(model, traced.groups, kept), {group: len(channels) for group, channels in kept.items()}
        expected = traced.cost.peak_activation_bytes(widths)
        assert expected == measured(small, x) < traced.cost.dense_peak_activation_bytes
        assert expected == trace(small, x).cost.dense_peak_activation_bytes
    assert held(model, x) >= traced.cost.dense_peak_activation_bytes - x.nbytes
