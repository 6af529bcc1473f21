"""Layers with a `forward` of their own, functional ones, other layouts, and what is counted of all of them."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.engine.attention import narrow_attention
from autoprune.engine.channels import Traced
from autoprune.engine.contracts import Importance
from autoprune.engine.surgery import cut, masked, narrowed
from autoprune.engine.tracing import trace
from autoprune.importances import Damage, FilterNorm, GroupNorm, Taylor
from autoprune.widths import Kept
from tests.engine.tracing.counting import count_macs

torch.set_num_threads(1)


def conv(inputs: int, width: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, width, kernel, padding=kernel // 2, **options)


def shaken(model: nn.Module) -> nn.Module:
    """The network in double precision, no two of its channels alike."""
    generator = torch.Generator().manual_seed(1)
    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.add_(0.3 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
    return model


def draw(traced: Traced, seed: int = 0) -> Kept:
    generator = np.random.default_rng(seed)
    return {
        g.name: np.sort(generator.choice(g.width, size=int(generator.integers(1, g.width + 1)), replace=False))
        for g in traced.groups
    }


def assert_exact(model: nn.Module, shape: tuple[int, ...], *, seeds: int = 3) -> Traced:
    """Masked and cut networks answer alike, and cost what an independent count of operators says; the trace."""
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    traced = trace(model, x)
    again = trace(model, x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
    assert [(g.name, g.width) for g in again.groups] == [(g.name, g.width) for g in traced.groups]
    model, x = shaken(model), x.double()
    for seed in range(seeds):
        kept = draw(traced, seed)
        small = cut(model, traced.groups, kept)
        with torch.no_grad():
            expected, got = masked(model, traced.groups, kept)(x), small(x)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
        widths = {name: len(indices) for name, indices in kept.items()}
        assert traced.cost.macs(widths) == count_macs(small, x)
        assert traced.cost.params(widths) == sum(p.numel() for p in small.parameters())
    return traced


def table(traced: Traced) -> dict[str, int]:
    return {group.name: group.width for group in traced.groups}


def reason(traced: Traced) -> str:
    return "\n".join(map(str, traced.refused))


class SamePadded(nn.Conv2d):
    """Pads as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        need = [max((math.ceil(s / 2) - 1) * 2 + 3 - s, 0) for s in x.shape[-2:]]
        x = F.pad(x, [need[1] // 2, need[1] - need[1] // 2, need[0] // 2, need[0] - need[0] // 2])
        return F.conv2d(x, self.weight, self.bias, 2, 0, self.dilation, self.groups)


class NormAct(nn.BatchNorm2d):
    """A normalisation with its activation inside."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps)
        return F.silu(x)


class LinearAct(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, self.weight, self.bias))


class Standardised(nn.Conv2d):
    """Weight standardisation over the inputs of each output, with a gain."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, self.gain.view(-1), None, True, 0.0, 1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_convolutions_that_standardise_their_weight() -> None:
    model = nn.Sequential(
        Standardised(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), Standardised(8, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    assert table(assert_exact(model, (3, 9, 9))) == {"0": 4, "3": 6}


def test_layers_with_a_forward_of_their_own() -> None:
    model = nn.Sequential(
        SamePadded(3, 8, 3, bias=False), NormAct(8), SamePadded(8, 8, 3, groups=8), NormAct(8), conv(8, 6, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), LinearAct(6, 12), nn.Linear(12, 10),
    )  # fmt: skip
    traced = assert_exact(model, (3, 11, 11))
    assert table(traced) == {"0": 8, "4": 6, "7": 12}
    assert traced.group("0").scales == ("1", "3")
    assert traced.refused == ()


def test_pooling_to_one_place_in_another_layout() -> None:
    body = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.to(memory_format=torch.channels_last))

    assert table(assert_exact(Turned(), (3, 9, 9))) == {"body.0": 8}


class Functional(nn.Module):
    """A convolution and a product by bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 8), nn.Linear(6, 4)
        self.kernel = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.matrix = nn.Parameter(torch.randn(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.conv2d(x, self.kernel, padding=1).mean((2, 3))
        return self.last(torch.einsum("nc,cd->nd", x, self.matrix))


def test_functional_layers_are_counted() -> None:
    traced = assert_exact(Functional(), (3, 8, 8))
    assert traced.cost.dense_macs == 64 * 27 * 8 + 64 * 72 * 8 + 48 + 24
    assert table(traced) == {"first": 8}
    assert "read by a product in the network's own `forward` (operator bmm), which is no layer's own" in reason(traced)


def test_multihead_attention_is_counted() -> None:
    # 17 tokens of 32 channels, 4 heads: q, k, v and output 4 * 32 * 32 a token; scores and values 2 * 17 * 32 a token.
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
            self.head = nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    model, x = Net(), torch.randn(1, 17, 32)
    assert trace(model, x).cost.dense_macs == 17 * 4 * 32 * 32 + 2 * 17 * 17 * 32 + 64 == count_macs(model.eval(), x)


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma.view(1, -1, 1, 1)


class FrozenNorm(nn.Module):
    """Buffers of the size of the channels, as torchvision's FrozenBatchNorm2d has them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (b.reshape(1, -1, 1, 1) for b in self.buffers())
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


def test_bare_parameters_and_buffers_go_with_their_channels() -> None:
    model = nn.Sequential(
        conv(3, 8), FrozenNorm(8), nn.ReLU(), LayerScale(8), conv(8, 8), LayerScale(8), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip
    traced = assert_exact(model, (3, 8, 8))
    assert table(traced) == {"0": 8, "4": 8}
    small = cut(model, traced.groups, {"0": np.array([1, 5])})
    assert small[3].gamma.shape == small[1].running_var.shape == (2,)


# -- operators ------------------------------------------------------------------------------------------------------


class Halves(nn.Module):
    """Two halves that go different ways, as in ShuffleNet V2 and C2f."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch = conv(3, 16), nn.Sequential(conv(8, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.last = conv(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, dim=1)
        return self.last(torch.cat([left, self.branch(right)], dim=1)).mean((2, 3))


def test_halves_that_go_different_ways_stay_equally_wide() -> None:
    traced = assert_exact(Halves(), (3, 8, 8))
    assert table(traced) == {"first": 8, "branch.0": 8}
    assert traced.group("first").member("first").index.tolist() == [[i, i + 8] for i in range(8)]


class Partial(nn.Module):
    """A quarter of the channels is convolved, as in FasterNet; the parts' sizes are numbers of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 16), conv(16, 6, 1)
        self.dim_conv, self.dim_untouched = 4, 12
        self.partial = conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, other = torch.split(self.first(x), [self.dim_conv, self.dim_untouched], dim=1)
        return self.last(torch.cat([self.partial(one), other], dim=1)).mean((2, 3))


def test_parts_whose_sizes_are_numbers_of_the_module() -> None:
    traced = assert_exact(Partial(), (3, 8, 8))
    assert table(traced) == {"first@0": 4, "first@4": 12, "partial": 4}
    small = cut(Partial(), traced.groups, {"first@0": np.array([0, 2]), "first@4": np.array([3, 4, 9])})
    assert (small.dim_conv, small.dim_untouched) == (2, 3)


class Mixed(nn.Module):
    """Parts of unlike sizes by a list of them, as in MixNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.sizes = conv(3, 14), conv(14, 6, 1), [8, 6]
        self.branches = nn.ModuleList([conv(8, 8, groups=8), conv(6, 6, 5, groups=6)])

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.first(x), self.sizes, dim=1)
        return self.last(torch.cat([b(p) for b, p in zip(self.branches, parts, strict=True)], 1)).mean((2, 3))


def test_parts_whose_sizes_are_a_list_of_the_module() -> None:
    traced = assert_exact(Mixed(), (3, 8, 8))
    assert table(traced) == {"first@0": 8, "first@8": 6}
    assert cut(Mixed(), traced.groups, {"first@8": np.array([1])}).sizes == [8, 1]


class Scaled(nn.Module):
    """Parts of one size, which is a number of the module, as in Res2Net."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.width = conv(3, 12), conv(12, 6, 1), 4
        self.branches = nn.ModuleList([conv(4, 4), conv(4, 4)])

    def forward(self, x: Tensor) -> Tensor:
        parts = list(torch.split(self.first(x), self.width, dim=1))
        parts[0] = self.branches[0](parts[0])
        parts[1] = self.branches[1](parts[0] + parts[1])
        return self.last(torch.cat(parts, 1)).mean((2, 3))


def test_parts_of_one_size_that_is_a_number_of_the_module() -> None:
    traced = assert_exact(Scaled(), (3, 8, 8))
    assert table(traced)["first"] == 4
    assert traced.refused == ()
    assert cut(Scaled(), traced.groups, {"first": np.array([0, 3])}).width == 2


class Reshaped(nn.Module):
    """The number of channels is written into a view, as in torchvision's vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.width = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 4), 16

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).reshape(len(x), self.width, -1).mean(2))


class Shaped(nn.Module):
    """A scale whose shape is a tuple of the module, as in PoolFormer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.shape = conv(3, 16), conv(16, 4, 1), (16, 1, 1)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.scale.view(self.shape)).mean((2, 3))


def test_a_width_that_is_an_entry_of_a_tuple_of_the_module() -> None:
    traced = assert_exact(Shaped(), (3, 8, 8))
    assert table(traced) == {"first": 16}
    assert cut(Shaped(), traced.groups, {"first": np.array([1, 2, 3])}).shape == (3, 1, 1)


def test_a_width_that_is_a_number_of_the_module() -> None:
    assert table(assert_exact(Reshaped(), (3, 8, 8))) == {"first": 16}


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = conv(3, 16), conv(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.glu(self.first(x), dim=1)).mean((2, 3))


def test_gated_linear_units() -> None:
    assert table(assert_exact(Gated(), (3, 8, 8))) == {"first": 8}


@pytest.mark.parametrize("options", [{}, {"groups": 8}, {"output_padding": 1}])
def test_transposed_convolutions(options: dict[str, int]) -> None:
    up = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, **options)
    model = nn.Sequential(
        conv(3, 8), nn.ReLU(), up, nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, 1), nn.AdaptiveAvgPool2d(1)
    )
    traced = assert_exact(model, (3, 5, 5))
    assert len(traced.groups) == (1 if "groups" in options else 2)


class Selective(nn.Module):
    """Branches stacked beside each other and weighed by attention, as in SKNet."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 8), conv(3, 8, 5), conv(8, 4, 1)
        self.down, self.up = conv(8, 6, 1), conv(6, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.first(x), self.second(x)], dim=1)
        pooled = self.down(both.sum(1).mean((2, 3), keepdim=True)).relu()
        weights = self.up(pooled).view(x.shape[0], 2, -1, 1, 1).softmax(dim=1)
        return self.last((both * weights).sum(dim=1)).mean((2, 3))


def test_branches_that_are_stacked_belong_together() -> None:
    assert table(assert_exact(Selective(), (3, 8, 8))) == {"first": 8, "down": 6}


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(8), nn.InstanceNorm2d(8, affine=True, track_running_stats=True)])
def test_instance_normalisation_is_per_channel(norm: nn.Module) -> None:
    model = nn.Sequential(conv(3, 8), norm, nn.ReLU(), conv(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert table(assert_exact(model, (3, 8, 8))) == {"0": 8}


@pytest.mark.parametrize(("norm", "width"), [(nn.GroupNorm(1, 8), 8), (nn.GroupNorm(4, 8), 2), (nn.GroupNorm(8, 8), 8)])
def test_group_normalisation_keeps_its_groups_equally_large(norm: nn.Module, width: int) -> None:
    model = nn.Sequential(conv(3, 8), norm, nn.ReLU(), conv(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert table(assert_exact(model, (3, 8, 8))) == {"0": width}


class ChannelsFirst(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("norm", [ChannelsFirst(8), nn.Sequential(nn.Flatten(2), nn.Identity())])
def test_layer_normalisation(norm: nn.Module) -> None:
    if isinstance(norm, ChannelsFirst):
        model = nn.Sequential(conv(3, 8), norm, conv(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert table(assert_exact(model, (3, 8, 8))) == {"0": 8}
    else:
        model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
        assert table(assert_exact(model, (8,))) == {"0": 16}


class Efficient(nn.Module):
    """ECA: a convolution over the channels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slide, self.last = conv(3, 8), nn.Conv1d(1, 1, 3, padding=1), conv(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate = self.slide(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return self.last(x * gate[:, :, None, None]).mean((2, 3))


def test_statistics_over_channels_are_refused_by_name() -> None:
    traced = trace(Efficient(), torch.zeros(1, 3, 8, 8))
    assert table(traced) == {}
    assert "Conv1d 'slide', which slides over them as over space" in reason(traced)


# -- attention ------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, width: int, num_heads: int, *, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim, self.fused = num_heads, width // num_heads, width, fused
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q * self.head_dim**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(n, t, self.attn_dim))


class Transformer(nn.Module):
    """A small vision transformer: patches, a class token, positions, one block."""

    def __init__(self, *, fused: bool = True) -> None:
        super().__init__()
        self.patches, self.cls = nn.Conv2d(3, 32, 4, 4), nn.Parameter(torch.randn(1, 1, 32))
        self.positions = nn.Parameter(torch.randn(1, 5, 32))
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = Attention(32, 4, fused=fused)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.positions
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x)[:, 0])


