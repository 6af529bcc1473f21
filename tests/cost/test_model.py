"""Costs are exact, for one vector of widths and for many."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.cost import CONVENTION, CostModel, LayerCost, LinearForm
from autoprune.errors import ConfigError
from tests.cost_models import chain, chain_by_hand, cost_models


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.data())
def test_counts_equal_the_hand_written_formula(dense, data):
    model = chain(dense)
    widths = [data.draw(st.integers(1, width)) for width in dense]
    mapping = model.as_mapping(np.array(widths))
    assert (model.macs(mapping), model.params(mapping)) == chain_by_hand(widths)
    assert (model.dense_macs, model.dense_params) == chain_by_hand(dense)
    assert sum(model.layer_macs(mapping).values()) == model.macs(mapping)
    assert model.macs_ratio(mapping) == chain_by_hand(widths)[0] / chain_by_hand(dense)[0]


def test_stages_are_groups_of_equal_resolution_from_the_largest_on():
    def conv(name, positions, group):
        return LayerCost(name, 9 * positions, 9, 0, LinearForm(3), LinearForm(0, ((group, 1),)))

    layers = (
        LayerCost("bn", 0, 0, 2, LinearForm(1), LinearForm(0, ((2, 1),))),  # counts no MACs, so it says nothing
        conv("a", 64, 0), conv("b", 16, 1), conv("c", 64, 2),
        LayerCost("d", 1, 1, 1, LinearForm(4), LinearForm(0, ((3, 1),))),
        conv("a again", 16, 0),  # the first that writes a group decides
    )  # fmt: skip
    model = CostModel(("a", "b", "c", "d"), (8, 8, 8, 8), layers)
    assert model.stages == {"stage1": ("a", "c"), "stage2": ("b",), "stage3": ("d",)}


@given(cost_models())
def test_every_group_is_in_one_stage(model):
    assert sorted(name for names in model.stages.values() for name in names) == sorted(model.groups)
    assert CostModel.from_dict(json.loads(json.dumps(model.to_dict()))).stages == model.stages


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
    model = CostModel(("g",), (2**27,), (LayerCost("big", 3, 1, 0, form, form),))
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
    code = "import sys, autoprune.cost.model; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
