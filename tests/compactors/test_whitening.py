"""Whitening and gates in numbers: Newton's iteration, activation probabilities, the Gumbel gate, and a shared gate."""

import copy

import pytest
import torch
from torch import nn

from autoprune.compactors import Gate, Whitening
from autoprune.compactors._whitening import (
    activation_probability,
    effective,
    gumbel_gate,
    in_blocks,
    inverse_root,
    joint_probability,
    logistic_noise,
    nudged,
    output_std,
    relative,
)

torch.set_num_threads(1)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


# -- pure functions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "shift", "margin", "expected"),
    [
        (1.0, 0.0, 0.0, 0.5),
        (1.0, 1.0, 0.0, 0.841345),
        (0.5, -0.5, 0.0, 0.158655),
        (0.05, -0.1, 0.05, 0.001350),
        (0.2, 0.1, 0.05, 0.598706),
        (-0.5, 0.25, 0.05, 0.655422),
    ],
)
def test_activation_probabilities(scale, shift, margin, expected):
    found = activation_probability(vector(shift), vector(scale), margin=margin)
    assert found.item() == pytest.approx(expected, abs=5e-7)


def test_a_scale_of_zero_has_a_probability_of_zero_or_one():
    shift = torch.tensor([0.0, 0.05, 0.1], requires_grad=True)
    scale = torch.zeros(3, requires_grad=True)
    found = activation_probability(shift, scale, margin=0.05)
    assert found.tolist() == [0.0, 0.5, 1.0]
    gumbel_gate(found, torch.zeros(3), temperature=0.5).sum().backward()
    assert torch.isfinite(shift.grad).all()
    assert torch.isfinite(scale.grad).all()


TWO = [
    (1, (1.070000, 0.640000), (0.238000, -0.432000), (1.091375, 0.684398), (0.569736, 0.225687), (0.568383, 0.240633)),
    (3, (1.038085, 0.884175), (0.291076, -0.697423), (1.115560, 1.049279), (0.591821, 0.198962), (0.585546, 0.238133)),
    (5, (1.029425, 0.929142), (0.300612, -0.746939), (1.118032, 1.117976), (0.596171, 0.195525), (0.588681, 0.237972)),
    (40, (1.029418, 0.929180), (0.300620, -0.746980), (1.118034, 1.118034), (0.596175, 0.195522), (0.588684, 0.237972)),
]


@pytest.mark.parametrize(("iterations", "scales", "shifts", "stds", "paper", "exact"), TWO)
def test_two_channels_in_both_forms(iterations, scales, shifts, stds, paper, exact):
    gamma, beta = vector(1.0, 0.5), vector(0.2, -0.3)
    covariance = (torch.outer(gamma, gamma) * torch.tensor([[1, 0.3], [0.3, 1]], dtype=torch.float64))[None]
    weights = inverse_root(covariance, gamma.square().sum()[None], iterations=iterations)
    scale, shift, std = effective(weights, gamma), effective(weights, beta), output_std(weights, covariance, 2)
    for found, expected in (
        (scale, scales),
        (shift, shifts),
        (std, stds),
        (activation_probability(shift, scale, margin=0.05), paper),
        (activation_probability(shift, std, margin=0.05), exact),
    ):
        assert found.tolist() == pytest.approx(expected, abs=6e-7)


def correlated(*shape):
    """Scales, shifts and what a BatchNorm with them gives for correlated channels: (C,), (C,), (M, C)."""
    mixed = torch.randn(*shape, dtype=torch.float64) @ torch.randn(shape[-1], shape[-1], dtype=torch.float64)
    normalised = (mixed - mixed.mean(0)) / mixed.std(0, correction=0)
    gamma, beta = torch.randn(2, shape[-1], dtype=torch.float64)
    return gamma, beta, normalised


def test_one_iteration_has_a_closed_form():
    gamma, beta, normalised = correlated(50, 7)
    rho = normalised.T @ normalised / 50
    energy = gamma.square().sum()
    weights = inverse_root((torch.outer(gamma, gamma) * rho)[None], energy[None], iterations=1)
    by_scale = (3 * gamma - gamma * (rho.T @ gamma.square()) / energy) / 2
    by_shift = (3 * beta - gamma * (rho.T @ (beta * gamma)) / energy) / 2
    torch.testing.assert_close(effective(weights, gamma), by_scale, rtol=1e-12, atol=0)
    torch.testing.assert_close(effective(weights, beta), by_shift, rtol=1e-12, atol=0)


