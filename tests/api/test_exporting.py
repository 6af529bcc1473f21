"""Networks of a study's trials, written for elsewhere: real trials in a real database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import autoprune
from autoprune.errors import ConfigError, StorageError, WeightsError
from tests.elsewhere import answers
from tests.real_trials import RealStudy, concat_depthwise, run_study

torch.set_num_threads(1)

NETWORKS = {
    "built_in": 'architecture = "resnet_digits"\nmultiple = 4',
    "factory": 'factory = "tests.real_trials:concat_depthwise"',
}
FACTORIES: dict[str, Any] = {"built_in": None, "factory": concat_depthwise}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RealStudy]:
    return {
        name: run_study(tmp_path_factory.mktemp(name), [{"width_rule": "global"}], network=network)
        for name, network in NETWORKS.items()
    }


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("name", [pytest.param("built_in", marks=pytest.mark.slow), "factory"])
def test_a_trial_s_network_in_all_formats(name: str, studies: dict[str, RealStudy], tmp_path: Path) -> None:
    study = studies[name]
    files = {}
    for ending in (".safetensors", ".pt2", ".onnx", ".py"):
        done = autoprune.export_trial("tiny", 0, tmp_path / "out" / f"net{ending}", storage=study.url)
        beside = done.path.with_suffix(".pt").stat().st_size if ending == ".py" else 0
        assert done.size_bytes == done.path.stat().st_size + beside > 1000
        assert (done.difference is None) == (ending == ".safetensors")
        assert done.difference is None or done.difference <= 1e-4
        files[ending] = done.path
    model = autoprune.load_model(files[".safetensors"], factory=FACTORIES[name])
    original = autoprune.load_model(study.results[0].weights, factory=FACTORIES[name])
    with torch.no_grad():
        expected = {n: model(images(n)) for n in (1, 5)}
        for n, logits in expected.items():
            assert torch.equal(logits, original(images(n)))
    jobs = {(files[ending], n): images(n) for ending in (".pt2", ".onnx", ".py") for n in (1, 5)}
    for (path, n), got in answers(jobs, tmp_path).items():
        assert float((got - expected[n]).abs().max()) <= 1e-4 * float(expected[n].abs().max()), path


def test_the_images_scale_is_told(studies: dict[str, RealStudy], tmp_path: Path) -> None:
    done = autoprune.export_trial("tiny", 0, tmp_path / "net.safetensors", storage=studies["built_in"].url)
    record = json.loads(Path(studies["built_in"].results[0].weights).with_suffix(".json").read_text())
    assert (done.mean, done.std) == (record["normalisation"]["mean"], record["normalisation"]["std"])
    assert len(done.mean) == len(done.std) == 1
    assert json.loads((tmp_path / "net.json").read_text()) == record


def test_what_has_no_network_is_refused(studies: dict[str, RealStudy], tmp_path: Path) -> None:
    url = studies["built_in"].url
    with pytest.raises(ConfigError, match=r"trial 1 of study 'tiny' must have finished .* it is RUNNING"):
        autoprune.export_trial("tiny", 1, tmp_path / "net.onnx", storage=url)
    with pytest.raises(ConfigError, match="has no trial 9"):
        autoprune.export_trial("tiny", 9, tmp_path / "net.onnx", storage=url)
    with pytest.raises(ConfigError, match=r"must end in \.py, \.safetensors, \.pt2, \.onnx, but got 'net\.pth'"):
        autoprune.export_trial("tiny", 0, "net.pth", storage=url)
    with pytest.raises(StorageError, match="none"):
        autoprune.export_trial("tiny", 0, tmp_path / "net.onnx", storage=f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_gone_are_named(tmp_path: Path) -> None:
    study = run_study(tmp_path, [{}], network=NETWORKS["built_in"])
    Path(study.results[0].weights).unlink()
    with pytest.raises(WeightsError, match=r"there is no file .*00000\.safetensors"):
        autoprune.export_trial("tiny", 0, tmp_path / "net.onnx", storage=study.url)
