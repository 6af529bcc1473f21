"""A network made again: the trial's own with the trial's own seed, and otherwise one that differs by the seed alone."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from autoprune import methods
from autoprune.config import Ancestor, DataSpec, NetworkSpec, SettingSpec, TrainSpec, TrialSpec, seed_of
from autoprune.engine.files import PhaseStore, read_tensors
from autoprune.errors import DataError
from autoprune.pipeline import Link, open_workbench, run_trial
from autoprune.pipeline import score as score_lineage
from autoprune.pipeline.evaluation import Repetition, evaluation_seed
from autoprune.pipeline.evaluation import repeat as repeat_lineage

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


def repeat(spec: TrialSpec, kept: dict[str, list[int]], *, seed: int, phases: PhaseStore) -> Repetition:
    """Repeat a trial that started from no other one."""
    return repeat_lineage([Link(spec, kept)], seed_for=lambda spec: seed, phases=phases)


def score(
    spec: TrialSpec, kept: dict[str, list[int]], *, seed: int, fingerprint: str, phases: PhaseStore
) -> dict[str, Any]:
    """Score a trial that started from no other one."""
    return score_lineage([Link(spec, kept)], seed=seed, fingerprint=fingerprint, phases=phases)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", sorted(methods.METHODS))
def test_with_the_trial_s_own_seed_it_is_the_trial_s_network(method: str, setting: SettingSpec) -> None:
    """So nothing but the seed is different in an evaluation: not the parent, the channels, the recipe."""
    spec = spec_of(setting, 3, method)
    kept, weights = kept_by(spec)
    own_seed = seed_of("finetune", setting.seed, spec.number)
    again = repeat(spec, kept, seed=own_seed, phases=store(setting))
    assert same(dict(again.pruned.network.state_dict()), weights)
    other = repeat(spec, kept, seed=evaluation_seed(setting, 3, 0), phases=store(setting))
    assert not same(dict(other.pruned.network.state_dict()), weights)
    assert other.pruned.network.state_dict().keys() == weights.keys()


def test_a_parent_that_was_evicted_is_computed_again(setting: SettingSpec, tmp_path: Path) -> None:
    spec = spec_of(setting, 4, "slimming", width_rule="global")
    kept, weights = kept_by(spec)
    moved = dataclasses.replace(spec, setting=dataclasses.replace(setting, artifacts=str(tmp_path)))
    seed = seed_of("finetune", setting.seed, spec.number)
    assert same(dict(repeat(moved, kept, seed=seed, phases=store(moved.setting)).pruned.network.state_dict()), weights)
    assert len(list((tmp_path / "phases").glob("sparsify-*.safetensors"))) == 1


def test_the_dense_network_is_left_as_it_is(setting: SettingSpec) -> None:
    spec = spec_of(setting, 0, macs_target=1.0)
    kept, weights = kept_by(spec)
    again = repeat(spec, kept, seed=1, phases=store(setting))
    assert again.pruned.is_untouched
    assert same(dict(again.pruned.network.state_dict()), weights)
    assert again.parent.phase.key == open_workbench(setting).dense_key
    trained = spec_of(setting, 1, "slimming", macs_target=1.0)
    assert not repeat(trained, kept, seed=1, phases=store(setting)).pruned.is_untouched


def test_a_score_repeats_itself_and_is_that_of_the_test_images(setting: SettingSpec) -> None:
    spec, phases = spec_of(setting, 5), store(setting)
    kept, _ = kept_by(spec)
    fingerprint = open_workbench(setting).work.test().fingerprint
    found = score(spec, kept, seed=0, fingerprint=fingerprint, phases=phases)
    again = score(spec, kept, seed=0, fingerprint=fingerprint, phases=phases)
    assert found.keys() == {"accuracy", "n_images", "wall_s", "is_untouched", "phase_file", "phase_kind"}
    assert (found["accuracy"], found["n_images"], found["is_untouched"]) == (again["accuracy"], 360, False)
    assert found["phase_kind"] == "dense"
    assert json.loads(json.dumps(found)) == found

    # The last 360 of scikit-learn's 1,797 images, looked at one by one.
    digits, preprocess = load_digits(), open_workbench(setting).runtime.preprocess
    pixels = torch.from_numpy((digits.images[1437:] * (255 / 16)).round().astype(np.uint8)[:, None])
    network = repeat(spec, kept, seed=evaluation_seed(setting, 5, 0), phases=phases).pruned.network.eval()
    with torch.no_grad():
        told = network(preprocess(pixels, torch.device("cpu"))).argmax(1).numpy()
    assert found["accuracy"] == np.mean(told == digits.target[1437:])


def test_seeds_give_other_scores(setting: SettingSpec) -> None:
    spec, phases = spec_of(setting, 6, macs_target=0.3), store(setting)
    kept, _ = kept_by(spec)
    fingerprint = open_workbench(setting).work.test().fingerprint
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
    fingerprint = open_workbench(moved.setting).work.test().fingerprint
    before = {path for path in (tmp_path / "copy").rglob("*") if path.suffix != ".lock"}
    score(moved, kept, seed=0, fingerprint=fingerprint, phases=store(moved.setting))
    assert {path for path in (tmp_path / "copy").rglob("*") if path.suffix != ".lock"} == before


def test_a_lineage_of_three_cuts_with_its_own_seeds_ends_in_the_trial_s_network(setting: SettingSpec) -> None:
    links, results, ancestors = [], [], ()
    cuts = [(0.7, "global", 0.5), (0.4, "uniform", 0.3), (0.2, "global", 0.7)]
    for number, (target, rule, epochs) in enumerate(cuts):
        options = {"width_rule": rule, "macs_target": target, "epochs": epochs, "ancestors": ancestors}
        spec = spec_of(setting, 20 + number, **options)
        result = run_trial(spec, lambda report: None, store(setting))
        record = json.loads(Path(result.weights).with_suffix(".json").read_text())
        links.append(Link(dataclasses.replace(spec, ancestors=()), record["kept"]))
        results.append(result)
        ancestors = (Ancestor(number=20 + number, weights=result.weights, sha256=result.sha256), *ancestors)
    assert [result.started_from for result in results] == [None, 20, 21]
    for larger, smaller in itertools.pairwise(links):
        assert all(set(channels) <= set(larger.kept[name]) for name, channels in smaller.kept.items())
    own = {20 + number: seed_of("finetune", setting.seed, 20 + number) for number in range(3)}
    again = repeat_lineage(links, seed_for=lambda spec: own[spec.number], phases=store(setting))
    weights = read_tensors(Path(results[-1].weights))
    assert same(dict(again.pruned.network.state_dict()), weights)
    # Another seed at the root alone is another network at the end.
    other = repeat_lineage(links, seed_for=lambda spec: own[spec.number] + (spec.number == 20), phases=store(setting))
    assert not same(dict(other.pruned.network.state_dict()), weights)
