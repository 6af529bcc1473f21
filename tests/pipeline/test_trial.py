"""Whole trials on digits: within the target, repeatable to the last bit, and loud when a promise breaks."""

import copy
import dataclasses
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import methods
from autoprune.architectures import build
from autoprune.config import DataSpec, NetworkSpec, SettingSpec, TrainSpec, TrialSpec
from autoprune.cost import CONVENTION, Limits
from autoprune.engine.files import PhaseStore, load_into, publish, read_tensors
from autoprune.engine.folding import fold_constants
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace
from autoprune.errors import ConfigError, InfeasibleError, TrialError, TrialStoppedError
from autoprune.methods import Slimming
from autoprune.pipeline import open_workbench, progress, run_trial, steps, trial
from autoprune.pipeline import workbench as workbench_module
from autoprune.pipeline.choosing import silent_last
from autoprune.pipeline.tuning import tune
from autoprune.widths import WIDTH_RULES, Evidence, keep_best
from tests.small_networks import sequential

torch.set_num_threads(1)

SHORT = TrainSpec(epochs=0.5, batch=64, learning_rate=0.05)
STRONG = {"strength": 0.01}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return SettingSpec(
        network=NetworkSpec(architecture="resnet_digits"),
        data=DataSpec(source="digits", validation="last:237"),
        dense=dataclasses.replace(SHORT, epochs=2.0), sparsify=SHORT, finetune=SHORT, recalibration_images=256,
        rungs=(0.3, 0.6), artifacts=str(tmp_path_factory.mktemp("artifacts")),
    )  # fmt: skip


def spec_of(setting, number=0, method="slimming", hyper=STRONG, **options):
    rest = {"width_rule": "global", "macs_target": 0.4, "study": "tests", **options}
    hyper = hyper if method == "slimming" else {}
    return TrialSpec(setting=setting, number=number, method=method, hyper=hyper, **rest)


def store(setting):
    return PhaseStore(Path(setting.artifacts) / "phases")


def run(spec, report=lambda report: None):
    return run_trial(spec, report, store(spec.setting))


@pytest.fixture(scope="module")
def first(setting):
    """One trial and all that it reported."""
    told = []
    return run(spec_of(setting), told.append), told


def elsewhere(setting, folder):
    """The same setting without any cache: nothing on disk, nothing opened."""
    workbench_module._open.cache_clear()
    return dataclasses.replace(setting, artifacts=str(folder))


def test_data_that_are_not_the_driver_s_are_refused_before_anything_is_computed(setting):
    told, known = [], workbench_module.open_workbench(setting).data_digest
    with pytest.raises(TrialError, match="the data must stay as they were when the study was launched, but"):
        run(spec_of(setting, data_digest=known[::-1]), told.append)
    assert told == []
    with pytest.raises(RuntimeError, match="heard of"):  # The driver's own are taken.
        run(spec_of(setting, data_digest=known), stop_at_once)


def stop_at_once(report):
    raise RuntimeError("heard of")


# -- the result -----------------------------------------------------------------------------------------------------


def test_the_target_is_met_and_not_wasted(first):
    result, _ = first
    assert 0.35 < result.macs_ratio <= 0.4
    assert 0 < result.params_ratio < 1
    assert result.score > 0.5  # of ten classes, after two epochs
    assert result.convention == CONVENTION
    assert set(result.wall_s) == {
        "dense", "sparsify", "surgery", "recalibrate", "teacher", "finetune", "scoring", "save",
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in result.wall_s.values())


def test_costs_are_those_of_the_network(first, setting):
    result, _ = first
    cost = open_workbench(setting).traced.cost
    assert (result.macs, result.params) == (cost.macs(result.widths), cost.params(result.widths))
    assert result.macs_ratio == result.macs / cost.dense_macs
    assert result.params_ratio == result.params / cost.dense_params


