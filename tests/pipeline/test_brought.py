"""Networks as people bring them go the whole way: opened, trained, cut, scored, saved, loaded, timed, exported."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune
from autoprune.api import measure_latency
from autoprune.config import DataSpec, NetworkSpec, SettingSpec, TrainSpec
from autoprune.engine.files import PhaseStore, read_tensors
from autoprune.pipeline import Link, layout_of, open_workbench, score
from autoprune.pipeline import workbench as workbench_module
from tests import brought
from tests.brought import Helped, Lazy, Plain, Viewing, helped, lazy, normed, plain, viewing
from tests.elsewhere import answers
from tests.real_trials import run_study

torch.set_num_threads(1)

STUDY = """
[study]
name = "tiny"
n_trials = 9

[space]
methods = ["magnitude", "slimming"]

[network]
{network}

[data]
source = "factory"
factory = "tests.brought:colours"
test = "colours"
validation = "random:0.25"

[train.dense]
epochs = 2
batch = 16
learning_rate = 0.05

[train.sparsify]
epochs = 1
batch = 16

[train.finetune]
epochs = 1
batch = 16
distill = {{}}

[engine]
precision = "float32"
artifacts = "{folder}/artifacts"
recalibration_images = 64
latency_batch = 2
"""
BUILT = {"plain": plain, "viewing": viewing, "helped": helped, "lazy": lazy, "normed": normed}
SETTING = SettingSpec(
    network=NetworkSpec(factory="tests.brought:plain"),
    data=DataSpec(source="factory", factory="tests.brought:colours", validation="random:0.25"),
    dense=TrainSpec(epochs=1, batch=16), sparsify=TrainSpec(epochs=1, batch=16), finetune=TrainSpec(epochs=1, batch=16),
    artifacts="/tmp",
)  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    workbench_module._open.cache_clear()
    yield
    workbench_module._open.cache_clear()


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    points = [{"macs_target": 0.75}, {"method": "slimming", "macs_target": 0.85}]
    return {
        name: run_study(
            tmp_path_factory.mktemp(name), points, network=f'factory = "tests.brought:{name}"', study_file=STUDY
        )
        for name in BUILT
    }


def opened(monkeypatch, build, **changes):
    monkeypatch.setattr(workbench_module, "call_factory", lambda name, key: build())
    return open_workbench(dataclasses.replace(SETTING, **changes))


# -- the whole way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(BUILT))
def test_a_trial_and_all_that_is_done_with_its_network(name, studies, tmp_path):
    study = studies[name]
    for result in study.results:
        assert result.macs_ratio < 1
        assert set(result.rungs) >= {"0", "1"}
    path = Path(study.results[0].weights)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["memory_format"] == ("contiguous_format" if name == "viewing" else "channels_last")
    model = autoprune.load_model(path, factory=BUILT[name])
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
    files = [autoprune.export_trial("tiny", 0, tmp_path / f"net{end}", storage=study.url) for end in (".pt2", ".onnx")]
    for got in answers({(done.path, 5): images for done in files}, tmp_path).values():
        assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))
    for timed in measure_latency("tiny", 0, batches=[1, 2], storage=study.url):
        assert timed.pruned.median_ms > 0


@pytest.mark.parametrize("name", list(BUILT))
def test_a_loaded_network_trains_on(name, studies):
    model = autoprune.load_model(studies[name].results[0].weights, factory=BUILT[name]).train()
    output = model(torch.randn(4, 3, 8, 8))
    heads = output if isinstance(output, tuple) else (output,)
    assert [head.shape for head in heads] == [(4, 4)] * (2 if name == "helped" else 1)
    sum(head.sum() for head in heads).backward()


@pytest.mark.parametrize("name", list(BUILT))
def test_the_front_on_the_test_split(name, studies):
    spec, result = studies[name].specs[0], studies[name].results[0]
    kept = json.loads(Path(result.weights).with_suffix(".json").read_text())["kept"]
    fingerprint = open_workbench(spec.setting).work.test().fingerprint
    phases = PhaseStore(Path(spec.setting.artifacts) / "phases")
    found = score([Link(spec, kept)], seed=0, fingerprint=fingerprint, phases=phases)
    assert found["n_images"] == 40
    assert found["accuracy"] > 0.5


# -- layouts --------------------------------------------------------------------------------------------------------


def test_the_layout_makes_no_other_study(monkeypatch):
    """What is hashed does not say how the network flattens, and who can runs in channels-last layout."""
    plain = opened(monkeypatch, Plain)
    workbench_module._open.cache_clear()
    view = opened(monkeypatch, Viewing)
    assert plain.dense_key == view.dense_key
    assert (plain.runtime.memory_format, view.runtime.memory_format) == (torch.channels_last, torch.contiguous_format)
    assert [group.name for group in view.traced.groups] == [group.name for group in plain.traced.groups]


def test_records_of_before_layouts_are_of_the_one_that_there_was():
    assert layout_of({}) is torch.channels_last
    assert layout_of({"memory_format": "contiguous_format"}) is torch.contiguous_format


def test_gray_images_are_no_better_off(monkeypatch):
    """One channel is both layouts at once, the maps behind it are not."""
    digits = DataSpec(source="digits", validation="last:237")
    workbench = opened(monkeypatch, lambda: Viewing(in_channels=1, n_classes=10), data=digits)
    assert workbench.runtime.memory_format is torch.contiguous_format


# -- auxiliary heads ------------------------------------------------------------------------------------------------


def test_channels_that_an_auxiliary_head_reads_stay(monkeypatch):
    workbench = opened(monkeypatch, Helped)
    assert [group.name for group in workbench.traced.groups] == ["conv2"]
    told = [str(refusal) for refusal in workbench.traced.refused]
    (stays,) = [line for line in told if line.startswith("conv1: ")]
    assert "fails in training mode in 'head.0' (Conv2d)" in stays
    assert "build the network without its auxiliary heads" in stays
    assert workbench.setting.network.exclude == ()


class Scaled(Plain):
    """A parameter that is looked at in training mode only: no layer is left out of tracing here, a number is."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, 12, 1, 1))

    def maps(self, x):
        x = super().maps(x)
        return x * self.gain if self.training else x


