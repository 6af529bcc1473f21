"""Costs are exact, and `fit` inverts them: never above, maximal, within one step of proportional."""

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.cost import CONVENTION, CostModel, LayerCost, LinearForm
from autoprune.errors import ConfigError, InfeasibleError
from autoprune.inverse import fit


def chain(dense=(8, 12, 6), *, inputs=3, classes=4, positions=16):
    """A chain of 3×3 convolutions with normalisations and a linear layer, written down by hand."""
    names = tuple(f"conv{i}" for i in range(len(dense)))
    layers, fan_in = [], LinearForm(inputs)
    for i, name in enumerate(names):
        fan_out = LinearForm(0, ((i, 1),))
        layers.append(LayerCost(name, 9 * positions, 9, 0, fan_in, fan_out))
        layers.append(LayerCost(f"bn{i}", 0, 0, 2, LinearForm(1), fan_out))
        fan_in = fan_out
    layers.append(LayerCost("fc", 1, 1, 1, fan_in, LinearForm(classes)))
    return CostModel(names, tuple(dense), (1,) * len(dense), tuple(layers))


def chain_by_hand(widths, *, inputs=3, classes=4, positions=16):
    macs = params = 0
    for before, width in itertools.pairwise((inputs, *widths)):
        macs += 9 * positions * before * width
        params += 9 * before * width + 2 * width
    return macs + widths[-1] * classes, params + widths[-1] * classes + classes


@st.composite
def cost_models(draw, max_groups=5, max_width=24, with_steps=True):
    """Any network: layers are products of linear forms with non-negative coefficients; every group costs something."""
    n = draw(st.integers(1, max_groups))
    steps = [draw(st.sampled_from([1, 1, 2, 3])) if with_steps else 1 for _ in range(n)]
    dense = [step * draw(st.integers(1, max_width // step)) for step in steps]

    def form():
        terms = tuple((g, draw(st.integers(1, 3))) for g in range(n) if draw(st.booleans()))
        return LinearForm(draw(st.integers(0 if terms else 1, 4)), terms)

    layers = [
        LayerCost(
            f"layer{i}", draw(st.integers(1, 50)), draw(st.integers(1, 9)), draw(st.integers(0, 2)), form(), form()
        )
        for i in range(draw(st.integers(1, 6)))
    ]
    layers += [
        LayerCost(f"own{g}", draw(st.integers(1, 20)), 1, 0, LinearForm(1), LinearForm(0, ((g, 1),))) for g in range(n)
    ]
    return CostModel(tuple(f"g{g}" for g in range(n)), tuple(dense), tuple(steps), tuple(layers))


# -- the model ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.data())
def test_counts_equal_the_hand_written_formula(dense, data):
    model = chain(dense)
    widths = [data.draw(st.integers(1, width)) for width in dense]
    mapping = model.as_mapping(np.array(widths))
    assert (model.macs(mapping), model.params(mapping)) == chain_by_hand(widths)
    assert (model.dense_macs, model.dense_params) == chain_by_hand(dense)
    assert sum(model.layer_macs(mapping).values()) == model.macs(mapping)
    assert model.macs_ratio(mapping) == chain_by_hand(widths)[0] / chain_by_hand(dense)[0]


@given(cost_models(), st.integers(0, 2**32 - 1))
def test_many_widths_at_once_equal_one_at_a_time(model, seed):
    generator = np.random.default_rng(seed)
    table = np.stack([generator.integers(1, width + 1, size=7) for width in model.dense], axis=1)
    macs, params, layers = model.macs(table), model.params(table), model.layer_macs(table)
    assert macs.shape == params.shape == (7,)
    assert macs.dtype == params.dtype == layers.dtype == np.int64
    for row, one_macs, one_params, one_layers in zip(table, macs, params, layers, strict=True):
        mapping = model.as_mapping(row)
        assert model.macs(row).shape == ()
        assert one_macs == model.macs(mapping) == int(model.macs(row))
        assert one_params == model.params(mapping)
        assert list(one_layers) == list(model.layer_macs(mapping).values())
    np.testing.assert_array_equal(model.params_ratio(table), params / model.dense_params)


def test_counts_beyond_the_exact_range_of_float64_stay_exact():
    form = LinearForm(1, ((0, 1),))
    model = CostModel(("g",), (2**27,), (1,), (LayerCost("big", 3, 1, 0, form, form),))
    width = 2**27 - 1
    assert model.dense_macs > 2**53
    assert model.macs({"g": width}) == 3 * 2**54


def test_absent_groups_keep_their_dense_width():
    model = chain()
    assert model.macs({}) == model.dense_macs
    assert model.macs({"conv1": 6}) == chain_by_hand((8, 6, 6))[0]
    assert model.as_array({"conv1": 6}).tolist() == [8, 6, 6]


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"conv9": 1}, "no channel group 'conv9'; did you mean 'conv"),
        ({"conv1": 13}, r"the width of 'conv1' must be in 1 \.\. 12, but got 13"),
        ({"conv1": 0}, r"must be in 1 \.\. 12, but got 0"),
        (np.array([[1, 1, 1], [1, 1, 7]]), r"the width of 'conv2' must be in 1 \.\. 6, but got 7"),
        (np.array([1, 1]), r"shape \(3,\) or \(T, 3\), but got int64 of shape \(2,\)"),
        (np.array([1.0, 1.0, 1.0]), "integer array .* but got float64"),
    ],
)
def test_wrong_widths_are_refused(widths, message):
    with pytest.raises(ConfigError, match=message):
        chain().macs(widths)