def test_the_record_is_complete_and_agrees(first, setting):
    result, _ = first
    path = Path(result.weights)
    assert path == Path(setting.artifacts) / "trials" / "tests" / "00000.safetensors"
    record = json.loads(path.with_suffix(".json").read_text())
    shared = {key: value for key, value in result.to_dict().items() if key not in ("weights", "wall_s")}
    assert {key: record[key] for key in shared} == json.loads(json.dumps(shared))
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {name: len(kept) for name, kept in record["kept"].items()} == result.widths
    assert set(record) - set(shared) == {
        "study", "trial", "method", "hyper", "width_rule", "macs_target", "architecture", "factory", "n_classes",
        "image_shape", "normalisation", "memory_format", "dense", "parent_sha256", "kept",
    }  # fmt: skip
    assert (record["study"], record["trial"], record["method"], record["hyper"]) == ("tests", 0, "slimming", STRONG)
    assert (record["architecture"], record["n_classes"], record["image_shape"]) == ("resnet_digits", 10, [1, 8, 8])
    assert record["dense"] == open_workbench(setting).dense_key


def test_the_saved_network_gives_the_reported_accuracy(first, setting):
    """Rebuilt from the record alone, on a fresh network."""
    result, _ = first
    record = json.loads(Path(result.weights).with_suffix(".json").read_text())
    dense = build(record["architecture"], n_classes=record["n_classes"], in_channels=1)
    groups = trace(dense, torch.zeros(1, *record["image_shape"])).groups
    pruned = cut(dense, groups, {name: np.array(kept) for name, kept in record["kept"].items()})
    load_into(pruned, read_tensors(Path(result.weights)), source=result.weights)
    assert sum(parameter.numel() for parameter in pruned.parameters()) == result.params
    workbench = open_workbench(setting)
    assert workbench.work.score(pruned) == result.score


def test_rungs_are_reported_in_order(first):
    result, told = first
    rungs = [report for report in told if report.rung is not None]
    assert [report.rung for report in rungs] == [0, 1, 2]
    assert [round(report.progress * 9) for report in rungs] == [0, 3, 6]  # of 9 steps, the first at 0.3 and at 0.6
    assert {report.phase for report in rungs} == {"finetune"}
    assert {report.macs_ratio for report in rungs} == {result.macs_ratio}
    assert {str(report.rung): report.score for report in rungs} | {"3": result.score} == result.rungs
    phases = list(dict.fromkeys(report.phase for report in told))
    assert phases == ["dense", "sparsify", "surgery", "finetune"]
    assert all(report.score is None for report in told if report.rung is None)
    assert all(report.macs_ratio is None for report in told if report.phase in ("dense", "sparsify"))


# -- repeating ------------------------------------------------------------------------------------------------------


def bits(result):
    return {key: value for key, value in result.to_dict().items() if key not in ("weights", "wall_s")}


def test_the_same_spec_gives_the_same_bits_with_and_without_cache(first, setting, tmp_path):
    result, _ = first
    told = []
    again = run(spec_of(setting), told.append)
    assert bits(again) == bits(result)
    # Dense and sparsify were found.
    assert [(report.phase, report.progress) for report in told][:2] == [("sparsify", 1.0), ("surgery", 0.0)]
    assert {report.phase for report in told[2:]} == {"finetune"}
    fresh = run(spec_of(elsewhere(setting, tmp_path)))
    assert bits(fresh) == bits(result)


def test_trials_differ_in_fine_tuning_only(first, setting):
    result, _ = first
    other = run(spec_of(setting, number=1))
    assert other.widths == result.widths
    assert other.rungs["0"] == result.rungs["0"]
    assert other.sha256 != result.sha256
    assert Path(other.weights).name == "00001.safetensors"
    one, two = (json.loads(Path(found.weights).with_suffix(".json").read_text()) for found in (result, other))
    assert one["kept"] == two["kept"]
    assert sorted(path.name.split("-")[0] for path in store(setting).folder.glob("*.json")) == ["dense", "sparsify"]


def test_the_random_state_of_the_caller_is_left_alone(setting):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(spec_of(setting, number=2))
    assert torch.equal(torch.rand(2), expected)


# -- phases ---------------------------------------------------------------------------------------------------------