def test_the_limit_whitens_each_block():
    gamma, _, normalised = correlated(200, 6)
    scaled = in_blocks(gamma * normalised, 3).transpose(0, 1)
    covariance, energy = scaled.mT @ scaled / 200, in_blocks(gamma, 3).square().sum(1)
    weights = inverse_root(covariance, energy, iterations=40)
    expected = energy[:, None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(weights @ covariance @ weights.mT, expected.expand(2, 3, 3), rtol=1e-8, atol=1e-8)


def test_many_iterations_do_not_blow_up_rounding():
    """Without carrying the root along, errors grow at a condition number of more than 9."""
    covariance = torch.diag(torch.logspace(0, -4, 16))
    turn, _ = torch.linalg.qr(torch.randn(16, 16))
    covariance = (turn @ covariance @ turn.T)[None]
    energy = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    weights = inverse_root(covariance, energy, iterations=20)
    exact = inverse_root(covariance.double(), energy.double(), iterations=20)
    assert (weights - exact).abs().max() <= 1e-3 * exact.abs().max()


def test_backpropagation_through_the_iteration():
    def root(factor):
        covariance = factor @ factor.mT / 5
        return inverse_root(covariance, covariance.diagonal(dim1=-2, dim2=-1).sum(-1), iterations=5)

    assert torch.autograd.gradcheck(root, torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True))


def test_a_dying_block_is_left_alone():
    covariance = torch.stack([torch.zeros(2, 2), torch.eye(2) * 1e-7, torch.eye(2)])
    energy = torch.tensor([0.0, 2e-7, 2.0])
    weights = inverse_root(covariance, energy, iterations=5)
    assert torch.equal(weights[:2], torch.eye(2).expand(2, 2, 2))
    assert weights[2].diagonal().tolist() == pytest.approx([2**0.5] * 2, rel=1e-3)


def test_blocks_are_filled_up_with_zeros():
    assert in_blocks(torch.arange(1.0, 6.0), 2).tolist() == [[1, 2], [3, 4], [5, 0]]
    assert in_blocks(torch.arange(4.0), 4).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("probability", "mean"), [(0.02, 0.029), (0.3, 0.325), (0.7, 0.674)])
def test_gates_open_as_often_as_they_should(probability, mean):
    probabilities = torch.full((1_000_000,), probability)
    gates = gumbel_gate(probabilities, logistic_noise(probabilities), temperature=0.5)
    assert (gates > 0.5).double().mean().item() == pytest.approx(probability, abs=0.0015)
    assert gates.double().mean().item() == pytest.approx(mean, abs=0.0015)


def test_the_gradient_of_the_gate_at_a_point():
    scale, shift = vector(0.4).requires_grad_(), vector(0.3).requires_grad_()
    probability = activation_probability(shift, scale, margin=0.05)
    gate = gumbel_gate(probability, vector(0.7), temperature=0.5)
    gate.sum().backward()
    assert probability.item() == pytest.approx(0.734014, abs=1e-6)
    assert gate.item() == pytest.approx(0.968634, abs=1e-6)
    assert shift.grad.item() == pytest.approx(0.255334, abs=1e-6)
    assert scale.grad.item() == pytest.approx(-0.159584, abs=1e-6)


def test_gates_are_finite_at_both_ends():
    probability = torch.tensor([0.0, 1.0], requires_grad=True)
    gates = gumbel_gate(probability, torch.zeros(2), temperature=0.5)
    gates.sum().backward()
    assert gates.tolist() == pytest.approx([0, 1], abs=1e-6)
    assert probability.grad.tolist() == pytest.approx([0, 0], abs=1e-5)
    assert torch.isfinite(logistic_noise(torch.zeros(1_000_000))).all()


def test_branches_are_multiplied_or_summed():
    shifts, stds = (
        torch.stack([vector(0.3, -1.0), vector(0.1, 2.0)]),
        torch.stack([vector(-0.3, 1.0), vector(0.4, 1.0)]),
    )
    each = activation_probability(shifts, stds, margin=0.05)
    product = joint_probability(shifts, stds, margin=0.05, of_sum=False)
    assert product.tolist() == pytest.approx((each[0] * each[1]).tolist(), rel=1e-12)
    of_sum = joint_probability(shifts, stds, margin=0.05, of_sum=True)
    expected = activation_probability(vector(0.4, 1.0), vector(0.5, 2**0.5), margin=0.05)
    assert of_sum.tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    for form in (False, True):  # the same thing where there is one branch
        torch.testing.assert_close(joint_probability(shifts[:1], stds[:1], margin=0.05, of_sum=form), each[0])


