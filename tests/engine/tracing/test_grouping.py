"""Which channels belong together, what is refused and why, and published counts."""

import itertools
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autoprune.architectures import build
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, NetworkError

torch.set_num_threads(1)


def conv(inputs, width, kernel=3, **options):
    return nn.Conv2d(inputs, width, kernel, padding=kernel // 2, **options)


def table(traced):
    return {group.name: group.width for group in traced.groups}


def members(group):
    return {(member.module, member.axis): member.index.tolist() for member in group.members}


# -- what a trace says ----------------------------------------------------------------------------------------------


def test_groups_of_resnet20():
    traced = trace(build("resnet20", n_classes=10, in_channels=3), torch.zeros(1, 3, 32, 32))
    assert table(traced) == {
        "conv1": 16, "layer1.0.conv1": 16, "layer1.1.conv1": 16, "layer1.2.conv1": 16,
        "layer2.0.conv1": 32, "layer2.0.conv2": 32, "layer2.1.conv1": 32, "layer2.2.conv1": 32,
        "layer3.0.conv1": 64, "layer3.0.conv2": 64, "layer3.1.conv1": 64, "layer3.2.conv1": 64,
    }  # fmt: skip
    assert traced.refused == ()
    stream = traced.group("layer2.0.conv2")
    assert stream.scales == ("layer2.0.bn2", "layer2.0.downsample.1", "layer2.1.bn2", "layer2.2.bn2")
    assert [m.module for m in stream.members if m.axis == "in"] == [
        "layer2.1.conv1", "layer2.2.conv1", "layer3.0.conv1", "layer3.0.downsample.0",
    ]  # fmt: skip
    assert traced.group("layer2.0.conv1").scales == ("layer2.0.bn1",)
    assert traced.group("layer3.0.conv2").member("fc", "in").index.tolist() == [[c] for c in range(64)]
    assert traced.cost.groups == tuple(table(traced))
    assert traced.cost.dense == tuple(table(traced).values())
    assert traced.cost.dense_macs == 40_813_184


def test_records_are_picklable():
    traced = trace(build("resnet_digits", n_classes=10, in_channels=1), torch.zeros(1, 1, 8, 8))
    copied = pickle.loads(pickle.dumps(traced))
    assert copied.cost == traced.cost
    for one, other in zip(copied.groups, traced.groups, strict=True):
        assert members(one) == members(other)


def test_unknown_group_and_member_names_are_explained():
    traced = trace(build("resnet_digits", n_classes=10, in_channels=1), torch.zeros(1, 1, 8, 8))
    with pytest.raises(ConfigError, match=r"no channel group 'layer1\.0\.conv'; did you mean 'layer1\.0\.conv1'"):
        traced.group("layer1.0.conv")
    with pytest.raises(ConfigError, match="of group 'conv1' 'fd'"):
        traced.group("conv1").member("fd", "in")


def describe(traced):
    return [
        (group.name, group.width, group.scales, [(m.module, m.axis, m.index.tolist()) for m in group.members])
        for group in traced.groups
    ]


def test_names_are_the_same_in_another_process():
    code = (
        "import torch; from autoprune.architectures import build; from autoprune.engine.tracing.grouping import trace\n"
        "t = trace(build('densenet40', n_classes=10, in_channels=3), torch.zeros(1, 3, 8, 8))\n"
        "print([(g.name, g.width, g.scales, [(m.module, m.axis, m.index.tolist()) for m in g.members])"
        " for g in t.groups])"
    )
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    here = describe(trace(build("densenet40", n_classes=10, in_channels=3), torch.zeros(1, 3, 8, 8)))
    assert run.stdout.strip() == str(here)
    assert here[0][0] == "conv1"


def test_the_network_is_left_as_it_is():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    model.train()
    model.layer1[0].bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model.fc.weight.grad = torch.ones_like(model.fc.weight)
    seen = []
    model.register_forward_hook(lambda *args: seen.append(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace(model, torch.zeros(4, 1, 8, 8))
    assert model.training
    assert not model.layer1[0].bn1.training
    assert not model.conv1.weight.requires_grad
    assert model.fc.weight.requires_grad
    assert model.fc.weight.grad.eq(1).all()
    assert model.conv1.weight.grad is None
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert len(model._forward_hooks) == 1
    assert not model.conv1._forward_hooks


# -- exclude --------------------------------------------------------------------------------------------------------


def test_excluded_groups_layers_and_blocks_stay_out():
    model, x = build("resnet_digits", n_classes=10, in_channels=1), torch.zeros(1, 1, 8, 8)
    full = table(trace(model, x))
    by_group = trace(model, x, exclude=["layer2.0.conv1"])
    assert full.keys() - table(by_group).keys() == {"layer2.0.conv1"}
    by_layer = trace(model, x, exclude=["layer2.0.downsample.0"])
    assert full.keys() - table(by_layer).keys() == {"layer2.0.conv2"}
    by_block = trace(model, x, exclude=["layer3"])
    assert full.keys() - table(by_block).keys() == {"layer3.0.conv1", "layer3.0.conv2"}
    assert by_block.refused == ()
    assert by_block.cost.dense_macs == trace(model, x).cost.dense_macs
    assert by_block.cost.groups == tuple(table(by_block))


def test_excluding_an_unknown_name_suggests_the_nearest():
    model = build("resnet_digits", n_classes=10, in_channels=1)
    with pytest.raises(ConfigError, match="to exclude 'layer9'; did you mean 'layer"):
        trace(model, torch.zeros(1, 1, 8, 8), exclude=["layer9"])


# -- index maps -----------------------------------------------------------------------------------------------------


def test_flattened_maps_spread_a_channel_over_columns():
    model = nn.Sequential(conv(1, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    traced = trace(model, torch.zeros(1, 1, 4, 4))
    assert table(traced) == {"0": 3, "3": 5}
    assert members(traced.group("0"))["3", "in"] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert traced.cost.macs({"0": 2, "3": 4}) == 9 * 16 * 2 + 8 * 4 + 4 * 2


def test_grouped_convolutions_tie_the_same_offset_of_each_conv_group():
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), nn.Flatten(), nn.Linear(12 * 16, 2))
    traced = trace(model, torch.zeros(1, 3, 4, 4))
    assert table(traced) == {"0": 2, "2": 3}
    assert members(traced.group("0"))["2", "in"] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert members(traced.group("2"))["2", "out"] == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]
    assert traced.cost.macs({"0": 1, "2": 2}) == 9 * 16 * (3 * 4 + 1 * 8) + 8 * 16 * 2


def test_depthwise_convolutions_belong_to_their_producer():
    model = nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), conv(6, 12, groups=6), nn.BatchNorm2d(12), conv(12, 4, 1))
    traced = trace(model, torch.zeros(1, 3, 4, 4))
    assert table(traced) == {"0": 6}  # the last convolution writes the logits
    assert traced.group("0").scales == ("1", "3")
    assert members(traced.group("0"))["4", "in"] == [[2 * c, 2 * c + 1] for c in range(6)]
    assert traced.cost.macs({"0": 5}) == 16 * (27 * 5 + 9 * 10 + 10 * 4)