@given(cost_models())
def test_json_round_trip(model):
    data = json.loads(json.dumps(model.to_dict()))
    assert data["convention"] == CONVENTION
    assert CostModel.from_dict(data) == model


def test_another_convention_is_refused():
    data = chain().to_dict() | {"convention": "flops-2"}
    with pytest.raises(
        ConfigError, match="convention 'macs-1', but this record uses 'flops-2'; trace the network again"
    ):
        CostModel.from_dict(data)


def test_knows_no_torch():
    code = "import sys, autoprune.cost; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the inverse ----------------------------------------------------------------------------------------------------


def ladder(dense, step, multiple, least):
    stride = np.lcm(step, multiple) if dense > multiple else step
    return [width for width in range(stride, dense, stride) if width >= least] + [dense]


def meets(model, widths, macs, params):
    array = np.array(widths, dtype=np.int64)
    return (macs is None or model.macs(array) <= macs) and (params is None or model.params(array) <= params)


def real_cost(model, widths):
    macs = params = 0.0
    for layer in model.layers:
        fan_in, fan_out = (
            form.constant + sum(k * widths[g] for g, k in form.terms) for form in (layer.fan_in, layer.fan_out)
        )
        macs += layer.macs * fan_in * fan_out
        params += (layer.weights * fan_in + layer.biases) * fan_out
    return macs, params


def proportional(model, ladders, shape, macs, params):
    """Widths of the continuous problem, found by bisection on the scale with a formula of our own."""
    low, high = 0.0, 1 / min(shape)
    for _ in range(200):
        scale = (low + high) / 2 if _ else high
        widths = [min(max(scale * s * d, rungs[0]), d) for s, d, rungs in zip(shape, model.dense, ladders, strict=True)]
        cost = real_cost(model, widths)
        fits = (macs is None or cost[0] <= macs) and (params is None or cost[1] <= params)
        if fits and not _:
            return widths
        low, high = (scale, high) if fits else (low, scale)
    return [min(max(low * s * d, rungs[0]), d) for s, d, rungs in zip(shape, model.dense, ladders, strict=True)]


def is_maximal(model, widths, ladders, macs, params):
    for group, rungs in enumerate(ladders):
        place = rungs.index(widths[group])
        if place + 1 < len(rungs):
            wider = [*widths]
            wider[group] = rungs[place + 1]
            if meets(model, wider, macs, params):
                return False
    return True


def near(ladders, target):
    """Allowed widths within one step of the target, by group."""
    choices = []
    for rungs, width in zip(ladders, target, strict=True):
        below = max((i for i, rung in enumerate(rungs) if rung <= width * (1 + 1e-9)), default=0)
        lowest = below - 1 if abs(rungs[below] - width) <= 1e-9 * width else below
        choices.append(rungs[max(0, lowest) : below + 2])
    return choices