def test_a_probability_relative_to_the_first():
    """Odds: P = 0.3 is 3/7, P₀ = 0.4 is 2/3, p = 0.9 is 9; so 9 (3/7) / (2/3) = 81/14."""
    first = torch.tensor([0.4, 0.4, 1e-4, 1 - 1e-4], dtype=torch.float64)
    found = relative(torch.tensor([0.4, 0.3, 1e-4, 1.0], dtype=torch.float64), first, start=0.9)
    dead = 9e-4 / (1 - 1e-4) * 49  # P₀ counts as 1/50
    assert found[:3].tolist() == pytest.approx([0.9, 81 / 95, dead / (1 + dead)], rel=1e-9)
    assert found[2] < 0.5 < found[3] < 1


# -- the layer ------------------------------------------------------------------------------------------------------


def made(width=5, *, gate=None, dtype=torch.float64, shift=None, **options):
    norm = nn.BatchNorm2d(width).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        if shift is not None:
            norm.bias.fill_(shift)
    return norm, Whitening(norm, gate or Gate(), **options)


def images(width=5, dtype=torch.float64, n=8):
    return torch.einsum("nchw,cd->ndhw", torch.randn(n, width, 6, 6), torch.randn(width, width)).to(dtype)


def test_starts_as_the_identity():
    norm, whitening = made(5, group_size=2, dtype=torch.float32)
    x = norm.eval()(images(dtype=torch.float32))
    assert torch.equal(whitening.eval()(x, norm), x)
    assert torch.equal(whitening.matrix(), torch.eye(5))


def test_whitens_within_blocks_while_training():
    """Shifts so high that all gates are open; the last block has one channel."""
    norm, whitening = made(5, shift=30.0, group_size=2, iterations=60, rate=0.25)
    x = norm(images())
    out = whitening(x, norm)
    energy = in_blocks(norm.weight.detach().square(), 2).sum(1)
    mixed = torch.cov(out.detach().transpose(0, 1).flatten(1), correction=0)
    assert mixed.diagonal().tolist() == pytest.approx(energy.repeat_interleave(2)[:5].tolist(), rel=1e-4)
    assert abs(mixed[0, 1]) < 1e-4 * energy[0]
    assert abs(mixed[2, 3]) < 1e-4 * energy[1]
    assert abs(mixed[0, 2]) > 1e-2 * energy[0]  # across blocks nothing is done
    expected = torch.linalg.lstsq(x.detach().transpose(0, 1).flatten(1).T, out.detach().transpose(0, 1).flatten(1).T)
    weights = expected.solution.T
    running = 0.75 * torch.eye(5, dtype=torch.float64) + 0.25 * weights
    torch.testing.assert_close(whitening.matrix(), running, rtol=1e-4, atol=1e-4)
    evaluated = whitening.eval()(x, norm)
    torch.testing.assert_close(evaluated, torch.einsum("dc,nchw->ndhw", whitening.matrix(), x), rtol=1e-12, atol=1e-12)


def test_the_memory_format_is_not_looked_at():
    norm, whitening = made(5, group_size=2)
    x = norm(images())
    answers = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(3)
        answers.append(whitening(x.contiguous(memory_format=layout), norm))
    torch.testing.assert_close(*answers, rtol=1e-12, atol=1e-12)


def test_multiplies_by_the_gate_of_its_own_batch():
    norm, whitening = made(4, iterations=3, gate=Gate(temperature=0.7, margin=0.1))
    x = norm(images(4))
    torch.manual_seed(5)
    out = whitening(x, norm)
    centred = (x - norm.bias[:, None, None]).transpose(0, 1).flatten(1)
    covariance = (centred @ centred.T / centred.shape[1])[None]
    weights = inverse_root(covariance, norm.weight.square().sum()[None], iterations=3)
    probability = activation_probability(effective(weights, norm.bias), effective(weights, norm.weight), margin=0.1)
    torch.manual_seed(5)
    gate = gumbel_gate(probability, logistic_noise(probability), temperature=0.7)
    expected = torch.einsum("dc,nchw->ndhw", weights[0], x) * gate[:, None, None]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("exact", [False, True])
def test_gradients_of_the_whole_layer(exact):
    norm, whitening = made(3, group_size=2, iterations=3, gate=Gate(exact=exact))
    x = images(3, n=2)[:, :, :2, :2]

    def answer(x, gamma, beta):
        torch.manual_seed(7)
        given = {"weight": gamma, "bias": beta}
        for key, value in given.items():
            delattr(norm, key)
            setattr(norm, key, value)
        normalised = torch.nn.functional.batch_norm(x, None, None, gamma, beta, training=True)
        return whitening(normalised, norm)

    given = [tensor.detach().clone().requires_grad_() for tensor in (x, norm.weight, norm.bias)]
    assert torch.autograd.gradcheck(answer, given, atol=1e-5)