def sparsified(setting):
    return {path.name for path in store(setting).folder.glob("sparsify-*.safetensors")}


def test_what_the_sparsify_phase_depends_on(setting, tmp_path):
    """Each of these is another phase; with given weights, the data is not in the key of the dense phase."""
    trained = run_trial(spec_of(elsewhere(setting, tmp_path)), lambda report: None, PhaseStore(tmp_path / "phases"))
    dense = next((tmp_path / "phases").glob("dense-*.safetensors"))
    network = dataclasses.replace(setting.network, weights=str(dense))
    base = dataclasses.replace(elsewhere(setting, tmp_path), network=network, finetune=TrainSpec(epochs=0))

    def data_of(**changes):
        return dataclasses.replace(base, data=dataclasses.replace(base.data, **changes))

    settings = [
        base,
        data_of(validation="last:400"),
        data_of(mean=(0.25,), std=(0.5,)),
        dataclasses.replace(base, sparsify=dataclasses.replace(SHORT, momentum=0.8)),
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, precision="bfloat16"),
        dataclasses.replace(base, network=dataclasses.replace(network, exclude=("layer1.0.conv1",))),
    ]
    counts = [len(sparsified(base))]
    for each in settings:
        run(spec_of(each))
        counts.append(len(sparsified(base)))
    run(spec_of(base, hyper={"strength": 0.02}))
    counts.append(len(sparsified(base)))
    run(spec_of(base, hyper={"strength": 0.02, "scale_decay": 0.0}))  # the default, written out
    run(spec_of(base, method="magnitude"))
    run(spec_of(base, macs_target=0.7, width_rule="uniform", number=5))
    assert counts == list(range(1, len(settings) + 3))
    assert len(sparsified(base)) == counts[-1]
    assert trained.macs_ratio <= 0.4


def test_the_key_is_known_without_a_trial(setting):
    workbench = open_workbench(setting)
    told = []
    run(spec_of(setting, number=3), told.append)
    (file,) = [report.phase_file for report in told if report.phase_file is not None]
    assert file["key"] == workbench.sparsify_key("slimming", STRONG, macs_target=0.4)
    path = store(setting).path("sparsify", file["key"])
    assert file == {
        "key": file["key"], "place": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size_bytes": path.stat().st_size,
    }  # fmt: skip
    assert workbench.sparsify_key("magnitude", {}, macs_target=0.4) is None
    told.clear()
    run(spec_of(setting, number=4, method="magnitude"), told.append)
    assert all(report.phase_file is None for report in told)


# -- what fixes a result --------------------------------------------------------------------------------------------


def result_key(spec):
    """Told before anything is trained on."""

    class ToldError(Exception):
        pass

    def report(rung_report):
        if rung_report.result_key is not None:
            assert rung_report.macs_ratio is not None
            raise ToldError(rung_report.result_key)

    with pytest.raises(ToldError, match=r"^[0-9a-f]{16}$") as found:
        run(spec, report)
    return str(found.value)


def test_two_ways_to_the_same_channels_have_one_result_key(setting):
    base = spec_of(setting)
    key = result_key(base)
    assert result_key(dataclasses.replace(base, number=5)) == key
    # MACs are whole numbers, so a target a little higher buys no other channel.
    assert result_key(dataclasses.replace(base, macs_target=0.4 + 1e-9)) == key
    dense = [
        result_key(spec_of(setting, method="magnitude", macs_target=1.0, width_rule=rule))
        for rule in ("uniform", "global")
    ]
    assert dense[0] == dense[1] != key
    assert result_key(spec_of(setting, method="random", macs_target=1.0)) == dense[0]
    # No fine-tuning follows, so its recipe does not matter.
    other = dataclasses.replace(setting, finetune=dataclasses.replace(SHORT, epochs=7.0))
    assert result_key(spec_of(other, method="magnitude", macs_target=1.0)) == dense[0]


