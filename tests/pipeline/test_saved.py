"""What a trial left on disk is its network again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import autoprune
from autoprune.cost import allowed_widths
from autoprune.engine.files import publish, read_tensors
from autoprune.engine.surgery import cut
from autoprune.errors import ConfigError, WeightsError
from autoprune.pipeline import load_model, open_workbench, read_record
from tests.real_trials import concat_depthwise, run_study

torch.set_num_threads(1)

FACTORY = 'factory = "tests.real_trials:concat_depthwise"'
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def built_in(tmp_path_factory):
    points = [{"macs_target": 0.4}, {"width_rule": "global", "macs_target": 0.6}]
    return run_study(
        tmp_path_factory.mktemp("built_in"), points, network='architecture = "resnet_digits"\nmultiple = 4'
    )


@pytest.fixture(scope="module")
def from_factory(tmp_path_factory):
    return run_study(tmp_path_factory.mktemp("factory"), [{"width_rule": "global"}], network=FACTORY)


@pytest.fixture
def saved(built_in, tmp_path):
    """A copy of the first trial's files, to be damaged."""
    return copied(built_in.results[0], tmp_path)


def copied(result, folder):
    for ending in (".safetensors", ".json"):
        shutil.copy(Path(result.weights).with_suffix(ending), folder / f"net{ending}")
    return folder / "net.safetensors"


def logits(model):
    with torch.no_grad():
        return model(IMAGES)


def by_hand(spec, result):
    """The trial's network cut from the study's own dense network, without the loader."""
    workbench = open_workbench(spec.setting)
    record = json.loads(Path(result.weights).with_suffix(".json").read_text())
    kept = {name: np.array(indices) for name, indices in record["kept"].items()}
    network = cut(workbench.network, workbench.traced.groups, kept).eval()
    network.load_state_dict(read_tensors(Path(result.weights)))
    return network


@pytest.mark.parametrize("number", [0, 1])
def test_a_loaded_network_is_the_trial_s(built_in, number):
    spec, result = built_in.specs[number], built_in.results[number]
    model = autoprune.load_model(result.weights)
    assert isinstance(model, nn.Module)
    assert not model.training
    assert torch.equal(logits(model), logits(by_hand(spec, result)))
    workbench = open_workbench(spec.setting)
    assert workbench.work.score(model) == result.score
    assert sum(p.numel() for p in model.parameters()) == result.params < workbench.traced.cost.dense_params


@pytest.mark.parametrize("number", [0, 1])
def test_a_trial_s_widths_are_rounded_and_its_cost_is_that_of_the_rounded_widths(built_in, number):
    spec, result = built_in.specs[number], built_in.results[number]
    cost = open_workbench(spec.setting).traced.cost
    for name, dense in zip(cost.groups, cost.dense, strict=True):
        assert result.widths[name] in allowed_widths(dense, multiple=4, smallest=1)
    assert result.macs == cost.macs(result.widths) <= spec.macs_target * cost.dense_macs
    assert result.macs_ratio == result.macs / cost.dense_macs


def test_a_factory_network_needs_its_factory(from_factory):
    result = from_factory.results[0]
    with pytest.raises(ConfigError, match=r"built by the factory 'tests\.real_trials:concat_depthwise'.*factory="):
        autoprune.load_model(result.weights)
    model = autoprune.load_model(result.weights, factory=concat_depthwise)
    assert torch.equal(logits(model), logits(by_hand(from_factory.specs[0], result)))
    assert any(isinstance(module, nn.Conv2d) and 1 < module.groups < 16 for module in model.modules())


def test_a_record_that_names_a_factory_is_not_imported(from_factory, tmp_path, monkeypatch):
    path = copied(from_factory.results[0], tmp_path)
    (tmp_path / "poison.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    record = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**record, "factory": "poison:build"}))
    with pytest.raises(ConfigError, match="poison:build"):
        load_model(path)
    assert torch.equal(logits(load_model(path, factory=concat_depthwise)), logits(load_model(path, concat_depthwise)))


def test_a_factory_of_another_network_is_refused(from_factory):
    with pytest.raises(ConfigError, match="no channel group"):
        load_model(from_factory.results[0].weights, factory=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def test_the_record_says_what_the_network_is(built_in, from_factory):
    record = read_record(Path(built_in.results[0].weights))
    assert (record["architecture"], record["factory"]) == ("resnet_digits", None)
    assert (record["n_classes"], record["image_shape"]) == (10, [1, 8, 8])
    assert {name: len(kept) for name, kept in record["kept"].items()} == record["widths"]
    assert record["widths"] == built_in.results[0].widths
    record = read_record(Path(from_factory.results[0].weights))
    assert (record["architecture"], record["factory"]) == (None, "tests.real_trials:concat_depthwise")


def test_weights_that_the_record_does_not_speak_of_are_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(WeightsError, match=r"must be the file that net\.json speaks of, but its hash is another"):
        load_model(saved)


def test_weights_without_their_record_are_refused(saved):
    saved.with_suffix(".json").unlink()
    with pytest.raises(WeightsError, match=r"must have its record net\.json beside it.*Copy the two files together"):
        load_model(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"sha256"', "null"])
def test_a_damaged_record_is_refused(saved, text):
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError, match=r"must have its record net\.json beside it"):
        load_model(saved)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no file .*gone\.safetensors"):
        load_model(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kept": None}, "kept"),
        ({"image_shape": None}, "image_shape"),
        ({"n_classes": None}, "n_classes"),
    ],
)
def test_a_record_that_lacks_what_loading_needs_is_refused(saved, change, told):
    record = json.loads(saved.with_suffix(".json").read_text())
    left = {key: value for key, value in record.items() if key not in change}
    saved.with_suffix(".json").write_text(json.dumps(left))
    with pytest.raises(WeightsError, match=rf"net\.json must hold .*{told}"):
        load_model(saved)


def test_weights_of_other_widths_are_refused(saved, built_in):
    record = json.loads(saved.with_suffix(".json").read_text())
    del record["sha256"]
    publish(saved, read_tensors(Path(built_in.results[1].weights)), record)
    with pytest.raises(WeightsError, match="must fit the network"):
        load_model(saved)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"sha256": ' * 100_000, "[]", '"sha256"', "nul"])
def test_a_record_that_is_no_table(saved, text):
    saved.with_suffix(".json").write_text(text)
    with pytest.raises(WeightsError, match=r"must have its record net\.json beside it, but that can't be read"):
        read_record(saved)


def changed(saved, **values):
    record = json.loads(saved.with_suffix(".json").read_text())
    saved.with_suffix(".json").write_text(json.dumps({**record, **values}))


def test_classes_that_the_weights_do_not_have(saved):
    changed(saved, n_classes=1_000_000)
    with pytest.raises(
        WeightsError, match="must hold the weights of 1000000 classes, as its record says, but no tensor"
    ):
        load_model(saved)


def test_channels_that_do_not_rise_are_told_in_one_line(saved):
    record = json.loads(saved.with_suffix(".json").read_text())
    changed(saved, kept={name: channels[::-1] for name, channels in record["kept"].items()})
    with pytest.raises(ConfigError, match=r"must be rising integers .*, but got \[") as refused:
        load_model(saved)
    assert "\n" not in str(refused.value)
