"""Trials whose networks two processes train: refused where that can't be, else as one process trains them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import autoprune
from autoprune.api import _planning
from autoprune.config import Progressed, StudyConfig, TrialSpec, read_stored
from autoprune.engine.files import PhaseStore
from autoprune.engine.training.teams import _TEAMS
from autoprune.errors import ConfigError, NetworkError
from autoprune.pipeline import open_workbench, run_trial
from tests.digits_task import TABLES

Write = Callable[..., Path]
RECIPE = "epochs = 0.2\nbatch = 64\nlearning_rate = 0.05"
TRAIN = {f"train.{phase}": RECIPE for phase in ("dense", "sparsify", "finetune")}


@pytest.fixture(scope="module", autouse=True)
def _no_team_stays() -> Iterator[None]:
    """Members wait for more work as long as their process lives; other tests of it need none."""
    yield
    for team in list(_TEAMS.values()):
        team.close()
    _TEAMS.clear()


@pytest.fixture
def config_of(write_study: Write, tmp_path: Path) -> Callable[..., StudyConfig]:
    def load(engine: str = "", **tables: Any) -> StudyConfig:
        lines = f'precision = "float32"\nartifacts = "{tmp_path / "artifacts"}"\nrecalibration_images = 64\n{engine}'
        return _planning.load_config(write_study(tmp_path, engine=lines, **{**TRAIN, **tables}))

    return load


def test_a_trial_of_several_gpus_has_a_process_on_each(config_of: Callable[..., StudyConfig]) -> None:
    assert config_of().setting.processes is None
    four = config_of(resources="gpu = 4")
    assert (four.setting.n_processes, four.to_dict()["setting"]["processes"]) == (4, 4)
    assert read_stored(four.to_dict()) == four
    assert "processes" not in config_of(resources="gpu = 0.5").to_dict()["setting"]
    assert config_of("processes = 2\nsync_batchnorm = true").setting.n_processes == 2  # On CPUs.


@pytest.mark.parametrize(
    ("engine", "tables", "why"),
    [
        ("", {"resources": "gpu = 1.5"}, "`gpu` must be a share of one GPU or a whole number of them, but got gpu=1.5"),
        ("processes = 2", {"resources": "gpu = 0.5"}, "`processes` of .engine. must each have a GPU, but they are 2"),
        ("processes = 4", {"resources": "gpu = 2"}, "but they are 4 where `gpu` of .resources. is 2"),
        (
            "",
            {"resources": "gpu = 40"},
            "of .train.dense. must give each of 40 processes two images at least, but is 64",
        ),
        ("processes = 2", TABLES, "several processes share the images of .data. alone, but there are 2 for a task"),
    ],
)
def test_what_can_not_be_is_refused(
    config_of: Callable[..., StudyConfig], engine: str, tables: dict[str, Any], why: str
) -> None:
    if tables is TABLES:
        tables = {**TABLES, "study": 'name = "own"\nreference_point = { rmse = 2.0, macs_ratio = 1.0 }'}
    with pytest.raises(ConfigError, match=why):
        config_of(engine, **tables)


def test_methods_say_whether_they_go_along(config_of: Callable[..., StudyConfig]) -> None:
    named = config_of("processes = 2", space='methods = ["magnitude", "aofp"]')
    with pytest.raises(NetworkError, match="'aofp' can't prune this network: it measures whole batches as it trains"):
        _planning.space_of(named, open_workbench(named.setting))
    going = ("halo", "implicit", "magnitude", "resrep", "slimming")
    listed = config_of("processes = 2", space=f"methods = {list(going)}")
    assert set(_planning.space_of(listed, open_workbench(listed.setting)).config.methods) == set(going)
    every = config_of("processes = 2", space='methods = ["*"]')
    assert not {"aofp", "bwcp"} & set(_planning.space_of(every, open_workbench(every.setting)).config.methods)


@pytest.mark.parametrize("method", ["slimming", "resrep"])
def test_one_report_and_one_network_as_one_process_gives_them(
    config_of: Callable[..., StudyConfig], tmp_path: Path, method: str
) -> None:
    torch.set_num_threads(1)
    alone = config_of("threads = 1").setting
    found, told, dense = {}, {}, {}
    for name, changes in {"one": {}, "two": {"processes": 2, "sync_batchnorm": True}}.items():
        setting = dataclasses.replace(alone, **changes, artifacts=str(tmp_path / name))
        spec = TrialSpec(setting=setting, study="s", number=0, method=method, width_rule="uniform", macs_target=0.5)
        words: list[Progressed] = []
        phases = PhaseStore(tmp_path / name / "phases")
        found[name] = run_trial(spec, words.append, phases)
        dense[name] = open_workbench(setting).dense(phases).tensors
        told[name] = [word.rung for word in words if word.rung is not None]
        assert [path.name for path in (tmp_path / name / "trials" / "s").iterdir()].count("00000.safetensors") == 1
    one, two = found["one"], found["two"]
    assert (one.widths, one.images, told["one"]) == (two.widths, two.images, told["two"])
    for key, tensor in dense["one"].items():
        torch.testing.assert_close(dense["two"][key], tensor, rtol=0, atol=5e-3)
    assert one.rungs == pytest.approx(two.rungs, abs=0.2)  # Rounding may have decided which channels stay.


@pytest.mark.slow
@pytest.mark.ray
def test_a_study_of_trials_with_two_processes(write_study: Write, tmp_path: Path) -> None:
    engine = f'precision = "float32"\nartifacts = "{tmp_path}/a"\nrecalibration_images = 64\nprocesses = 2\nthreads = 1'
    study = 'name = "two"\nn_trials = 3\nlease_s = 600'
    file = write_study(tmp_path, study=study, engine=engine, resources="cpu = 2\nconcurrency = 1", **TRAIN)
    with autoprune.launch(file, storage=f"sqlite:///{tmp_path}/two.db").study as found:
        trials = found.trials()
    assert list(trials["state"]) == ["COMPLETE"] * 3
    assert len(list((tmp_path / "a" / "trials" / "two").glob("*.safetensors"))) >= 1
    assert trials["accuracy"].min() > 0.1


def test_batchnorm_over_shares_is_another_phase(config_of: Callable[..., StudyConfig]) -> None:
    keys = [
        open_workbench(config_of(engine).setting).dense_key
        for engine in ("", "processes = 2\nsync_batchnorm = true", "processes = 2", "processes = 3")
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