class Concat(nn.Module):
    """Two branches side by side, then a convolution that is added to both: its output belongs to two groups."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 4), conv(3, 6)
        self.both = conv(10, 10)
        self.fc = nn.Linear(10, 2)

    def forward(self, x):
        x = torch.cat([self.a(x), F.relu(self.b(x))], 1)
        return self.fc((x + self.both(x)).amax((2, 3)))


def test_concatenated_channels_stay_apart():
    traced = trace(Concat(), torch.zeros(1, 3, 4, 4))
    assert table(traced) == {"a": 4, "b": 6}
    assert members(traced.group("b"))["both", "out"] == [[4 + c] for c in range(6)]
    assert members(traced.group("b"))["fc", "in"] == [[4 + c] for c in range(6)]
    assert traced.cost.macs({"a": 3, "b": 4}) == 16 * 9 * (3 * 7 + 7 * 7) + 7 * 2


class Halves(nn.Module):
    """A gated unit: the two halves of one convolution are multiplied, so they go together."""

    def __init__(self):
        super().__init__()
        self.wide, self.fc = conv(3, 8), nn.Linear(4, 2)

    def forward(self, x):
        values, gates = self.wide(x).chunk(2, 1)
        return self.fc((values * gates.sigmoid()).mean((2, 3)))


def test_multiplied_halves_go_together():
    traced = trace(Halves(), torch.zeros(1, 3, 4, 4))
    assert table(traced) == {"wide": 4}
    assert members(traced.group("wide"))["wide", "out"] == [[0, 4], [1, 5], [2, 6], [3, 7]]


class Shuffled(nn.Module):
    """A channel shuffle between two convolutions; sizes come from the tensor."""

    def __init__(self, fixed_size=False):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 4), conv(3, 4), nn.Linear(8, 2)
        self.fixed_size = fixed_size

    def forward(self, x):
        x = torch.stack([self.a(x), self.b(x)], 2)  # interleaves the two
        n, half, two, h, w = x.shape
        x = x.view(n, 8 if self.fixed_size else half * two, h, w)
        return self.fc(x.mean((2, 3)))


def test_shuffled_channels_are_followed():
    traced = trace(Shuffled(), torch.zeros(1, 3, 4, 4))
    assert table(traced) == {}  # one can't be cut without the other, as the stack must be even
    assert "fails when channels of it are removed" in traced.refused[0].reason


class Tied(nn.Module):
    """As above, but the two convolutions are one: what the shuffle puts side by side goes together."""

    def __init__(self):
        super().__init__()
        self.a, self.fc = conv(3, 4), nn.Linear(8, 2)

    def forward(self, x):
        x = self.a(x)
        x = torch.stack([x, x.neg()], 2).flatten(1, 2)
        return self.fc(x.mean((2, 3)))


def test_interleaved_copies_are_followed():
    traced = trace(Tied(), torch.zeros(1, 3, 4, 4))
    assert members(traced.group("a"))["fc", "in"] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_pixel_shuffle_ties_what_it_folds_into_space():
    model = nn.Sequential(conv(3, 12), nn.PixelShuffle(2), conv(3, 5), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 4, 4))
    traced = trace(model, torch.zeros(1, 3, 4, 4))
    assert members(traced.group("0"))["0", "out"] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


# -- refusals -------------------------------------------------------------------------------------------------------


class PaddedBlock(nn.Module):
    """A block with option-A shortcut: no parameters, zeros for the new channels."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - inputs) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + shortcut)


