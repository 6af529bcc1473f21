"""A workbench is opened once, says what identifies a study, and leaves its dense network alone."""

import dataclasses
import json
import sys

import pytest
import torch
from torch import nn

from autoprune.config import DataSpec, NetworkSpec, SettingSpec, TrainSpec
from autoprune.engine.files import PhaseStore, publish
from autoprune.errors import ConfigError, DataError, WeightsError
from autoprune.pipeline import open_workbench
from autoprune.pipeline import workbench as workbench_module

torch.set_num_threads(1)

SHORT = TrainSpec(epochs=0.25, batch=64, learning_rate=0.05)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return SettingSpec(
        network=NetworkSpec(architecture="resnet_digits"), data=DataSpec(source="digits", validation="last:237"),
        dense=SHORT, sparsify=SHORT, finetune=SHORT, seed=3, artifacts=str(tmp_path_factory.mktemp("artifacts")),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    workbench_module._open.cache_clear()
    yield
    workbench_module._open.cache_clear()


def network_of(setting, **changes):
    return dataclasses.replace(setting, network=dataclasses.replace(setting.network, **changes))


def data_of(setting, **changes):
    return dataclasses.replace(setting, data=dataclasses.replace(setting.data, **changes))


# -- opening --------------------------------------------------------------------------------------------------------


def test_opens_data_network_and_groups(setting):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    workbench = open_workbench(setting)
    assert torch.equal(torch.rand(2), expected)
    assert (workbench.work.n_examples, workbench.work.n_validation, workbench.work.record()["n_classes"]) == (
        1200,
        237,
        10,
    )
    assert {group.name: group.width for group in workbench.traced.groups} == {
        "conv1": 16, "layer1.0.conv1": 16, "layer2.0.conv1": 32, "layer2.0.conv2": 32, "layer3.0.conv1": 64,
        "layer3.0.conv2": 64,
    }  # fmt: skip
    assert workbench.traced.example.shape == (1, 1, 8, 8)
    assert workbench.runtime.precision == "float32"
    assert workbench.weights_sha256 is None


def test_a_process_opens_a_setting_once(setting):
    one = open_workbench(setting)
    assert open_workbench(dataclasses.replace(setting)) is one
    assert open_workbench(dataclasses.replace(setting, seed=4)) is not one


def test_fresh_weights_follow_the_seed(setting):
    def first(seed):
        workbench_module._open.cache_clear()
        return open_workbench(dataclasses.replace(setting, seed=seed)).network.conv1.weight

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


# -- identity -------------------------------------------------------------------------------------------------------


def test_identity_is_plain_and_the_same_again(setting):
    one = open_workbench(setting).identity
    workbench_module._open.cache_clear()
    assert json.loads(json.dumps(one)) == open_workbench(setting).identity
    assert one["network"] == "resnet_digits"
    assert one["precision"] == "float32"


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        (lambda s: dataclasses.replace(s, seed=4), {"dense weights"}),
        (lambda s: dataclasses.replace(s, dense=dataclasses.replace(SHORT, epochs=0.5)), {"dense weights"}),
        (lambda s: dataclasses.replace(s, precision="bfloat16"), {"dense weights", "precision"}),
        (lambda s: data_of(s, validation="last:238"), {"dense weights", "split", "normalisation"}),
        (lambda s: network_of(s, exclude=("layer2.0.conv1",)), {"cost", "excluded layers"}),
        (lambda s: dataclasses.replace(s, sparsify=dataclasses.replace(SHORT, epochs=0.5)), set()),
        (lambda s: dataclasses.replace(s, recalibration_images=7, rungs=(0.25, 0.75)), set()),
    ],
)
def test_what_changes_the_identity(setting, change, differs):
    one, other = open_workbench(setting).identity, open_workbench(change(setting)).identity
    assert {name for name in one if one[name] != other[name]} == differs


def test_normalisation_is_part_of_the_identity(setting):
    one, other = open_workbench(setting).identity, open_workbench(data_of(setting, mean=(0.5,), std=(0.25,))).identity
    assert one["normalisation"] != other["normalisation"] == [[0.5], [0.25]]


