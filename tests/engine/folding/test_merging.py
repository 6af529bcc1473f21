"""Merging is exact at borders too, and a normalisation can be taken back without changing an answer."""

import pytest
import torch
from torch import nn

from autoprune.engine.folding.merging import Moments, attach_norm, measure_moments, merge
from autoprune.errors import ConfigError, NetworkError

torch.set_num_threads(1)


def pair(dtype, *, seed=0, eps=1e-3, **options):
    torch.manual_seed(seed)
    conv = nn.Conv2d(5, 8, 3, **{"stride": 2, "padding": 1, "dilation": 2, "bias": True} | options)
    norm = nn.BatchNorm2d(8, eps=eps)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.randn(8))
        norm.running_var.copy_(torch.rand(8) + 0.1)
    return conv.to(dtype).eval(), norm.to(dtype).eval(), torch.randn(2, 5, 13, 11, dtype=dtype)


def error(one, other):
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("bias", [True, False])
def test_merge_equals_convolution_normalisation_and_matrix(dtype, tolerance, bias):
    conv, norm, x = pair(dtype, bias=bias)
    matrix = torch.randn(8, 8, dtype=dtype)
    matrix[[1, 4, 6]] = 0
    expected = torch.einsum("do,nohw->ndhw", matrix, norm(conv(x)))
    merged = merge(conv, norm, matrix=matrix)
    assert error(merged(x), expected) <= tolerance
    assert expected[:, [1, 4, 6]].abs().max() == 0
    assert (merged.out_channels, merged.weight.shape[0], merged.bias.shape[0]) == (8, 8, 8)
    assert merged.stride == conv.stride
    assert merged.dilation == conv.dilation


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_merge_without_a_matrix(dtype, tolerance):
    conv, norm, x = pair(dtype)
    before = [tensor.clone() for tensor in (*conv.parameters(), *norm.state_dict().values())]
    assert error(merge(conv, norm)(x), norm(conv(x))) <= tolerance
    after = [*conv.parameters(), *norm.state_dict().values()]
    assert all(one.equal(other) for one, other in zip(before, after, strict=True))


def test_merge_of_a_grouped_convolution_and_of_a_normalisation_without_scale():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 8, 3, groups=4, padding=1).double(), nn.BatchNorm2d(8, affine=False).double()
    norm.running_mean.copy_(torch.randn(8))
    conv, norm, x = conv.eval(), norm.eval(), torch.randn(1, 4, 6, 6).double()
    assert error(merge(conv, norm)(x), norm(conv(x))) <= 1e-12
    with pytest.raises(ConfigError, match="of 4 conv groups can only be merged whole"):
        merge(conv, norm, matrix=torch.eye(8))


def test_a_wide_matrix_makes_more_channels():
    conv, norm, x = pair(torch.float64)
    matrix = torch.randn(11, 8, dtype=torch.float64)
    expected = torch.einsum("do,nohw->ndhw", matrix, norm(conv(x)))
    assert error(merge(conv, norm, matrix=matrix)(x), expected) <= 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrix": torch.zeros(3, 7)}, r"must fit the 8 output channels .* a matrix of shape \(3, 7\)"),
    ],
)
def test_merge_refuses_what_does_not_fit(options, message):
    conv, norm, _ = pair(torch.float32)
    with pytest.raises(ConfigError, match=message):
        merge(conv, norm, **options)


def test_merge_needs_running_statistics():
    conv, _, _ = pair(torch.float32)
    with pytest.raises(NetworkError, match="must have running statistics to be merged"):
        merge(conv, nn.BatchNorm2d(8, track_running_stats=False))


# -- taking a normalisation back ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_an_attached_normalisation_changes_nothing(dtype, tolerance):
    conv, norm, x = pair(dtype)
    merged = merge(conv, norm)
    model = nn.Sequential(merged, nn.ReLU()).eval()
    moments = measure_moments(model, ["0"], [x, 2 * x])["0"]
    raw = torch.nn.functional.conv2d(torch.cat([x, 2 * x]), merged.weight, None, 2, 1, 2)
    torch.testing.assert_close(moments.mean, raw.mean((0, 2, 3)).detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.var, raw.var((0, 2, 3), unbiased=False).detach(), rtol=1e-5, atol=1e-6)
    bare, attached = attach_norm(merged, moments, eps=1e-5)
    assert bare.bias is None
    assert error(attached(bare(x)), merged(x)) <= tolerance
    assert attached.eps == 1e-5
    torch.testing.assert_close(attached.weight.detach(), torch.sqrt(moments.var + 1e-5))
    torch.testing.assert_close(attached.bias.detach(), (merged.bias + moments.mean).detach())


def test_an_attached_normalisation_is_standard_in_training_mode_too():
    conv, norm, x = pair(torch.float64)
    merged = merge(conv, norm)
    bare, attached = attach_norm(merged, measure_moments(nn.Sequential(merged), ["0"], [x])["0"])
    # on the batch that the moments come from, training mode gives the same answer
    assert error(attached.train()(bare(x)), merged(x)) <= 1e-12


def test_moments_do_not_depend_on_how_batches_are_cut():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1)).double()
    x = torch.randn(12, 3, 6, 6).double() + 100
    whole = measure_moments(model, ["0", "2"], [x])
    parts = measure_moments(model, ["0", "2"], x.split(5))
    for name in ("0", "2"):
        torch.testing.assert_close(parts[name].mean, whole[name].mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(parts[name].var, whole[name].var, rtol=1e-10, atol=1e-12)
    assert not model[0]._forward_hooks


def test_moments_refuse_what_can_not_be_measured():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with pytest.raises(ConfigError, match="at least one batch"):
        measure_moments(model, ["0"], [])
    with pytest.raises(NetworkError, match="but '1' is a ReLU"):
        measure_moments(model, ["1"], [torch.zeros(1, 3, 2, 2)])
    with pytest.raises(ConfigError, match=r"moments must have shape \(4,\)"):
        attach_norm(model[0], Moments(torch.zeros(3), torch.ones(3)))