@pytest.mark.parametrize("fused", [True, False])
def test_heads_hidden_layers_and_the_stream_of_a_transformer(fused: bool) -> None:
    traced = assert_exact(Transformer(fused=fused), (3, 8, 8))
    assert table(traced) == {"patches": 32, "attention.qkv": 4, "mlp.0": 64}
    assert traced.group("attention.qkv").member("attention", "num_heads").index.tolist() == [[0], [1], [2], [3]]
    assert traced.refused == ()
    dense = dict(zip(traced.cost.groups, traced.cost.dense, strict=True))
    # One head less: 5 tokens, 3 * 8 rows of qkv and 8 columns of proj of 32, and two products of 5 x 5 x 8.
    fewer = traced.cost.dense_macs - traced.cost.macs({**dense, "attention.qkv": 3})
    assert fewer == 5 * 32 * 4 * 8 + 2 * 5 * 5 * 8


class StreamAttention(nn.Module):
    """The size of a head is worked out from the stream, as in Swin and PVT; three heads, a window of three."""

    def __init__(self, width: int, num_heads: int, kind: str) -> None:
        super().__init__()
        self.num_heads, self.window, self.kind = num_heads, [3, 3], kind
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias, self.scale = nn.Parameter(torch.randn(num_heads, 9, 9)), nn.Parameter(torch.randn(width))
        self.reduce, self.norm = nn.Conv2d(width, width, 3, 3), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        read = x
        if self.kind == "reduced":  # Keys and values of fewer places, by a convolution as wide as the stream.
            reduced = self.reduce(x.transpose(1, 2).reshape(n, c, 3, 3)).reshape(n, c, -1).transpose(1, 2)
            read = x + self.norm(reduced)
        q, k, v = self.qkv(read).reshape(n, t, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.kind == "summed":  # One query for all, by a sum over the channels of a head, as in class attention.
            scores = (q[:, :, :1] * k).sum(-1) * (c // self.num_heads) ** -0.5
            x = scores.softmax(-1)[:, :, None] @ v
            return torch.cat([self.proj(x.transpose(1, 2).reshape(n, 1, c)), read[:, 1:]], 1) * self.scale
        if self.kind == "across":  # Channels attend to channels, as in XCiT and DaViT.
            x = ((q.transpose(-2, -1) @ k) * t**-0.5).softmax(-1) @ v.transpose(-2, -1)
            return self.proj(x.permute(0, 3, 1, 2).reshape(n, t, c))
        scores = q * (c // self.num_heads) ** -0.5 @ k.transpose(-2, -1)
        scores = scores.view(n, self.num_heads, t, t) + self.bias
        x = scores.softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(n, t, c))


class StreamTransformer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(24) for _ in range(4))
        self.blocks = nn.ModuleList(StreamAttention(24, 3, kind) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(24, 64), nn.GELU(), nn.Linear(64, 24))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block, norm in zip(self.blocks, self.norms, strict=False):
            x = x + block(norm(x))
        return self.head(self.norms[3](x + self.mlp(self.norms[2](x))).mean(1))


@pytest.mark.parametrize("kind", ["plain", "across", "summed", "reduced"])
def test_heads_take_their_share_of_the_stream_with_them_where_their_size_follows_it(kind: str) -> None:
    model = StreamTransformer(kind)
    traced = assert_exact(model, (3, 12, 12))
    assert table(traced) == {"patches": 3, "mlp.0": 64}
    stream = traced.group("patches")
    assert stream.member("patches").index.tolist() == [list(range(8 * h, 8 * h + 8)) for h in range(3)]
    assert stream.member("blocks.0", "num_heads").index.tolist() == [[0], [1], [2]]
    assert not any(member.axis.startswith("window") for member in stream.members)
    refused = {layer for each in traced.refused for layer in each.layers}
    assert refused == (set() if kind == "reduced" else {"blocks.0.reduce", "blocks.1.reduce"})  # They do not run.


def test_channels_that_attend_to_channels_go_by_heads_and_cost_their_square() -> None:
    """9 tokens: a head less is 3 * 8 rows of qkv and 8 columns of proj of 24, and two products of 8 x 8 x 9."""
    traced = assert_exact(CrossCovariance(), (3, 12, 12))
    assert table(traced) == {"patches": 24, "qkv": 3}
    fewer = traced.cost.dense_macs - traced.cost.macs({"patches": 24, "qkv": 2})
    assert fewer == 9 * 24 * 4 * 8 + 2 * 8 * 8 * 9


class CrossCovariance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.num_heads, self.head_dim = nn.Conv2d(3, 24, 4, 4), 3, 8
        self.qkv, self.proj, self.head = nn.Linear(24, 72), nn.Linear(24, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 4, 1).unbind(0)
        y = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)).softmax(-1) @ v
        return self.head((x + self.proj(y.permute(0, 3, 1, 2).flatten(2))).mean(1))