def test_nothing_takes_effect_at_a_share_of_zero():
    norm, whitening = made(5)
    whitening.gate.share = 0.0
    x = norm(images())
    assert torch.equal(whitening(x, norm), x)
    assert torch.equal(whitening.matrix(), torch.eye(5, dtype=torch.float64))


def test_half_a_share_is_half_of_both():
    norm, whitening = made(5, shift=-30.0)  # all gates are shut
    whitening.gate.share = 0.5
    x = norm(images())
    half = whitening(x, norm)
    weights = (whitening.matrix() - 0.9 * torch.eye(5, dtype=torch.float64)) / 0.1
    expected = torch.einsum("dc,nchw->ndhw", weights, x) / 2
    torch.testing.assert_close(half, expected, rtol=1e-5, atol=1e-5)


def test_what_is_saved():
    assert set(made(5)[1].state_dict()) == {"running", "covariance"}
    assert set(made(5, nudge=0.05)[1].state_dict()) == {"running", "covariance", "estimate"}


# -- the running estimate -------------------------------------------------------------------------------------------


def test_nudges_come_to_rest_at_the_inverse_root():
    covariance = torch.tensor([[[1.0, 0.6], [0.6, 1.0]]], dtype=torch.float64)
    weights = torch.eye(2, dtype=torch.float64)[None]
    for _ in range(400):
        weights = nudged(weights, covariance, rate=0.05)
    root = torch.tensor([[1.185854, -0.395285], [-0.395285, 1.185854]], dtype=torch.float64)
    torch.testing.assert_close(weights[0], root, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        weights @ covariance @ weights.mT, torch.eye(2, dtype=torch.float64)[None], atol=1e-12, rtol=0
    )


def test_a_nudge_that_is_too_large_is_made_smaller():
    weights, covariance = torch.eye(16)[None], 3 * torch.ones(1, 16, 16)  # One direction with variance 48.
    for _ in range(2_000):
        weights = nudged(weights, covariance + 0.1 * torch.eye(16), rate=0.5)
    whitened = weights @ (covariance + 0.1 * torch.eye(16)) @ weights.mT
    torch.testing.assert_close(whitened, torch.eye(16)[None], rtol=0, atol=1e-3)


@pytest.mark.parametrize("keep_variance", [False, True])
def test_the_estimate_comes_to_the_root_of_each_block(keep_variance):
    """Five channels in blocks of two, the same batch again and again; the last block is filled up."""
    norm, whitening = made(5, shift=30.0, group_size=2, keep_variance=keep_variance, nudge=0.1)
    x = norm(images()).detach()
    for _ in range(300):
        out = whitening(x, norm).detach()
    centred = (x - norm.bias.detach()[:, None, None]).transpose(0, 1).flatten(1)
    for first, n in ((0, 2), (2, 2), (4, 1)):
        block = centred[first : first + n] @ centred[first : first + n].T / centred.shape[1]
        values, vectors = torch.linalg.eigh(block * n / block.trace() + 0.02 * torch.eye(n, dtype=torch.float64))
        root = vectors @ torch.diag(values.rsqrt()) @ vectors.T * (1 if keep_variance else n**0.5)
        expected = torch.einsum("dc,nchw->ndhw", root, x[:, first : first + n])
        torch.testing.assert_close(out[:, first : first + n], expected, rtol=1e-4, atol=1e-4)


def test_no_gradient_passes_the_estimate_but_that_of_the_gate_does():
    norm, whitening = made(4, nudge=0.05)
    x = norm(images(4))
    whitening(x, norm).square().sum().backward()
    assert norm.weight.grad.abs().sum() > 0
    assert not whitening.estimate.requires_grad


def test_a_draw_that_a_branch_did_not_take_is_let_go():
    """As where a branch is skipped at random: the next step must not reach back into the graph of this one."""
    gate, pairs, features = branches()
    for (norm, whitening), x in zip(pairs, features, strict=True):
        whitening(x, norm).sum().backward()
        gate.forget()


def test_arithmetic_is_float32_under_autocast():
    norm, whitening = made(20, dtype=torch.float32)
    other = copy.deepcopy(whitening)
    x = norm(images(20, dtype=torch.float32)).bfloat16()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        out = whitening(x, norm)
    torch.manual_seed(5)
    expected = other(x.float(), norm)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected.bfloat16())
    assert torch.equal(whitening.running, other.running)
    assert whitening.running.dtype == torch.float32


