"""Peak activation memory as plain data: the largest of linear forms, kept by widths, and read from older records."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost import CostModel, Limits, LinearForm, fit, undominated
from autoprune.errors import ConfigError, InfeasibleError
from tests.cost_models import chain

# By hand: an input of 48 bytes; 16 positions of 4 bytes a channel; what one layer reads and writes lives at once.
STEPS = (
    LinearForm(48, ((0, 64),)),
    LinearForm(0, ((0, 64), (1, 64))),
    LinearForm(0, ((1, 64), (2, 64))),
    LinearForm(16, ((2, 64),)),
)


def by_hand(a, b, c):
    return max(48 + 64 * a, 64 * (a + b), 64 * (b + c), 64 * c + 16)


def chain_with_steps() -> CostModel:
    return dataclasses.replace(chain(), activations=STEPS)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 12), st.integers(1, 6)), min_size=1, max_size=5))
def test_the_peak_is_the_largest_step(rows):
    model = chain_with_steps()
    expected = [by_hand(*row) for row in rows]
    assert model.peak_activation_bytes(np.array(rows)).tolist() == expected
    assert model.peak_activation_bytes(dict(zip(model.groups, rows[0], strict=True))) == expected[0]
    assert model.dense_peak_activation_bytes == by_hand(8, 12, 6) == model.peak_activation_bytes({})


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n + 1, max_size=n + 1), min_size=1, max_size=8)
    ),
    st.data(),
)
def test_forms_that_never_matter_are_left_out(rows, data):
    kept = undominated(np.array(rows))
    n_groups = len(rows[0]) - 1
    widths = data.draw(st.lists(st.integers(0, 9), min_size=n_groups, max_size=n_groups))
    assert max(form(widths) for form in kept) == max(np.dot(row[:-1], widths) + row[-1] for row in rows)
    matrix = np.array([[dict(form.terms).get(g, 0) for g in range(n_groups)] + [form.constant] for form in kept])
    for i in range(len(matrix)):
        assert not (np.delete(matrix, i, axis=0) >= matrix[i]).all(axis=1).any()


def test_records_are_read_back_and_those_from_before_still_are():
    model = chain_with_steps()
    record = json.loads(json.dumps(model.to_dict()))
    assert CostModel.from_dict(record) == model
    old = {key: value for key, value in record.items() if key != "activations"}
    read = CostModel.from_dict(old)
    assert read == chain()
    assert read.macs({"conv0": 3}) == model.macs({"conv0": 3})
    with pytest.raises(ConfigError, match=r"peak activation memory must be known .* trace the network again"):
        read.peak_activation_bytes({})


def test_what_tells_networks_apart_is_what_it_was_before():
    """The identity of every study that there is has been hashed from this."""
    assert chain_with_steps().identity == chain().identity
    assert list(chain().identity) == ["convention", "groups", "dense", "steps", "layers"]


@given(st.floats(0.2, 1), st.floats(0.3, 1), st.integers(1, 4))
def test_widths_keep_a_limit_of_activation_memory(macs_ratio, peak_ratio, multiple):
    model = chain_with_steps()
    limits = Limits(
        macs=macs_ratio * model.dense_macs,
        peak_activation_bytes=peak_ratio * model.dense_peak_activation_bytes,
        multiple=multiple,
    )
    try:
        widths = fit(model, limits)
    except InfeasibleError:
        assert not limits.keeps(model, limits.smallest(model))
        return
    assert limits.keeps(model, widths)
    assert by_hand(*widths.values()) <= limits.peak_activation_bytes
    for name, allowed in zip(model.groups, limits.allowed(model), strict=True):
        wider = [int(width) for width in allowed if width > widths[name]]
        assert not wider or not limits.keeps(model, {**widths, name: wider[0]})


def test_it_can_be_the_only_limit():
    model = chain_with_steps()
    assert by_hand(*fit(model, Limits(peak_activation_bytes=600)).values()) <= 600


def test_a_limit_that_no_widths_keep_is_named():
    with pytest.raises(
        InfeasibleError, match=r"at most 100 bytes of activations at once .* the smallest ones cost 128"
    ):
        fit(chain_with_steps(), Limits(macs=1e9, peak_activation_bytes=100))
