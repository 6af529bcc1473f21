"""Networks as Python source: readable, of the widths that they have, and with the same answers to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from autoprune.architectures import build
from autoprune.engine.attention import narrow_attention
from autoprune.engine.source import source_of
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError

torch.set_num_threads(1)


def shaken(model):
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.eval()


def pruned(model, x):
    traced = trace(model, x[:1])
    generator = np.random.default_rng(0)
    kept = {
        group.name: np.sort(generator.choice(group.width, size=max(1, group.width * 5 // 8), replace=False))
        for group in traced.groups
    }
    return cut(model, traced.groups, kept)


def written(model, *inputs, **named):
    shapes = {name: {0: torch.export.Dim("batch", min=1)} for name in named}
    shapes = shapes or tuple({0: torch.export.Dim("batch", min=1)} for _ in inputs)
    return source_of(torch.export.export(model, inputs, named, dynamic_shapes=shapes), about="A network.")


def loaded(source):
    """The network that the text defines, with its weights."""
    names = {"__name__": "written", "__file__": "/nowhere/net.py"}
    exec(compile(source.text, "written", "exec"), names)
    network = names["Network"]()
    network.load_state_dict(source.weights)
    return network.eval()


def forward_of(source):
    lines = source.text.partition("    def forward(")[2].partition("\n\n\ndef load")[0].splitlines()
    return [line.strip() for line in lines[1:]]


def assert_same(model, source, *inputs):
    network = loaded(source)
    with torch.no_grad():
        for n in (1, len(inputs[0])):
            expected, got = model(*(x[:n].clone() for x in inputs)), network(*(x[:n].clone() for x in inputs))
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, (1, 3), padding=(0, 1), groups=2)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return x + self.conv2(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()
        self.drop = nn.Dropout(0.25)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.block(x).mean((2, 3))
        return self.fc(self.drop(x))


def test_it_reads_as_somebody_would_write_it():
    source = written(Net().eval(), torch.randn(2, 3, 8, 8))
    init = [line.strip() for line in source.text.splitlines() if line.strip().startswith("self.")]
    assert init == [
        "self.block_conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)",
        "self.block_bn1 = nn.BatchNorm2d(4)",
        "self.block_conv2 = nn.Conv2d(4, 4, (1, 3), padding=(0, 1), groups=2)",
        "self.fc = nn.Linear(4, 5)",
    ]
    assert forward_of(source) == [
        "# block",
        "x = F.relu(self.block_bn1(self.block_conv1(x)), inplace=True)",
        "x = x + self.block_conv2(x)",
        "return self.fc(F.dropout(x.mean([2, 3]), 0.25, training=self.training))",
    ]


def test_it_trains_like_the_original():
    model = Net()
    network = loaded(written(model.eval(), torch.randn(2, 3, 8, 8))).train()
    model.train()
    x = torch.randn(6, 3, 8, 8)
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    got = network(x)
    assert torch.equal(got, expected)
    expected.sum().backward()
    got.sum().backward()
    assert torch.equal(network.block_conv1.weight.grad, model.block.conv1.weight.grad)
    assert torch.equal(network.block_bn1.running_mean, model.block.bn1.running_mean)


class Tied(nn.Module):
    """A weight of two layers, a bare parameter, a constant, a change in place that others see, several answers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.out = nn.Linear(6, 7, bias=False)
        self.out.weight = self.embed.weight
        self.scale = nn.Parameter(torch.randn(6))
        self.register_buffer("offset", torch.randn(6), persistent=False)

    def forward(self, tokens, x):
        y = self.embed(tokens).mean(1)
        z = x + self.offset
        view = z[:, 1:3]
        view.mul_(2)
        z[:, 0] = y[:, 0]
        first, second = (y * self.scale).chunk(2, 1)
        return {"logits": self.out(z), "parts": [second, first - (second - 1.0)]}


def test_what_is_shared_bare_or_changed_in_place_stays_so():
    model, tokens = Tied().eval(), torch.randint(0, 7, (3, 4))
    source = written(model, tokens, torch.randn(3, 6))
    assert "nn.Parameter(torch.empty([7, 6]))" in source.text  # Once: it belongs to neither layer alone.
    assert_same(model, source, tokens, torch.randn(3, 6))


class Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.SiLU(inplace=True))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.prelu = nn.PReLU(4)
        self.norm = nn.InstanceNorm2d(7, affine=True)

    def forward(self, x):
        y = self.prelu(self.up(self.down(x)))
        y = self.norm(torch.cat([x, y], 1))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
        return F.interpolate(y, size=(5, 6), mode="nearest").permute(0, 2, 3, 1)[:, :, 1:, ::2]


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.norm = nn.LayerNorm(16)
        self.mix = nn.MultiheadAttention(16, 4, batch_first=True)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        x = x + self.mix(y, y, y, need_weights=False)[0]
        return self.fc(x.softmax(-1).mean(1))


@pytest.mark.parametrize("kind", [Upsampling, Heads])
def test_layers_of_many_kinds_and_operators_without_a_short_form(kind):
    model, x = shaken(narrow_attention(kind())), torch.randn(3, 3, 8, 8)
    assert_same(model, written(model, x), x)


def test_arguments_keep_their_names():
    model = Tied().eval()
    source = written(model, tokens=torch.randint(0, 7, (3, 4)), x=torch.randn(3, 6))
    assert "def forward(self, tokens, x):" in source.text


def test_no_tensor_is_held_longer_than_it_is_read():
    """A chain of fifty layers needs one variable."""
    model = nn.Sequential(*(layer for _ in range(25) for layer in (nn.Linear(4, 4), nn.ReLU()))).eval()
    lines = forward_of(written(model, torch.randn(2, 4)))
    assert len(lines) > 10
    assert {line.split(" = ")[0] for line in lines[:-1]} <= {"input", "x"}


class Decides(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: self.fc(y), lambda y: y + 1, (x,))


class Foreign(nn.Module):
    def forward(self, x):
        return torchvision.ops.roi_align(x.view(1, 1, 3, 4), torch.rand(1, 5), 2)


@pytest.mark.parametrize("kind", [Decides, Foreign])
def test_what_is_no_operator_of_torch_is_refused_in_one_sentence(kind):
    program = torch.export.export(kind().eval(), (torch.rand(3, 4),))
    with pytest.raises(ConfigError, match=r"source is made of torch's own operators, but .*\. Export \.pt2 or"):
        source_of(program, about="A network.")


OURS = ("vgg16", "densenet40", "mobilenet_v2", "preresnet164", "resnet56")
THEIRS = (
    "convnext_tiny", "deeplabv3_mobilenet_v3_large", "efficientnet_b0", "regnet_y_400mf", "resnet50",
    "shufflenet_v2_x1_0", "swin_v2_t", "vit_b_16",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OURS, *THEIRS])
def test_networks_cut_to_five_eighths(name):
    torch.manual_seed(0)
    if name in OURS:
        model, x = build(name, n_classes=10, in_channels=3), torch.randn(2, 3, 32, 32)
    else:
        own = {"weights_backbone": None} if name.startswith("deeplab") else {}
        model = torchvision.models.get_model(name, weights=None, **own)
        x = torch.randn(2, 3, *[224 if "vit" in name else 96] * 2)
    small = pruned(shaken(narrow_attention(model)), x)
    source = written(small, x)
    assert_same(small, source, x)
    assert max(map(len, source.text.splitlines())) < 200