def option_a(blocks=3):
    widths = [16, *[16] * blocks, *[32] * blocks, *[64] * blocks]
    layers = [PaddedBlock(before, width, 2 if before < width else 1) for before, width in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def test_padded_shortcuts_are_refused_but_block_internal_groups_are_not():
    traced = trace(option_a(), torch.zeros(1, 3, 32, 32))
    assert traced.cost.dense_macs == 40_551_040  # 40.551 M: the published count of option A
    assert list(table(traced)) == [f"{3 + block}.conv1" for block in range(9)]
    (refusal,) = traced.refused
    assert refusal.layers == ("0", *(f"{3 + block}.conv2" for block in range(9)))
    assert "PaddedBlock '6' combines its channels with values of a fixed number of channels" in refusal.reason
    assert "a projection" in refusal.advice
    assert str(refusal).startswith("0, 3.conv2,")


def test_groups_through_normalisations_that_nothing_tells_from_others_are_refused_by_name():
    norm = nn.GroupNorm(2, 6, affine=False)
    model = nn.Sequential(conv(3, 6), norm, nn.ReLU(), conv(6, 5), nn.Flatten(), nn.Linear(80, 2))
    traced = trace(model, torch.zeros(1, 3, 4, 4))
    assert table(traced) == {"3": 5}
    (refusal,) = traced.refused
    assert refusal.layers == ("0",)
    assert "pass through GroupNorm '1'" in refusal.reason
    assert "in place of GroupNorm '1' would make them prunable" in refusal.advice


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 4), conv(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        y = self.a(x) if x.mean() > 0 else self.b(x)
        return self.fc(y.mean((2, 3)))


def test_control_flow_on_data_is_a_network_error():
    message = r"must do the same for every input, but the network's own `forward` decides by computed values"
    with pytest.raises(NetworkError, match=message):
        trace(Decides(), torch.zeros(1, 3, 4, 4))


class SpatialAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.map, self.fc = conv(3, 4), conv(2, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        return self.fc((x * torch.sigmoid(self.map(torch.stack([x.mean(1), x.amax(1)], 1)))).mean((2, 3)))


def test_reductions_over_channels_are_refused():
    traced = trace(SpatialAttention(), torch.zeros(1, 3, 4, 4))
    assert table(traced) == {}
    assert traced.refused[0].layers == ("a",)
    assert "the network's own `forward` (operator mean)" in traced.refused[0].reason


class FixedSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 4), conv(4, 6), nn.Linear(96, 2)

    def forward(self, x):
        return self.fc(self.b(self.a(x)).view(-1, 96))


def test_sizes_written_as_numbers_are_found_by_the_proof():
    traced = trace(FixedSize(), torch.zeros(1, 3, 4, 4))
    assert table(traced) == {"a": 4}
    (refusal,) = traced.refused
    assert refusal.layers == ("b",)
    assert "the network fails when channels of it are removed (shape '[-1, 96]' is invalid" in refusal.reason
    assert "take it from the tensor" in refusal.advice


class UnevenSplit(nn.Module):
    """Parts whose sizes are numbers in `forward`: they can't follow."""

    def __init__(self):
        super().__init__()
        self.a, self.left, self.right, self.fc = conv(3, 8), conv(4, 4), conv(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        left, right = self.a(x).split(4, 1)
        return self.fc((self.left(left) + self.right(right)).mean((2, 3)))


def test_parts_whose_sizes_are_numbers_are_refused():
    traced = trace(UnevenSplit(), torch.zeros(1, 3, 4, 4))
    assert table(traced) == {"left": 4}
    assert traced.refused[0].layers == ("a",)


def test_layers_that_do_not_run_are_named():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head, self.fc = conv(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x).mean((2, 3))
            return self.head(x) if self.training else self.fc(x)

    traced = trace(Auxiliary(), torch.zeros(1, 3, 4, 4))
    assert [refusal.layers for refusal in traced.refused] == [("head",)]
    assert traced.refused[0].reason == "it is not called in eval mode"


class LeavesTorch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = conv(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(torch.from_numpy(self.a(x).mean((2, 3)).numpy()) + x.mean())


def test_channels_that_leave_torch_are_named():
    traced = trace(LeavesTorch(), torch.zeros(1, 3, 4, 4))
    assert table(traced) == {}
    assert traced.refused[0].layers == ("a",)
    assert traced.refused[0].reason == "no layer was seen to read its channels"


def test_networks_that_can_not_be_copied_are_refused():
    model = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(64, 2))
    model.cache = 2 * torch.ones(2, requires_grad=True)
    with pytest.raises(NetworkError, match=r"must be copyable, but copying it failed: .* Keep no computed tensors"):
        trace(model, torch.zeros(1, 3, 4, 4))


def test_compiled_parts_are_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(conv(4, 4), nn.ReLU()))
    model = nn.Sequential(conv(3, 4), scripted, nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(NetworkError, match=r"must be made of plain modules, but '1' is compiled \(TorchScript\)"):
        trace(model, torch.zeros(1, 3, 4, 4))


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = conv(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(F.dropout(self.a(x), 0.5).mean((2, 3)))


def test_what_is_drawn_at_random_in_evaluation_mode_is_named():
    told = r"must answer the same each time in evaluation mode, but it draws at random in the network's own `forward`"
    with pytest.raises(NetworkError, match=told):
        trace(Drops(), torch.zeros(1, 3, 4, 4))


def test_shared_and_computed_weights_are_refused():
    model = nn.Sequential(conv(3, 4), conv(4, 4, 1), conv(4, 4, 1), conv(4, 6), nn.Flatten(), nn.Linear(96, 2))
    model[2].weight = model[1].weight
    torch.nn.utils.parametrizations.weight_norm(model[3])
    traced = trace(model, torch.zeros(1, 3, 4, 4))
    assert table(traced) == {}
    reasons = {refusal.layers: refusal.reason for refusal in traced.refused}
    assert reasons["1",] == "layers '1' and '2' share a parameter"
    assert traced.cost.dense_macs == 16 * (27 * 4 + 16 + 16 + 9 * 24) + 192


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (conv(4, 2), r"must run on one input of shape \(1, 3, 4, 4\), but it failed: .*expected input"),
        (nn.Sequential(nn.ReLU()), "must have a convolution or linear layer that runs"),
    ],
)
def test_networks_that_can_not_be_followed(model, message):
    with pytest.raises(NetworkError, match=message):
        trace(model, torch.zeros(1, 3, 4, 4))


# -- published counts -----------------------------------------------------------------------------------------------

RESREP = "22,22,23,36,1,1 62,97,16,49,38,68,41,92 189,204,69,145,65,139,64,94,67,89,86,95 473,488,171,281,511,512"


@pytest.mark.parametrize(
    ("strided", "dense", "ratio"),
    [
        ("conv2", 4_089_184_256, 0.45458),
        pytest.param("conv1", 3_857_973_248, 0.43894, marks=pytest.mark.slow),
    ],
)
def test_published_widths_of_resnet50(strided, dense, ratio):
    model = build("torchvision/resnet50", n_classes=1000, in_channels=3)
    for stage in (model.layer2, model.layer3, model.layer4):
        block = stage[0]
        block.conv1.stride, block.conv2.stride = ((2, 2), (1, 1)) if strided == "conv1" else ((1, 1), (2, 2))
    cost = trace(model, torch.zeros(1, 3, 224, 224)).cost
    widths = {}
    for stage, row in enumerate(RESREP.split(), start=1):
        for place, width in enumerate(row.split(",")):
            widths[f"layer{stage}.{place // 2}.conv{1 + place % 2}"] = int(width)
    assert cost.dense_macs == dense
    assert round(cost.macs_ratio(widths), 5) == ratio
    least = dict.fromkeys(widths, 1)
    if strided == "conv2":
        assert round(cost.macs_ratio(least), 3) == 0.120
        assert round(cost.macs_ratio({name: cost.dense[cost.groups.index(name)] // 2 for name in widths}), 3) == 0.446


def test_reachability_of_resnet56():
    cost = trace(build("resnet56", n_classes=10, in_channels=3), torch.zeros(1, 3, 32, 32)).cost
    internal = {name: width for name, width in zip(cost.groups, cost.dense, strict=True) if name.endswith(".conv1")}
    assert round(cost.macs_ratio(dict.fromkeys(internal, 1)), 3) == 0.042
    assert round(cost.macs_ratio({name: width // 2 for name, width in internal.items()}), 3) == 0.503


# -- a second opinion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["resnet20", "vgg16", "mobilenet_v2", "torchvision/googlenet", "torchvision/regnet_y_400mf"]
)
def test_torch_pruning_couples_the_same_positions(name):
    import torch_pruning as tp

    model, x = build(name, n_classes=10, in_channels=3).eval(), torch.zeros(1, 3, 32, 32)
    traced = trace(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model, x, verbose=False)
    names = {module: qualified for qualified, module in model.named_modules()}
    modules = dict(model.named_modules())
    generator = np.random.default_rng(0)
    for group in traced.groups:
        channel = int(generator.integers(group.width))
        ours = {
            (member.module, member.axis, int(position))
            for member in group.members
            for position in member.index[channel]
        }
        theirs = set()
        for member in group.members:
            module = modules[member.module]
            if member.axis == "in" or isinstance(module, nn.BatchNorm2d):
                continue
            root = graph.get_pruner_of_module(module).prune_out_channels
            for dep, positions in graph.get_pruning_group(module, root, member.index[channel].tolist()):
                layer = dep.target.module
                if layer in names and not isinstance(layer, (nn.ReLU, nn.ReLU6)):
                    reads = graph.is_in_channel_pruning_fn(dep.handler) and not graph.is_out_channel_pruning_fn(
                        dep.handler
                    )
                    theirs |= {(names[layer], "in" if reads else "out", int(position)) for position in positions}
        depthwise = {q for q, m in modules.items() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}
        assert {entry for entry in ours if entry[:2] not in {(q, "in") for q in depthwise}} == {
            entry for entry in theirs if entry[:2] not in {(q, "in") for q in depthwise}
        }, group.name
