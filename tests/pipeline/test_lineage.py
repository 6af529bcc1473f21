"""Trials that start from a finished one's network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autoprune.config import Ancestor, DataSpec, NetworkSpec, SettingSpec, TrainSpec, TrialResult, TrialSpec
from autoprune.engine.files import PhaseStore, read_tensors
from autoprune.errors import WeightsError
from autoprune.pipeline import load_model, open_workbench, run_trial
from autoprune.pipeline.lineage import as_kept, inherit, inherited

torch.set_num_threads(1)

SHORT = TrainSpec(epochs=0.5, batch=64, learning_rate=0.05)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> SettingSpec:
    return SettingSpec(
        network=NetworkSpec(architecture="resnet_digits"),
        data=DataSpec(source="digits", validation="last:237"),
        dense=dataclasses.replace(SHORT, epochs=2.0), sparsify=SHORT, finetune=SHORT, recalibration_images=256,
        artifacts=str(tmp_path_factory.mktemp("artifacts")),
    )  # fmt: skip


def run(setting: SettingSpec, number: int, **options: Any) -> TrialResult:
    rest = {"width_rule": "global", "macs_target": 0.5, "study": "tests", "method": "magnitude", **options}
    spec = TrialSpec(setting=setting, number=number, **rest)
    return run_trial(spec, lambda report: None, PhaseStore(Path(setting.artifacts) / "phases"))


def as_ancestor(number: int, result: TrialResult) -> Ancestor:
    return Ancestor(number=number, weights=result.weights, sha256=result.sha256)


def kept_by(result: TrialResult) -> dict[str, list[int]]:
    kept: dict[str, list[int]] = json.loads(Path(result.weights).with_suffix(".json").read_text())["kept"]
    return kept


@pytest.fixture(scope="module")
def parent(setting: SettingSpec) -> TrialResult:
    return run(setting, 0)


@pytest.mark.parametrize("rule", ["uniform", "global", "aofp", "per_mac"])
@pytest.mark.parametrize("method", ["magnitude", "damage"])
def test_a_child_keeps_its_own_limit_and_none_but_its_parent_s_channels(
    setting: SettingSpec, parent: TrialResult, rule: str, method: str
) -> None:
    child = run(setting, 1, width_rule=rule, method=method, macs_target=0.25, ancestors=(as_ancestor(0, parent),))
    cost = open_workbench(setting).traced.cost
    assert child.macs == cost.macs(dict(child.widths)) <= 0.25 * cost.dense_macs
    assert child.macs_ratio == child.macs / cost.dense_macs
    before, after = kept_by(parent), kept_by(child)
    assert all(set(after[name]) <= set(before[name]) for name in before)
    assert (child.started_from, parent.started_from) == (0, None)
    # The record builds the network again.
    assert sum(p.numel() for p in load_model(child.weights).parameters()) == child.params


def test_a_child_starts_from_its_parent_s_weights(setting: SettingSpec, parent: TrialResult) -> None:
    """Trained by a rate too small to move anything, it is its parent with rows and columns left out."""
    still = dataclasses.replace(setting, finetune=dataclasses.replace(SHORT, learning_rate=1e-30, weight_decay=0.0))
    child = run(still, 2, macs_target=0.3, ancestors=(as_ancestor(0, parent),))
    mine, its = read_tensors(Path(child.weights)), read_tensors(Path(parent.weights))
    wide, narrow = kept_by(parent), kept_by(child)
    name = "conv" if "conv.weight" in mine else next(iter(narrow))
    rows = np.searchsorted(wide[name], narrow[name])
    assert torch.equal(mine[f"{name}.weight"], its[f"{name}.weight"][rows])


def test_a_target_that_the_parent_keeps_already_trains_it_on(setting: SettingSpec, parent: TrialResult) -> None:
    more = run(setting, 3, macs_target=parent.macs_ratio, ancestors=(as_ancestor(0, parent),))
    assert kept_by(more) == kept_by(parent)
    assert more.macs == parent.macs
    assert more.sha256 != parent.sha256
    assert more.rungs["0"] == pytest.approx(parent.score, abs=0.05)  # Recalibrated, not trained yet.


def test_a_parent_that_is_gone_or_damaged_gives_way_to_the_next_and_it_is_recorded(
    setting: SettingSpec, tmp_path: Path
) -> None:
    own = dataclasses.replace(setting, artifacts=str(tmp_path))
    first = run(own, 0, macs_target=0.7)
    second = run(own, 1, macs_target=0.5, ancestors=(as_ancestor(0, first),))
    line = (as_ancestor(1, second), as_ancestor(0, first))
    other = dataclasses.replace(line[0], sha256="0" * 64)
    assert run(own, 2, macs_target=0.3, ancestors=(other, line[1])).started_from == 0
    Path(second.weights).unlink()
    third = run(own, 3, macs_target=0.3, ancestors=line)
    assert third.started_from == 0
    assert json.loads(Path(third.weights).with_suffix(".json").read_text())["started_from"] == 0
    Path(first.weights).write_bytes(b"damaged")
    fourth = run(own, 4, macs_target=0.3, ancestors=line)
    assert fourth.started_from is None


def test_the_length_of_a_trial_is_its_own(setting: SettingSpec, parent: TrialResult) -> None:
    n_images, batch = open_workbench(setting).work.n_examples, 64
    assert parent.images == round(0.5 * n_images / batch) * batch
    assert run(setting, 5, epochs=1.5).images == round(1.5 * n_images / batch) * batch


def test_a_trial_without_time_is_cut_short_and_says_so(setting: SettingSpec) -> None:
    result = run(setting, 6, epochs=500.0, time_limit_s=4.0)
    assert 0 < result.images < 500 * open_workbench(setting).work.n_examples / 2
    assert result.score > 0.5  # The schedule has come to its end: this network is annealed.


def test_channels_that_a_parent_lacks_are_refused(setting: SettingSpec, parent: TrialResult) -> None:
    workbench = open_workbench(setting)
    found = inherit([as_ancestor(0, parent)], workbench=workbench)
    assert found is not None
    kept = as_kept(kept_by(parent))
    name = next(name for name, indices in kept.items() if len(indices) < workbench.traced.group(name).width)
    lacking = np.setdiff1d(np.arange(workbench.traced.group(name).width), kept[name])[:1]
    with pytest.raises(WeightsError, match="must be among those of its parent"):
        found.within({name: lacking})
    back = found.in_dense(found.within(kept))
    assert all(np.array_equal(back[name], kept[name]) for name in kept)


def test_a_group_of_one_channel_is_still_a_group(setting: SettingSpec) -> None:
    workbench = open_workbench(setting)
    kept = {group.name: np.array([0]) for group in workbench.traced.groups}
    made = inherited(workbench.network, kept, number=0, sha256="", workbench=workbench)
    assert [group.width for group in made.traced.groups] == [1] * len(kept)
    assert made.traced.cost.dense_macs == workbench.traced.cost.macs(dict.fromkeys(kept, 1))