@settings(max_examples=150, deadline=None)
@given(cost_models(max_groups=4), st.data())
def test_fit_is_never_above_maximal_and_near_proportional(model, data):
    n = len(model.groups)
    macs = data.draw(st.none() | st.floats(0.02, 1.1)) if n else None
    params = data.draw(st.floats(0.02, 1.1)) if macs is None else data.draw(st.none() | st.floats(0.02, 1.1))
    macs, params = macs and macs * model.dense_macs, params and params * model.dense_params
    shape = [data.draw(st.floats(0.25, 4)) for _ in range(n)]
    least = [data.draw(st.integers(1, max(1, width // 4))) for width in model.dense]
    multiple = data.draw(st.sampled_from([1, 1, 2, 4, 8]))
    ladders = [ladder(d, s, multiple, m) for d, s, m in zip(model.dense, model.steps, least, strict=True)]
    request = {
        "macs": macs,
        "params": params,
        "shape": dict(zip(model.groups, shape, strict=True)),
        "min_widths": dict(zip(model.groups, least, strict=True)),
        "multiple": multiple,
    }
    if not meets(model, [rungs[0] for rungs in ladders], macs, params):
        with pytest.raises(InfeasibleError, match="the least is"):
            fit(model, **request)
        return
    found = fit(model, **request)
    assert found == fit(model, **request)
    widths = [found[name] for name in model.groups]
    assert all(type(width) is int for width in widths)
    assert all(width in rungs for width, rungs in zip(widths, ladders, strict=True))
    assert meets(model, widths, macs, params)
    assert is_maximal(model, widths, ladders, macs, params)

    target = proportional(model, ladders, shape, macs, params)
    choices = near(ladders, target)
    assert all(width >= choice[0] for width, choice in zip(widths, choices, strict=True))
    if any(width > choice[-1] for width, choice in zip(widths, choices, strict=True)):
        # allowed only where no widths near the proportional ones leave too little room to grow; a full search shows it
        maximal = [
            list(option)
            for option in itertools.product(*choices)
            if meets(model, option, macs, params) and is_maximal(model, list(option), ladders, macs, params)
        ]
        assert not maximal


def test_fit_returns_dense_widths_when_all_fits():
    model = chain()
    assert fit(model, macs=model.dense_macs) == {"conv0": 8, "conv1": 12, "conv2": 6}
    assert fit(model, params=10 * model.dense_params) == {"conv0": 8, "conv1": 12, "conv2": 6}


def test_fit_hits_proportional_widths_exactly():
    model = chain((16, 32, 64))
    half = model.as_mapping(np.array([8, 16, 32]))
    assert fit(model, macs=model.macs(half)) == half
    assert fit(model, params=model.params(half)) == half


def test_fit_follows_the_shape_and_the_minimum():
    model = chain((64, 64, 64))
    found = fit(model, macs=0.3 * model.dense_macs, shape={"conv0": 0.5}, min_widths={"conv2": 48})
    assert found["conv2"] >= 48
    assert abs(found["conv1"] - 2 * found["conv0"]) <= 2


def test_fit_rounds_to_multiples_but_leaves_narrow_groups_alone():
    model = chain((60, 64, 6))
    found = fit(model, macs=0.5 * model.dense_macs, multiple=8)
    assert found["conv0"] % 8 == 0 or found["conv0"] == 60
    assert found["conv1"] % 8 == 0
    assert 1 <= found["conv2"] <= 6
    assert fit(model, macs=model.dense_macs, multiple=8)["conv0"] == 60


def test_fit_names_the_reachable_minimum():
    model = chain()
    least, least_params = chain_by_hand((1, 1, 1))
    with pytest.raises(InfeasibleError, match=rf"at most 100 MACs, but the least is {least:,} "):
        fit(model, macs=100)
    with pytest.raises(InfeasibleError, match=rf"at most 10 parameters, but the least is {least_params:,} "):
        fit(model, macs=1e9, params=10)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "needs a limit: give `macs`, `params` or both"),
        ({"macs": 1e4, "shape": {"conv9": 1.0}}, "no channel group 'conv9'"),
        ({"macs": 1e4, "min_widths": {"conv9": 1}}, "no channel group 'conv9'"),
        ({"macs": 1e4, "shape": {"conv0": 0.0}}, "a shape must be a positive number, but got 0.0 for group 'conv0'"),
        ({"macs": 1e4, "min_widths": {"conv0": 9}}, r"the smallest width of 'conv0' must be in 1 \.\. 8, but got 9"),
        ({"macs": 1e4, "multiple": 0}, "`multiple` must be at least 1, but got multiple=0"),
    ],
)
def test_fit_refuses_wrong_requests(request_, message):
    with pytest.raises(ConfigError, match=message):
        fit(chain(), **request_)


def test_a_hundred_thousand_widths_of_resnet50_take_less_than_a_second():
    import torch

    from autoprune.architectures import build
    from autoprune.engine.groups import trace

    torch.set_num_threads(1)
    model = trace(build("torchvision/resnet50", n_classes=10, in_channels=3), torch.zeros(1, 3, 32, 32)).cost
    generator = np.random.default_rng(0)
    table = np.stack([generator.integers(1, width + 1, size=100_000) for width in model.dense], axis=1)
    start = time.process_time()  # of this process: other work on the machine does not count
    macs, params = model.macs(table), model.params(table)
    cpu_s = time.process_time() - start
    assert macs.shape == params.shape == (100_000,)
    assert cpu_s < 1.0
    assert macs[7] == model.macs(model.as_mapping(table[7]))