def test_given_weights_are_the_identity(setting, tmp_path):
    model = open_workbench(setting).network
    publish(tmp_path / "a.safetensors", model.state_dict(), {})
    with torch.no_grad():
        model.state_dict()["conv1.weight"][0] += 1
    publish(tmp_path / "b.safetensors", model.state_dict(), {})
    (tmp_path / "copy.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes())

    def key(name, **changes):
        given = network_of(setting, weights=str(tmp_path / f"{name}.safetensors"))
        return open_workbench(dataclasses.replace(given, **changes)).dense_key

    assert key("a") == key("copy") == key("a", dense=dataclasses.replace(SHORT, epochs=9), seed=9)
    assert len({key("a"), key("b"), open_workbench(setting).dense_key}) == 3


# -- dense ----------------------------------------------------------------------------------------------------------


def test_dense_is_trained_once_and_the_network_stays_untrained(setting, tmp_path):
    workbench, shares = open_workbench(setting), []
    before = {name: tensor.clone() for name, tensor in workbench.network.state_dict().items()}
    store = PhaseStore(tmp_path)
    first = workbench.dense(store, shares.append)
    again = workbench.dense(store, lambda share: pytest.fail("trained again"))
    assert shares == [(step + 1) / 5 for step in range(5)]  # 1,200 × 0.25 / 64, rounded
    assert all(torch.equal(before[name], tensor) for name, tensor in workbench.network.state_dict().items())
    assert all(torch.equal(tensor, again.tensors[name]) for name, tensor in first.tensors.items())
    assert not torch.equal(first.tensors["conv1.weight"], before["conv1.weight"])
    model = workbench.with_weights(first.tensors)
    assert first.record["accuracy"] == workbench.work.score(model)
    assert first.record["macs"] == workbench.traced.cost.dense_macs
    assert first.record["params"] == sum(parameter.numel() for parameter in model.parameters())


def test_dense_is_the_same_without_cache(setting, tmp_path):
    one = open_workbench(setting).dense(PhaseStore(tmp_path / "a"))
    workbench_module._open.cache_clear()
    other = open_workbench(setting).dense(PhaseStore(tmp_path / "b"))
    assert one.key == other.key
    assert one.record == other.record  # with the hash of the weights


def test_given_weights_are_scored_not_trained(setting, tmp_path):
    trained = open_workbench(setting).dense(PhaseStore(tmp_path / "a"))
    publish(tmp_path / "given.safetensors", trained.tensors, {})
    workbench = open_workbench(network_of(setting, weights=str(tmp_path / "given.safetensors")))
    given = workbench.dense(PhaseStore(tmp_path / "b"), lambda share: pytest.fail("trained"))
    assert given.record["accuracy"] == trained.record["accuracy"]
    assert all(torch.equal(tensor, trained.tensors[name]) for name, tensor in given.tensors.items())


def test_with_weights_is_a_copy_in_evaluation_mode(setting):
    workbench = open_workbench(setting)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in workbench.network.state_dict().items()}
    model = workbench.with_weights(zeros)
    assert not model.training
    assert not any(tensor.any() for tensor in model.state_dict().values())
    assert workbench.network.conv1.weight.any()


@pytest.mark.parametrize(("least", "expected"), [(1, 1), (5, 5), (20, 16), (1000, 16)])
def test_min_widths_stay_within_the_group(setting, least, expected):
    widths = open_workbench(network_of(setting, min_width=least)).limits().min_widths
    assert widths["conv1"] == expected
    assert widths["layer3.0.conv2"] == min(least, 64)


# -- what is refused ------------------------------------------------------------------------------------------------


def flatten_first(width, n_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, n_classes))


@pytest.mark.parametrize(
    ("returned", "error", "told"),
    [
        (lambda: 5, ConfigError, r"`network\.factory` = .* must return a torch\.nn\.Module, but returned int"),
        (lambda: flatten_first(99), DataError, r"data's images of shape \(1, 8, 8\), but failed on them: mat1"),
        (lambda: flatten_first(64, 9), DataError, r"of shape \(N, 10\) or wider, but gave \(2, 9\)"),
        (lambda: nn.Conv2d(1, 10, 1), DataError, r"logits of shape \(N, 10\) or wider, but gave \(2, 10, 8, 8\)"),
    ],
)  # fmt: skip
def test_factories_that_do_not_fit(setting, monkeypatch, returned, error, told):
    monkeypatch.setattr(workbench_module, "call_factory", lambda name, key: returned())
    with pytest.raises(error, match=told):
        open_workbench(dataclasses.replace(setting, network=NetworkSpec(factory="own.net:build")))


def test_a_network_factory_is_built_under_the_seed(setting, tmp_path, monkeypatch):
    (tmp_path / "own_seeded_net.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Linear(4, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = dataclasses.replace(setting, network=NetworkSpec(factory="own_seeded_net:build"))
    one = open_workbench(own)
    workbench_module._open.cache_clear()
    assert torch.equal(open_workbench(own).network[0].weight, one.network[0].weight)
    assert [group.name for group in one.traced.groups] == ["0"]
    assert one.identity["network"] == "own_seeded_net:build"


def test_weights_that_do_not_fit(setting, tmp_path):
    publish(tmp_path / "other.safetensors", nn.Linear(2, 2).state_dict(), {})
    with pytest.raises(WeightsError, match=r"other\.safetensors must fit the network, but lacks conv1\.weight"):
        open_workbench(network_of(setting, weights=str(tmp_path / "other.safetensors")))
    with pytest.raises(WeightsError, match=r"there is no file .*gone\.safetensors"):
        open_workbench(network_of(setting, weights=str(tmp_path / "gone.safetensors")))


def test_names_that_are_unknown(setting):
    with pytest.raises(ConfigError, match="no architecture 'resnet_digit'; did you mean 'resnet_digits'"):
        open_workbench(network_of(setting, architecture="resnet_digit"))
    with pytest.raises(ConfigError, match=r"layer or channel group to exclude 'layer2\.0\.conv9'"):
        open_workbench(network_of(setting, exclude=("layer2.0.conv9",)))


def test_float16_needs_an_accelerator(setting):
    if torch.accelerator.is_available():
        pytest.skip("there is an accelerator")
    with pytest.raises(ConfigError, match="'float16' needs an accelerator"):
        open_workbench(dataclasses.replace(setting, precision="float16"))


def test_artifacts_must_be_a_folder(setting, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"`artifacts` must be a folder that can be written, but .*file is a file"):
        open_workbench(dataclasses.replace(setting, artifacts=str(tmp_path / "file" / "below")))
