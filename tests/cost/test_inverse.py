"""`fit` inverts costs: never above, maximal, within one step of proportional."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.cost import Limits, fit
from autoprune.errors import ConfigError, InfeasibleError
from tests.cost_models import chain, chain_by_hand, cost_models


def ladder(dense, multiple, least):
    stride = multiple if dense > multiple else 1
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
    ladders = [ladder(d, multiple, m) for d, m in zip(model.dense, least, strict=True)]
    min_widths = dict(zip(model.groups, least, strict=True))
    limits = Limits(macs=macs, params=params, min_widths=min_widths, multiple=multiple)
    multipliers = dict(zip(model.groups, shape, strict=True))
    if not meets(model, [rungs[0] for rungs in ladders], macs, params):
        with pytest.raises(InfeasibleError, match="the smallest ones cost"):
            fit(model, limits, multipliers=multipliers)
        return
    found = fit(model, limits, multipliers=multipliers)
    assert found == fit(model, limits, multipliers=multipliers)
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
    assert fit(model, Limits(macs=model.dense_macs)) == {"conv0": 8, "conv1": 12, "conv2": 6}
    assert fit(model, Limits(params=10 * model.dense_params)) == {"conv0": 8, "conv1": 12, "conv2": 6}


def test_fit_hits_proportional_widths_exactly():
    model = chain((16, 32, 64))
    half = model.as_mapping(np.array([8, 16, 32]))
    assert fit(model, Limits(macs=model.macs(half))) == half
    assert fit(model, Limits(params=model.params(half))) == half


def test_fit_follows_the_multipliers_and_the_minimum():
    model = chain((64, 64, 64))
    found = fit(model, Limits(macs=0.3 * model.dense_macs, min_widths={"conv2": 48}), multipliers={"conv0": 0.5})
    assert found["conv2"] >= 48
    assert abs(found["conv1"] - 2 * found["conv0"]) <= 2


def test_fit_rounds_to_multiples_but_leaves_narrow_groups_alone():
    model = chain((60, 64, 6))
    found = fit(model, Limits(macs=0.5 * model.dense_macs, multiple=8))
    assert found["conv0"] % 8 == 0 or found["conv0"] == 60
    assert found["conv1"] % 8 == 0
    assert 1 <= found["conv2"] <= 6
    assert fit(model, Limits(macs=model.dense_macs, multiple=8))["conv0"] == 60


def test_fit_names_the_reachable_minimum():
    model = chain()
    least, least_params = chain_by_hand((1, 1, 1))
    with pytest.raises(InfeasibleError, match=rf"at most 100 MACs \(.*\), but the smallest ones cost {least:,} "):
        fit(model, Limits(macs=100))
    with pytest.raises(
        InfeasibleError, match=rf"at most 10 parameters \(.*\), but the smallest ones cost {least_params:,} "
    ):
        fit(model, Limits(macs=1e9, params=10))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "needs a limit: give `macs`, `params` or both"),
        ({"macs": 1e4, "multipliers": {"conv9": 1.0}}, "no channel group 'conv9'"),
        ({"macs": 1e4, "min_widths": {"conv9": 1}}, "no channel group 'conv9'"),
        (
            {"macs": 1e4, "multipliers": {"conv0": 0.0}},
            "a multiplier must be a positive number, but got 0.0 for group 'conv0'",
        ),
        ({"macs": 1e4, "min_widths": {"conv0": 9}}, r"the smallest width of 'conv0' must be in 1 \.\. 8, but got 9"),
        ({"macs": 1e4, "multiple": 0}, "`multiple` must be at least 1, but got multiple=0"),
    ],
)
def test_fit_refuses_wrong_requests(request_, message):
    multipliers = request_.get("multipliers", {})
    limits = Limits(**{key: value for key, value in request_.items() if key != "multipliers"})
    with pytest.raises(ConfigError, match=message):
        fit(chain(), limits, multipliers=multipliers)
