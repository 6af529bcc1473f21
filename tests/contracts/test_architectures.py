"""Every built-in network builds from its defaults, trains a step, is fully traced, and survives surgery exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoprune.architectures import ARCHITECTURES
from autoprune.engine.surgery import cut, masked
from autoprune.engine.tracing import trace

torch.set_num_threads(1)

NAMES = list(ARCHITECTURES)
LARGE = {"resnet32", "resnet44", "resnet110", "preresnet164", "vgg19", "densenet40"}
QUICK = [name for name in NAMES if name not in LARGE]


def network(name):
    """The network with normalisations and biases at random: fresh ones are alike and would hide a wrong index."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name]().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.bias):
                    tensor.normal_(0, 0.3)
                for tensor in (module.running_var, module.weight):
                    tensor.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Linear):
                module.bias.normal_()
    channels = next(module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d))
    size = 8 if channels == 1 else 32
    return model, torch.randn(2, channels, size, size)


def count(model, x):
    """MACs and parameters by hooks: no part of the cost model is used."""
    macs = 0

    def add(module, args, output):
        nonlocal macs
        macs += output[0].numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return macs, sum(parameter.numel() for parameter in model.parameters())


def check(model, traced, x, seed, tolerance):
    generator = np.random.default_rng(seed)
    kept = {
        group.name: np.sort(generator.choice(group.width, size=generator.integers(1, group.width + 1), replace=False))
        for group in traced.groups
    }
    small = cut(model, traced.groups, kept)
    with torch.no_grad():
        expected, got = masked(model, traced.groups, kept)(x), small(x)
    assert float((expected - got).abs().max()) <= tolerance * float(expected.abs().max())
    widths = {name: len(indices) for name, indices in kept.items()}
    assert count(small, x[:1]) == (traced.cost.macs(widths), traced.cost.params(widths))


@pytest.mark.parametrize("name", NAMES)
def test_builds_from_its_defaults_and_learns(name):
    model = ARCHITECTURES[name](n_classes=5, in_channels=2)
    x = torch.randn(2, 2, 16, 16)
    logits = model(x)
    assert logits.shape == (2, 5)
    logits.logsumexp(1).sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("name", QUICK)
def test_surgery_equals_silencing(name):
    model, x = network(name)
    traced = trace(model, x)
    assert traced.refused == ()
    check(model, traced, x, 0, 1e-4)
    check(model.double(), traced, x.double(), 1, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_surgery_equals_silencing_in_full(name):
    model, x = network(name)
    traced = trace(model, x)
    assert traced.refused == ()
    wide = network(name)[0].double()

    @settings(max_examples=10, deadline=None, derandomize=True)
    @given(st.integers(0, 2**32 - 1))
    def both(seed):
        check(model, traced, x, seed, 1e-4)
        check(wide, traced, x.double(), seed, 1e-10)

    both()