def test_channels_that_training_alone_looks_at_stay(monkeypatch):
    workbench = opened(monkeypatch, Scaled)
    assert [group.name for group in workbench.traced.groups] == ["conv1"]
    assert (
        "conv2: without some of its channels the network fails in training mode in the `forward` of Scaled"
        in " ".join(str(refusal) for refusal in workbench.traced.refused)
    )


def test_auxiliary_heads_train(studies):
    dense = {"head.0.weight": None}
    for path in (Path(studies["helped"].results[0].weights).parents[2] / "phases").glob("dense-*.safetensors"):
        dense = read_tensors(path)
    model = helped()
    tuned = read_tensors(Path(studies["helped"].results[0].weights))
    assert tuned["head.0.weight"].shape == model.head[0].weight.shape
    assert not torch.equal(tuned["head.0.weight"], dense["head.0.weight"])


# -- what else is settled when a study is opened --------------------------------------------------------------------


def test_lazy_layers_take_their_weights_from_the_seed(monkeypatch):
    def first(seed):
        workbench_module._open.cache_clear()
        torch.manual_seed(seed + 10)  # Whatever was drawn before.
        return opened(monkeypatch, Lazy, seed=seed).network.fc.weight

    one = first(0)
    torch.rand(1)
    assert torch.equal(one, first(0))
    assert not torch.equal(one, first(1))


def test_weights_of_a_wrapped_network(monkeypatch, tmp_path):
    torch.manual_seed(0)
    network = Plain()
    torch.save({"model": nn.DataParallel(network).state_dict(), "epoch": 1}, tmp_path / "a.pth")
    given = NetworkSpec(factory="tests.brought:plain", weights=str(tmp_path / "a.pth"))
    workbench = opened(monkeypatch, Plain, network=given)
    assert torch.equal(workbench.network.conv1.weight, network.conv1.weight)


def test_the_smallest_batch_is_tried(monkeypatch):
    def single_places():
        return nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))

    opened(monkeypatch, single_places)
    with pytest.raises(autoprune.NetworkError, match="must train on batches of one image"):
        opened(monkeypatch, single_places, finetune=TrainSpec(epochs=1, batch=1))
    assert brought.SHAPE == (3, 8, 8)
