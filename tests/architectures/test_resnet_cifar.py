"""ResNets for small images: published MACs, parameters and the channel groups."""

import pytest
import torch

from autoprune.architectures import build
from autoprune.engine.tracing import trace

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "blocks", "macs", "params"),
    [
        ("resnet20", 3, 40_813_184, 272_474),
        ("resnet32", 5, 69_124_736, 466_906),
        ("resnet44", 7, 97_436_288, 661_338),
        ("resnet56", 9, 125_747_840, 855_770),
        ("resnet110", 18, 253_149_824, 1_730_714),
    ],
)
def test_published_counts_and_groups(name, blocks, macs, params):
    model = build(name, n_classes=10, in_channels=3)
    traced = trace(model, torch.zeros(1, 3, 32, 32))
    assert traced.cost.dense_macs == macs
    assert traced.cost.dense_params == params == sum(p.numel() for p in model.parameters())
    expected = ["conv1"]
    for stage in (1, 2, 3):
        expected.append(f"layer{stage}.0.conv1")
        if stage > 1:
            expected.append(f"layer{stage}.0.conv2")
        expected += [f"layer{stage}.{block}.conv1" for block in range(1, blocks)]
    assert [group.name for group in traced.groups] == expected
    # The stem works at the resolution of the first stage.
    by_stage = {
        f"stage{stage}": [name for name in expected if name.startswith(f"layer{stage}.")] for stage in (1, 2, 3)
    }
    by_stage["stage1"].insert(0, "conv1")
    assert traced.cost.stages == {stage: tuple(names) for stage, names in by_stage.items()}
    assert traced.refused == ()


def test_digits_network():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    assert (traced.cost.dense_macs, traced.cost.dense_params) == (763_520, 77_754)
    assert {group.name: group.width for group in traced.groups} == {
        "conv1": 16, "layer1.0.conv1": 16, "layer2.0.conv1": 32, "layer2.0.conv2": 32,
        "layer3.0.conv1": 64, "layer3.0.conv2": 64,
    }  # fmt: skip


def test_any_image_size_and_class_count():
    model = build("resnet20", n_classes=7, in_channels=2).eval()
    for size in (4, 9, 40):
        assert model(torch.zeros(2, 2, size, size)).shape == (2, 7)


def test_module_names_are_those_of_torchvision():
    names = set(build("resnet20", n_classes=10, in_channels=3).state_dict())
    assert {"conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer2.0.downsample.0.weight", "fc.bias"} <= names
    assert "layer2.0.downsample.1.running_var" in names
    assert "layer1.0.downsample.0.weight" not in names
