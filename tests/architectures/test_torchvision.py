"""Torchvision's networks by name: without weights and auxiliary heads, for any number of channels."""

import subprocess
import sys

import pytest
import torch

from autoprune.architectures import build
from autoprune.errors import ConfigError

torch.set_num_threads(1)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121"])
def test_other_channel_and_class_counts(name):
    model = build(f"torchvision/{name}", n_classes=7, in_channels=1).eval()
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_the_first_convolution_keeps_its_geometry():
    first = build("torchvision/resnet18", n_classes=7, in_channels=4).conv1
    assert (first.in_channels, first.out_channels, first.stride, first.padding) == (4, 64, (2, 2), (3, 3))
    assert first.bias is None


def test_no_auxiliary_heads():
    model = build("torchvision/googlenet", n_classes=10, in_channels=3)
    assert model.aux1 is None
    assert model.train()(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ConfigError, match="no torchvision network 'resnet51'; did you mean 'resnet50'"):
        build("torchvision/resnet51", n_classes=10, in_channels=3)
    with pytest.raises(ConfigError, match="no architecture 'resnet_digit'; did you mean 'resnet_digits'"):
        build("resnet_digit", n_classes=10, in_channels=3)


def test_importing_architectures_loads_no_torchvision():
    code = "import sys, autoprune.architectures; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