def test_rounding_of_large_shifts_does_not_make_it_diverge():
    """In bfloat16 a shift of 3 is off by up to 0.008; scales of 0.001 drown in it."""
    norm, whitening = made(16, dtype=torch.float32, shift=2.997)
    with torch.no_grad():
        norm.weight.fill_(1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        out = whitening(norm(images(16, torch.float32)).bfloat16(), norm)
    out.float().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(norm.weight.grad).all()
    assert whitening.running.abs().max() < 1.5**5


@pytest.mark.parametrize("keep_variance", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_a_dead_group_trains_on(exact, keep_variance):
    options = {"group_size": 2, "keep_variance": keep_variance}
    norm, whitening = made(5, dtype=torch.float32, gate=Gate(exact=exact), **options)
    with torch.no_grad():
        norm.weight[2:] = 0
    x = norm(images(dtype=torch.float32))
    whitening(x, norm).square().sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (norm.weight, norm.bias))
    assert torch.equal(whitening.running[1], torch.eye(2))
    assert torch.isfinite(whitening.gate.probability()).all()


# -- a gate shared by branches --------------------------------------------------------------------------------------


def branches(**options):
    """Two, with shifts of zero in the batch, so that what comes out shows the gate."""
    gate = Gate(**options)
    pairs = [made(4, gate=gate), made(4, gate=gate)]
    return gate, pairs, [norm(images(4)) for norm, _ in pairs]


def gate_of(out, x, whitening, rate=0.1):
    weights = (whitening.matrix() - (1 - rate) * torch.eye(4, dtype=torch.float64)) / rate  # of the first step
    return (out / torch.einsum("dc,nchw->ndhw", weights, x)).flatten(2).median(2).values[0]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("of_sum", [False, True])
def test_one_draw_serves_all_branches(first, of_sum):
    _, pairs, xs = branches(of_sum=of_sum)
    before = [whitening.running.clone() for _, whitening in pairs]
    torch.manual_seed(9)
    found, outs = {}, {}
    for index in (first, 1 - first):
        norm, whitening = pairs[index]
        outs[index] = whitening(xs[index], norm)
        found[index] = gate_of(outs[index].detach(), xs[index].detach(), whitening)
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-9)
    used = list(before)  # The branch that runs first has the W of its batch, the other one its running mean.
    used[first] = (pairs[first][1].running - 0.9 * before[first]) / 0.1
    shifts, scales = (
        torch.stack([effective(w, getattr(norm, key)) for w, (norm, _) in zip(used, pairs, strict=True)])
        for key in ("bias", "weight")
    )
    probability = joint_probability(shifts, scales, margin=0.05, of_sum=of_sum).detach()
    torch.manual_seed(9)
    expected = gumbel_gate(probability, logistic_noise(probability), temperature=0.5)
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-9)
    norm = pairs[1 - first][0]
    (slope,) = torch.autograd.grad(outs[first].square().sum(), norm.bias)
    assert (slope != 0).all()  # through the gate alone: the other branch does not enter this output


def test_each_step_draws_anew_and_leaves_nothing_behind():
    gate, pairs, xs = branches()

    def step():
        outs = [whitening(x, norm) for (norm, whitening), x in zip(pairs, xs, strict=True)]
        sum(out.sum() for out in outs).backward(retain_graph=True)
        return outs[0].detach()

    one, other = step(), step()
    assert not torch.allclose(one, other)
    copied = copy.deepcopy(nn.ModuleList([module for pair in pairs for module in pair]))  # fails on graphs
    assert copied[1].gate is copied[3].gate
    assert copied[1].gate is not gate


def test_a_step_that_broke_off_does_not_lend_its_gate():
    _, pairs, xs = branches()
    torch.manual_seed(1)
    first = pairs[0][1](xs[0], pairs[0][0])
    second = pairs[0][1](xs[0], pairs[0][0])  # the other branch never ran
    assert not torch.allclose(first, second)


def test_probabilities_of_a_group_are_those_of_its_running_means():
    gate, pairs, _ = branches()
    shifts, scales = (torch.stack([getattr(norm, key).detach() for norm, _ in pairs]) for key in ("bias", "weight"))
    each = activation_probability(shifts, scales, margin=0.05)
    assert gate.probability().tolist() == pytest.approx((each[0] * each[1]).tolist(), rel=1e-12)
    with torch.no_grad():
        for _, whitening in pairs:
            whitening.running.mul_(2)  # shift and scale alike, so only the margin counts for less
    each = activation_probability(shifts, scales, margin=0.025)
    assert gate.probability().tolist() == pytest.approx((each[0] * each[1]).tolist(), rel=1e-12)
