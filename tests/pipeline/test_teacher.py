"""The dense network as a teacher: its logits are computed once, by whoever comes first, and trials learn from them."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.config import DataSpec, DistillSpec, NetworkSpec, SettingSpec, TrainSpec, TrialSpec, digest, seed_of
from autoprune.engine.files import PhaseStore, read_tensors
from autoprune.engine.training import OnlineTeacher, StoredTeacher
from autoprune.errors import ConfigError
from autoprune.pipeline import Link, open_workbench, run_trial, teacher
from autoprune.pipeline.evaluation import repeat
from autoprune.pipeline.teacher import teacher_of

torch.set_num_threads(1)

PLAIN = TrainSpec(epochs=0.5, batch=64, learning_rate=0.05, augmentation="shift")
TAUGHT = dataclasses.replace(PLAIN, distill=DistillSpec(views=3))


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> SettingSpec:
    return SettingSpec(
        network=NetworkSpec(architecture="resnet_digits"),
        data=DataSpec(source="digits", validation="last:237"),
        dense=dataclasses.replace(PLAIN, epochs=1.0), sparsify=PLAIN, finetune=TAUGHT, recalibration_images=256,
        artifacts=str(tmp_path_factory.mktemp("artifacts")),
    )  # fmt: skip


def store(setting: SettingSpec) -> PhaseStore:
    return PhaseStore(Path(setting.artifacts) / "phases")


def ask(setting: SettingSpec, recipe: TrainSpec, phases: PhaseStore, seed: int = 0) -> Any:
    workbench = open_workbench(setting)
    dense = workbench.dense(store(setting))
    return teacher_of(recipe, dense, workbench=workbench, phases=phases, report=lambda report: None, seed=seed)


def test_without_distill_nobody_teaches_and_keys_stay_as_they_were() -> None:
    assert "distill" not in PLAIN.to_dict()
    before = {
        "epochs": 10.0, "batch": 128, "optimizer": "sgd", "learning_rate": 0.05, "schedule": "one_cycle",
        "warmup": 0.15, "momentum": 0.9, "weight_decay": 5e-4, "label_smoothing": 0.0, "augmentation": "none",
    }  # fmt: skip
    assert digest(TrainSpec().to_dict()) == digest(before)
    assert TAUGHT.to_dict()["distill"] == {"weight": 0.9, "temperature": 4.0, "views": 3}


def test_the_dense_network_has_no_teacher(setting: SettingSpec) -> None:
    with pytest.raises(ConfigError, match=r"\[train\.dense\] can't have it"):
        dataclasses.replace(setting, dense=TAUGHT)


def test_a_spec_with_a_teacher_survives_its_way_to_the_worker(setting: SettingSpec) -> None:
    spec = TrialSpec(setting=setting, study="s", number=0, method="magnitude", width_rule="uniform", macs_target=0.5)
    assert TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_several_workers_compute_each_view_once(
    setting: SettingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed, logits_of = Counter[str](), teacher._logits

    def counted(view: Any, *args: Any, **more: Any) -> Any:
        computed[str(view.offsets[:5].tolist())] += 1
        return logits_of(view, *args, **more)

    monkeypatch.setattr(teacher, "_logits", counted)
    monkeypatch.setattr(teacher, "_LOOK_AGAIN_S", 0.01)
    found: list[Any] = []
    workers = [
        threading.Thread(target=lambda: found.append(ask(setting, TAUGHT, PhaseStore(tmp_path)))) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert sorted(computed.values()) == [1, 1, 1]
    assert len(list(tmp_path.glob("teacher-*.safetensors"))) == 3


def test_what_is_missing_is_computed_and_nothing_else(
    setting: SettingSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(setting, TAUGHT, PhaseStore(tmp_path))
    files = sorted(tmp_path.glob("teacher-*.safetensors"))
    files[0].unlink()
    files[1].write_bytes(b"half")
    calls, logits_of = [], teacher._logits
    monkeypatch.setattr(teacher, "_logits", lambda *args, **more: (calls.append(1), logits_of(*args, **more))[1])
    ask(setting, TAUGHT, PhaseStore(tmp_path))
    assert len(calls) == 2
    other = dataclasses.replace(TAUGHT, distill=DistillSpec(weight=0.5, temperature=2.0, views=2), learning_rate=0.1)
    ask(setting, other, PhaseStore(tmp_path))
    assert len(calls) == 2  # Weight, temperature and recipe change nothing about what the teacher says.


def test_stored_logits_are_those_of_the_dense_network(setting: SettingSpec) -> None:
    workbench, found = open_workbench(setting), ask(setting, TAUGHT, store(setting))
    assert isinstance(found, StoredTeacher)
    indices = torch.tensor([5, 700, 31])
    (pixels,) = workbench.work.splits.train.read([indices])
    seen = found.show(pixels, indices, turn=1)
    assert seen is not None
    inputs = workbench.runtime.preprocess(seen, workbench.runtime.device)
    network = workbench.with_weights(workbench.dense(store(setting)).tensors)
    with torch.no_grad():
        expected = network(inputs)
    assert torch.allclose(found.logits(inputs, indices, turn=1), expected, rtol=2e-3, atol=2e-3)


def test_one_view_is_all_that_unaugmented_images_have_and_none_asks_the_teacher_itself(
    setting: SettingSpec, tmp_path: Path
) -> None:
    ask(setting, dataclasses.replace(TAUGHT, augmentation="none"), PhaseStore(tmp_path))
    assert len(list(tmp_path.glob("teacher-*.safetensors"))) == 1
    online = dataclasses.replace(TAUGHT, distill=DistillSpec(views=0))
    assert isinstance(ask(setting, online, PhaseStore(tmp_path)), OnlineTeacher)
    assert ask(setting, PLAIN, PhaseStore(tmp_path)) is None


@pytest.mark.parametrize("method", ["magnitude", "slimming"])
def test_a_taught_trial_repeats_itself(setting: SettingSpec, method: str) -> None:
    own = dataclasses.replace(setting, sparsify=TAUGHT)
    spec = TrialSpec(setting=own, study="s", number=7, method=method, width_rule="global", macs_target=0.4)
    told = []
    result = run_trial(spec, told.append, store(own))
    kept = json.loads(Path(result.weights).with_suffix(".json").read_text())["kept"]
    seed = seed_of("finetune", own.seed, 7)
    again = repeat([Link(spec, kept)], seed_for=lambda spec: seed, phases=store(own)).pruned.network.state_dict()
    saved = read_tensors(Path(result.weights))
    assert all(torch.equal(again[name], saved[name]) for name in saved)
    plain = run_trial(
        dataclasses.replace(spec, number=8, setting=dataclasses.replace(own, finetune=PLAIN)), told.append, store(own)
    )
    assert plain.sha256 != result.sha256