def test_a_transformer_cut_twice_is_cut_once() -> None:
    model = Transformer()
    traced = trace(model, torch.zeros(1, 3, 8, 8))
    first, second = draw(traced, 1), {"attention.qkv": np.array([0])}
    first["attention.qkv"] = np.array([1, 3])
    small, known = cut(model, traced.groups, first), narrowed(model, traced, first)
    assert known.cost.dense_macs == traced.cost.macs({name: len(kept) for name, kept in first.items()})
    both = {**first, "attention.qkv": np.array([1])}
    once, twice = cut(model, traced.groups, both).state_dict(), cut(small, known.groups, second).state_dict()
    assert all(torch.equal(once[key], twice[key]) for key in once)


class Encoder(nn.Module):
    """torch's own attention and encoder layer."""

    def __init__(self, *, batch_first: bool = True) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.layer = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=batch_first, norm_first=True)
        self.head, self.batch_first = nn.Linear(32, 4), batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x if self.batch_first else x.transpose(0, 1)
        y = self.norm(x)
        x = self.layer(x + self.attention(y, y, y, need_weights=False)[0])
        return self.head(x.mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("options", [{}, {"batch_first": False}])
@pytest.mark.filterwarnings("ignore:.*nested tensor")
def test_heads_of_torchs_own_attention(options: dict[str, bool]) -> None:
    traced = assert_exact(Encoder(**options), (3, 8, 8))
    assert table(traced) == {
        "patches": 32, "attention.in_proj_weight": 4, "layer.self_attn.in_proj_weight": 4, "layer.linear1": 48,
    }  # fmt: skip
    assert traced.refused == ()


@pytest.mark.parametrize("model", [Transformer(), narrow_attention(Encoder())])
@pytest.mark.parametrize("importance", [GroupNorm(), FilterNorm(), Damage(), Taylor()])
def test_importances_rank_heads_and_streams(model: nn.Module, importance: Importance) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 4)]
    traced = trace(model.eval(), batches[0][0])
    for name, score in importance.score(model, traced, batches=batches).items():
        assert score.shape == (traced.group(name).width,)
        assert np.isfinite(score).all()
        assert (score > 0).any(), name


class Mixer(nn.Module):
    """Places are mixed by a linear layer, as in MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.tokens, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(4, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2)
        return self.head((x + self.tokens(x)).transpose(1, 2).mean(1))


def test_channels_pass_by_a_layer_that_mixes_places() -> None:
    assert table(assert_exact(Mixer(), (3, 8, 8))) == {"patches": 16}