@pytest.mark.parametrize(
    "change",
    [
        {"finetune": dataclasses.replace(SHORT, epochs=1.0)},
        {"recalibration_images": 128},
        {"precision": "bfloat16"},
        {"rungs": (0.5,)},
        {"latency_batch": 4},
        {"seed": 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_result_depends_on(setting, change):
    assert result_key(spec_of(dataclasses.replace(setting, **change))) != result_key(spec_of(setting))


def test_other_channels_and_other_weights_are_another_result(setting):
    keys = [
        result_key(spec_of(setting)),
        result_key(spec_of(setting, macs_target=0.5)),
        result_key(spec_of(setting, width_rule="uniform")),
        result_key(spec_of(setting, hyper={"strength": 0.02})),
        result_key(spec_of(setting, method="magnitude")),
    ]
    assert len(set(keys)) == len(keys)


def test_a_retry_repeats_the_trial_that_it_retries(first, setting):
    result, _ = first
    again = run(spec_of(setting, number=70, seed_number=0))
    assert bits(again) == bits(result)
    assert Path(again.weights).name == "00070.safetensors"


# -- methods, rules and networks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lopsided(setting, tmp_path_factory):
    """The setting with given weights, of which all but 8 channels of one group are tiny in every way."""
    dense = open_workbench(setting).dense(store(setting))
    tensors = {name: tensor.clone() for name, tensor in dense.tensors.items()}
    for name in ("layer3.0.conv1.weight", "layer3.0.bn1.weight", "layer3.0.bn1.bias"):
        tensors[name][8:] *= 1e-3
    path = tmp_path_factory.mktemp("lopsided") / "dense.safetensors"
    publish(path, tensors, dense.record)
    return dataclasses.replace(setting, network=dataclasses.replace(setting.network, weights=str(path)))


@pytest.mark.parametrize("rule", ["uniform", "global"])
@pytest.mark.parametrize("method", ["magnitude", "slimming"])
def test_every_method_under_every_rule(lopsided, method, rule):
    result = run(spec_of(lopsided, number=10, method=method, width_rule=rule, macs_target=0.25))
    assert 0.2 < result.macs_ratio <= 0.25
    ratios = {
        name: width / dense
        for (name, width), dense in zip(result.widths.items(), (16, 16, 32, 32, 64, 64), strict=True)
    }
    if rule == "uniform":
        assert max(ratios.values()) - min(ratios.values()) < 0.15
    else:
        assert max(ratios.values()) - min(ratios.values()) > 0.15


@pytest.mark.parametrize("rule", ["global", "learned"])
@pytest.mark.parametrize("method", ["resrep", "aofp", "bwcp"])
def test_methods_that_decide_for_themselves(setting, method, rule):
    """What was put into the network is merged, and says what it said; the target is an upper limit."""
    result = run(spec_of(setting, number=13, method=method, hyper={}, width_rule=rule, macs_target=0.5))
    assert result.macs_ratio <= 0.5
    assert rule == "learned" or result.macs_ratio > 0.45
    assert set(result.differences) == {"fold", "surgery"}
    assert max(result.differences.values()) <= 1e-4
    record = json.loads(Path(result.weights).with_suffix(".json").read_text())
    assert record["differences"] == result.differences


def test_phases_are_shared_between_targets_unless_the_method_aims_at_one(setting):
    workbench = open_workbench(setting)
    assert workbench.sparsify_key("resrep", {}, macs_target=0.5) != workbench.sparsify_key(
        "resrep", {}, macs_target=0.4
    )
    assert workbench.sparsify_key("aofp", {}, macs_target=0.5) != workbench.sparsify_key("aofp", {}, macs_target=0.4)
    for method in ("resrep", "aofp"):
        bound, wider, free = (
            workbench.sparsify_key(method, {}, macs_target=0.5, params=params) for params in (20_000, 30_000, None)
        )
        assert len({bound, wider, free}) == 3
        assert free == workbench.sparsify_key(method, {}, macs_target=0.5)
    for method in ("bwcp", "slimming"):
        assert workbench.sparsify_key(method, {}, macs_target=0.5, params=20_000) == workbench.sparsify_key(
            method, {}, macs_target=0.5
        )
    assert workbench.sparsify_key("bwcp", {}, macs_target=0.5) == workbench.sparsify_key("bwcp", {}, macs_target=0.4)
    assert workbench.sparsify_key("slimming", {}, macs_target=0.5) == workbench.sparsify_key(
        "slimming", {}, macs_target=0.4
    )


def test_the_damage_allowed_is_told(setting):
    """One θ for all groups: more of it where less may stay."""
    thetas = []
    for target in (0.6, 0.3):
        result = run(spec_of(setting, method="magnitude", hyper={}, width_rule="aofp", macs_target=target, number=14))
        assert target - 0.05 < result.macs_ratio <= target
        thetas.append(result.theta)
    assert 0 < thetas[0] < thetas[1]
    assert run(spec_of(setting, method="magnitude", hyper={}, number=15)).theta is None


def test_the_dense_network_is_scored_as_it_is(setting):
    told = []
    result = run(spec_of(setting, number=11, method="magnitude", macs_target=1.0), told.append)
    dense = open_workbench(setting).dense(store(setting))
    assert result.rungs == {"0": dense.record["accuracy"]}
    assert (result.score, result.macs_ratio, result.params_ratio) == (dense.record["accuracy"], 1.0, 1.0)
    saved = read_tensors(Path(result.weights))
    assert all(torch.equal(saved[name], tensor) for name, tensor in dense.tensors.items())


def test_no_fine_tuning(setting):
    result = run(spec_of(dataclasses.replace(setting, finetune=TrainSpec(epochs=0)), number=12))
    assert result.rungs["0"] == result.rungs["1"] == result.score
    saved = read_tensors(Path(result.weights))
    assert saved["bn1.num_batches_tracked"].item() == 4  # recalibrated on 256 images, 64 at once


def test_latency_is_measured_at_rung_0_where_it_is_asked_for(setting):
    told = []
    measured = dataclasses.replace(setting, latency_batch=4)
    result = run(spec_of(measured, method="magnitude", hyper={}, macs_target=0.2), told.append)
    phases = list(result.wall_s)
    assert phases.index("recalibrate") < phases.index("latency") < phases.index("finetune")
    assert result.latency_ms > 0
    assert result.latency_ratio > 0
    record = json.loads(Path(result.weights).with_suffix(".json").read_text())
    assert (record["latency_ms"], record["latency_ratio"]) == (result.latency_ms, result.latency_ratio)
    plain = run(spec_of(setting, method="magnitude", hyper={}, macs_target=0.2))
    assert plain.score == result.score
    assert not {"latency_ms", "latency_ratio"} & set(plain.to_dict())


def test_a_network_that_is_too_slow_is_not_fine_tuned(setting):
    timed = dataclasses.replace(setting, latency_batch=4)
    slow = spec_of(timed, number=60, method="magnitude", macs_target=0.2, latency_limit_ms=1e-6)
    told = []
    with pytest.raises(TrialStoppedError, match=r"^`latency_ms` must be at most 1e-06, but is \d") as stop:
        run(slow, told.append)
    assert told[-1].rung == 0
    assert not any(report.phase == "finetune" for report in told)
    assert stop.value.found["latency_ms"] > 1e-6
    assert "finetune" not in stop.value.found["wall_s"]
    assert not (Path(setting.artifacts) / "trials" / "tests" / "00060.safetensors").exists()
    quick = run(dataclasses.replace(slow, latency_limit_ms=1e6))
    assert quick.latency_ms < 1e6
    assert quick.rungs["0"] == told[-1].score
    with pytest.raises(ConfigError, match="`latency_limit_ms` needs `latency_batch`"):
        run(spec_of(setting, latency_limit_ms=1.0))


def test_minimum_width_and_excluded_layers(setting):
    network = dataclasses.replace(setting.network, min_width=12, exclude=("layer3.0.conv1",))
    result = run(spec_of(dataclasses.replace(setting, network=network), number=13, method="magnitude", macs_target=0.5))
    assert min(result.widths.values()) >= 12
    assert "layer3.0.conv1" not in result.widths
    assert result.macs_ratio <= 0.5


def test_bfloat16(setting):
    result = run(spec_of(dataclasses.replace(setting, precision="bfloat16"), number=14, macs_target=0.6))
    assert result.macs_ratio <= 0.6
    assert {tensor.dtype for tensor in read_tensors(Path(result.weights)).values()} == {torch.float32, torch.int64}


OWN_NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12), nn.ReLU())
        self.side = nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.BatchNorm2d(6), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv2d(18, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = torch.cat([self.depthwise(self.stem(x)), self.side(x)], 1)
        return self.fc(self.drop(self.mix(x).flatten(1)))


def build():
    return Net()
"""


def test_an_own_network_with_concatenation_depthwise_flatten_and_dropout(setting, tmp_path, monkeypatch):
    (tmp_path / "own_trial_net.py").write_text(OWN_NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    own = dataclasses.replace(setting, network=NetworkSpec(factory="own_trial_net:build"))
    result = run(spec_of(own, number=20))
    assert list(result.widths) == ["stem.0", "side.0", "mix.0"]
    assert 0.3 < result.macs_ratio <= 0.4
    assert result.score > 0.2
    assert bits(run(spec_of(elsewhere(own, tmp_path / "again"), number=20))) == bits(result)
    record = json.loads(Path(result.weights).with_suffix(".json").read_text())
    assert (record["architecture"], record["factory"]) == (None, "own_trial_net:build")


# -- stopping -------------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_a_report_that_raises_stops_the_trial(setting, rung):
    told = []

    def report(rung_report):
        told.append(rung_report)
        if rung_report.rung == rung:
            raise StoppedError("enough")

    with pytest.raises(StoppedError, match="enough"):
        run(spec_of(setting, number=30), report)
    assert told[-1].rung == rung
    assert not (Path(setting.artifacts) / "trials" / "tests" / "00030.safetensors").exists()


def test_a_report_can_stop_the_dense_phase_and_nothing_is_kept(setting, tmp_path):
    def report(rung_report):
        raise StoppedError(rung_report.phase)

    with pytest.raises(StoppedError, match=r"^dense$"):
        run(spec_of(elsewhere(setting, tmp_path)), report)
    assert not (tmp_path / "phases").exists()
    assert not (tmp_path / "trials").exists()


def test_a_stop_is_noticed_between_rungs(setting, monkeypatch):
    """Every step tells when no time passes between tellings; otherwise about one in two seconds."""
    told = []
    monkeypatch.setattr(progress, "_TELL_EVERY_S", 0.0)
    run(spec_of(setting, number=31), told.append)
    shares = [report.progress for report in told if report.phase == "finetune" and report.rung is None]
    assert len(told) == 12  # nine steps, two of them rungs, and rung 0; before them the phase and the channels
    assert [round(share * 9) for share in shares] == [1, 2, 4, 5, 7, 8, 9]


# -- what methods leave beside the weights --------------------------------------------------------------------------


def kept_of(result):
    return json.loads(Path(result.weights).with_suffix(".json").read_text())["kept"]


def method_spec(setting, method, hyper, **options):
    return dataclasses.replace(spec_of(setting, **options), method=method, hyper=hyper)


def test_what_a_method_trained_ranks_channels_from_the_cache_too(setting):
    """λ in the cache is set by hand to prefer just the channels that ranking by size removes."""
    before = sparsified(setting)
    by_size, by_lambda, again = (
        method_spec(setting, "halo", {"strength": 0.01, "scored_by": scored_by}, number=60 + number)
        for number, scored_by in enumerate(("size", "lambda", "lambda"))
    )
    kept = kept_of(run(by_size))
    (name,) = sparsified(setting) - before
    path = store(setting).folder / name
    tensors, record = read_tensors(path), json.loads(path.with_suffix(".json").read_text())
    removed = [~np.isin(np.arange(g.width), kept[g.name]) for g in open_workbench(setting).traced.groups]
    tensors["method:lambda"] = 1 + torch.from_numpy(np.concatenate(removed)).to(tensors["method:lambda"])
    publish(path, tensors, record)
    found = kept_of(run(by_lambda))
    assert sparsified(setting) - before == {name}  # What only the ranking looks at is no other phase.
    assert found != kept
    assert kept_of(run(again)) == found
    n_removed = sum(int(gone.sum()) for gone in removed)
    if n_removed <= sum(len(indices) for indices in found.values()):  # then all that were preferred are there
        for (group, indices), gone in zip(found.items(), removed, strict=True):
            assert set(np.flatnonzero(gone)) <= set(indices), group


@pytest.mark.parametrize("method", ["slimming", "slimming_mcp", "halo", "implicit"])
def test_rankings_of_a_method_share_its_phase(setting, method):
    workbench = open_workbench(setting)
    keys = {
        workbench.sparsify_key(method, {"scored_by": scored_by}, macs_target=0.5) for scored_by in ("size", "damage")
    }
    assert len(keys) == 1


@pytest.mark.parametrize("scored_by", ["size", "damage"])
@pytest.mark.parametrize("rule", ["global", "learned"])
def test_channels_that_say_a_constant_are_not_missed(scored_by, rule):
    """The constants are large, and the classifier has no BatchNorm behind it: damage alone would keep them."""
    torch.manual_seed(0)
    model = sequential(8, 12)
    traced = trace(model, torch.zeros(1, 1, 8, 8))
    with torch.no_grad():
        model[4].weight[:6], model[4].bias[:6] = 0, 5.0
    images = [(torch.randn(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64))]
    ranked = methods.build("slimming", {"scored_by": scored_by}).rank(model, traced, state={}, batches=images)
    scores = silent_last(ranked, model, traced, silence=0.0)
    assert scores["3"][:6].tolist() == [0.0] * 6
    scores["0"] = scores["0"] + 1e3  # They stay.
    limits = Limits(macs=traced.cost.macs({"0": 8, "3": 6}), min_widths={"0": 1, "3": 1})
    kept = keep_best(traced.cost, scores, WIDTH_RULES[rule].widths(Evidence(traced.cost, scores), limits))
    assert kept["3"].tolist() == [6, 7, 8, 9, 10, 11]
    folded = fold_constants(model, traced, kept)
    with torch.no_grad():
        before, after = model(images[0][0]), cut(folded, traced.groups, kept)(images[0][0])
    assert float((before - after).abs().max() / before.abs().max()) <= 1e-5


def test_dead_channels_move_into_what_reads_them(setting, monkeypatch):
    """The last stream is read by the classifier alone, where nothing is padded: its constants stay exactly."""
    answers, fold = [], steps.fold_constants

    def remembered(model, traced, kept, **options):
        (group,) = traced.groups
        whole, gone = copy.deepcopy(model), np.setdiff1d(np.arange(group.width), kept[group.name])
        with torch.no_grad():
            scales = [whole.get_submodule(name).weight for name in group.scales]
            dead = [channel for channel in gone if all(scale[channel].abs() <= 1 for scale in scales)]
            assert len(dead) >= 5
            for scale in scales:
                scale[dead] = 0
            whole.fc.weight[:, np.setdiff1d(gone, dead)] = 0  # Those removed alive are simply gone.
            folded = fold(model, traced, kept, **options)
            inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            answers.extend(net.eval()(inputs) for net in (whole, cut(folded, traced.groups, kept)))
        return folded

    monkeypatch.setattr(steps, "fold_constants", remembered)
    network = dataclasses.replace(setting.network, exclude=("conv1", "layer1", "layer2", "layer3.0.conv1"))
    last = dataclasses.replace(setting, network=network)
    hyper = {"threshold": 1.0, "decay": 0.01, "learning_rate": 0.01}
    run(method_spec(last, "implicit", hyper, number=64, width_rule="uniform", macs_target=0.8))
    whole, pruned = answers
    assert float((whole - pruned).abs().max() / whole.abs().max()) <= 1e-5


# -- broken promises ------------------------------------------------------------------------------------------------


def test_a_method_that_changes_answers_when_attached(setting, tmp_path, monkeypatch):
    attach = Slimming.attach

    def broken(self, model, traced, **options):
        with torch.no_grad():
            model.conv1.weight.mul_(1.001)
        return attach(self, model, traced, **options)

    monkeypatch.setattr(Slimming, "attach", broken)
    told = r"^attaching slimming must not change the network's answers, but they differ by .* \(allowed 1e-06\)"
    with pytest.raises(TrialError, match=told):
        run(spec_of(elsewhere(setting, tmp_path)))


def test_surgery_that_changes_answers(setting, monkeypatch):
    def broken(model, groups, kept):
        pruned = cut(model, groups, kept)
        with torch.no_grad():
            pruned.layer2[0].conv2.weight.mul_(1.01)
        return pruned

    monkeypatch.setattr(steps, "cut", broken)
    with pytest.raises(TrialError, match=r"^surgery must not change the network's answers, but they differ by \d"):
        run(spec_of(setting, number=40))


def test_a_file_that_holds_other_weights(setting, monkeypatch):
    def broken(path, tensors, record):
        return publish(path, {name: tensor * 1.001 for name, tensor in tensors.items()}, record)

    monkeypatch.setattr(trial, "publish", broken)
    with pytest.raises(TrialError, match=r"^saving and loading must not change the network's answers"):
        run(spec_of(setting, number=41))


def test_scores_that_are_not_finite(setting, monkeypatch):
    rank = Slimming.rank

    def broken(self, model, traced, **options):
        scores = rank(self, model, traced, **options)
        scores["layer2.0.conv2"][3] = float("nan")
        return scores

    monkeypatch.setattr(Slimming, "rank", broken)
    with pytest.raises(TrialError, match=r"slimming gave others in group 'layer2\.0\.conv2'.* diverged"):
        run(spec_of(setting, number=42))


def test_fine_tuning_that_diverges(setting):
    wild = dataclasses.replace(SHORT, epochs=2.0, learning_rate=100.0, weight_decay=10.0, schedule="constant")
    with pytest.raises(TrialError, match=r"must stay finite|must be finite numbers"):
        run(spec_of(dataclasses.replace(setting, finetune=wild), number=43))
    assert not (Path(setting.artifacts) / "trials" / "tests" / "00043.safetensors").exists()


def test_weights_that_diverge_at_the_very_end(setting, monkeypatch):
    def broken(spec, choice, pruned, **options):
        tuned = tune(spec, choice, pruned, **options)
        with torch.no_grad():
            pruned.network.fc.bias[0] = float("inf")
        return tuned

    monkeypatch.setattr(trial, "tune", broken)
    with pytest.raises(TrialError, match=r"answers must be finite numbers, but some are not.* \[train\.finetune\]"):
        run(spec_of(setting, number=44))


def test_unknown_names_are_told_before_anything_is_trained(setting, tmp_path):
    setting = elsewhere(setting, tmp_path)
    with pytest.raises(ConfigError, match="no method 'slimmin'; did you mean 'slimming'"):
        run(dataclasses.replace(spec_of(setting), method="slimmin"))
    with pytest.raises(ConfigError, match="no width rule 'globel'; did you mean 'global'"):
        run(spec_of(setting, width_rule="globel"))
    with pytest.raises(ConfigError, match="no key 'strenght'"):
        run(spec_of(setting, hyper={"strenght": 1.0}))
    assert not (tmp_path / "phases").exists()


def test_a_target_out_of_reach(setting):
    with pytest.raises(InfeasibleError, match="the widths must cost at most 1 MACs"):
        run(spec_of(setting, macs_target=1e-6))


def test_the_dense_network_is_not_changed_by_trials(setting):
    workbench = open_workbench(setting)
    before = copy.deepcopy(workbench.network.state_dict())
    run(spec_of(setting, number=50, macs_target=0.3))
    assert all(torch.equal(before[name], tensor) for name, tensor in workbench.network.state_dict().items())
    assert isinstance(workbench.network.conv1, nn.Conv2d)
    assert workbench.network.conv1.out_channels == 16
