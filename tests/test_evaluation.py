"""A network made again: the trial's own with the trial's own seed, and otherwise one that differs by the seed alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from autoprune import methods
from autoprune.engine.phases import PhaseStore
from autoprune.engine.weights import read_tensors
from autoprune.errors import DataError
from autoprune.evaluation import evaluation_seed, made_again, open_test, score
from autoprune.spec import DataSpec, NetworkSpec, SettingSpec, TrainSpec, TrialSpec, seed_of
from autoprune.trial import run_trial
from autoprune.workbench import open_workbench

torch.set_num_threads(1)

SHORT = TrainSpec(epochs=0.5, batch=64, learning_rate=0.05, augmentation="shift")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> SettingSpec:
    return SettingSpec(
        network=NetworkSpec(architecture="resnet_digits"),
        data=DataSpec(source="digits", validation="last:237"),
        dense=dataclasses.replace(SHORT, epochs=2.0), sparsify=SHORT, finetune=SHORT, recalibration_images=256,
        artifacts=str(tmp_path_factory.mktemp("artifacts")),
    )  # fmt: skip


def spec_of(setting: SettingSpec, number: int, method: str = "magnitude", **options: Any) -> TrialSpec:
    rest: dict[str, Any] = {"width_rule": "uniform", "macs_target": 0.5, "study": "tests", **options}
    return TrialSpec(setting=setting, number=number, method=method, **rest)


def store(setting: SettingSpec) -> PhaseStore:
    return PhaseStore(Path(setting.artifacts) / "phases")


def kept_by(spec: TrialSpec) -> tuple[dict[str, list[int]], dict[str, torch.Tensor]]:
    """Run a trial; the channels that it kept, and its weights."""
    result = run_trial(spec, lambda report: None, store(spec.setting))
    record = json.loads(Path(result.weights).with_suffix(".json").read_text())
    return record["kept"], read_tensors(Path(result.weights))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_with_the_trial_s_own_seed_it_is_the_trial_s_network(method: str, setting: SettingSpec) -> None:
    """So nothing but the seed is different in an evaluation: not the parent, the channels, the recipe."""
    spec = spec_of(setting, 3, method)
    kept, weights = kept_by(spec)
    own_seed = seed_of("finetune", setting.seed, spec.number)
    again = made_again(spec, kept, seed=own_seed, phases=store(setting))
    assert same(dict(again.network.state_dict()), weights)
    other = made_again(spec, kept, seed=evaluation_seed(setting, 3, 0), phases=store(setting))
    assert not same(dict(other.network.state_dict()), weights)
    assert other.network.state_dict().keys() == weights.keys()


def test_a_parent_that_was_evicted_is_computed_again(setting: SettingSpec, tmp_path: Path) -> None:
    spec = spec_of(setting, 4, "slimming", width_rule="global")
    kept, weights = kept_by(spec)
    moved = dataclasses.replace(spec, setting=dataclasses.replace(setting, artifacts=str(tmp_path)))
    seed = seed_of("finetune", setting.seed, spec.number)
    assert same(dict(made_again(moved, kept, seed=seed, phases=store(moved.setting)).network.state_dict()), weights)
    assert len(list((tmp_path / "phases").glob("sparsify-*.safetensors"))) == 1


def test_the_dense_network_is_left_as_it_is(setting: SettingSpec) -> None:
    spec = spec_of(setting, 0, macs_target=1.0)
    kept, weights = kept_by(spec)
    again = made_again(spec, kept, seed=1, phases=store(setting))
    assert again.is_untouched
    assert same(dict(again.network.state_dict()), weights)
    assert again.parent.key == open_workbench(setting).dense_key
    trained = spec_of(setting, 1, "slimming", macs_target=1.0)
    assert not made_again(trained, kept, seed=1, phases=store(setting)).is_untouched


def test_a_score_repeats_itself_and_is_that_of_the_test_images(setting: SettingSpec) -> None:
    spec, phases = spec_of(setting, 5), store(setting)
    kept, _ = kept_by(spec)
    _, fingerprint = open_test(setting, open_workbench(setting))
    found = score(spec, kept, seed=0, fingerprint=fingerprint, phases=phases)
    again = score(spec, kept, seed=0, fingerprint=fingerprint, phases=phases)
    assert found.keys() == {"accuracy", "n_images", "wall_s", "is_untouched", "phase_file", "phase_kind"}
    assert (found["accuracy"], found["n_images"], found["is_untouched"]) == (again["accuracy"], 360, False)
    assert found["phase_kind"] == "dense"
    assert json.loads(json.dumps(found)) == found

    # The last 360 of scikit-learn's 1,797 images, looked at one by one.
    digits, preprocess = load_digits(), open_workbench(setting).bench.preprocess
    pixels = torch.from_numpy((digits.images[1437:] * (255 / 16)).round().astype(np.uint8)[:, None])
    network = made_again(spec, kept, seed=evaluation_seed(setting, 5, 0), phases=phases).network.eval()
    with torch.no_grad():
        told = network(preprocess(pixels, torch.device("cpu"))).argmax(1).numpy()
    assert found["accuracy"] == np.mean(told == digits.target[1437:])


def test_seeds_give_other_scores(setting: SettingSpec) -> None:
    spec, phases = spec_of(setting, 6, macs_target=0.3), store(setting)
    kept, _ = kept_by(spec)
    _, fingerprint = open_test(setting, open_workbench(setting))
    found = [score(spec, kept, seed=seed, fingerprint=fingerprint, phases=phases)["accuracy"] for seed in range(4)]
    assert len(set(found)) > 1
    assert len({evaluation_seed(setting, number, seed) for number in range(20) for seed in range(20)}) == 400
    assert seed_of("finetune", setting.seed, 6) not in {evaluation_seed(setting, 6, seed) for seed in range(1000)}


def test_a_test_split_that_changes_meanwhile_is_noticed(setting: SettingSpec) -> None:
    spec = spec_of(setting, 7)
    kept, _ = kept_by(spec)
    with pytest.raises(DataError, match=r"`test` must not change while it is scored on, but it has\. Run the same"):
        score(spec, kept, seed=0, fingerprint="another one", phases=store(setting))


def test_no_other_file_is_written(setting: SettingSpec, tmp_path: Path) -> None:
    spec = spec_of(setting, 8)
    kept, _ = kept_by(spec)
    shutil.copytree(setting.artifacts, tmp_path / "copy")
    moved = dataclasses.replace(spec, setting=dataclasses.replace(setting, artifacts=str(tmp_path / "copy")))
    _, fingerprint = open_test(moved.setting, open_workbench(moved.setting))
    before = {path for path in (tmp_path / "copy").rglob("*") if path.suffix != ".lock"}
    score(moved, kept, seed=0, fingerprint=fingerprint, phases=store(moved.setting))
    assert {path for path in (tmp_path / "copy").rglob("*") if path.suffix != ".lock"} == before
