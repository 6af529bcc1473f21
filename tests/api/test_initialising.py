"""Study files written for a network, data and a time."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoprune import api
from autoprune.api._initialising import DensePlan, dense_plan
from autoprune.cli.main import main
from autoprune.errors import ConfigError, DataError

MINE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import autoprune


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def photos():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def task():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16)
    return autoprune.Task(kind="regression", train=loader, validation=loader)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("mine_init", None)
    (tmp_path / "mine_init.py").write_text(MINE)
    return tmp_path


def photos(folder: Path, *, per_class: int = 3, size: tuple[int, int] = (20, 24)) -> None:
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(per_class):
            pixels = generator.integers(0, 255, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def test_built_in_network_and_data(here: Path) -> None:
    written = api.init("digits.toml", network="resnet_digits", data="digits", time_limit="5m")
    assert written.command == "autoprune launch digits.toml --time-limit 5m"
    config = api.load_study(here / "digits.toml")
    assert (config.study.name, config.space.name) == ("digits", "resnet_digits")
    assert (config.setting.data.source, config.setting.finetune.augmentation) == ("digits", "shift")  # type: ignore[union-attr]
    text = (here / "digits.toml").read_text()
    assert "n_trials" not in text
    assert f"{written.inspection.macs:,} MACs" in text
    assert api.plan("digits.toml", storage=f"sqlite:///{here}/a.db", time_limit_s=300).opening


def test_the_dense_network_leaves_most_of_the_time_to_trials() -> None:
    few = dense_plan(seconds=60.0, epoch_s=0.9)
    assert (few.epochs, few.notes) == (16, ())  # a quarter of a minute
    assert few.why == " # of about 0.9 s each here, so that most of 1 min is left for trials"
    assert dense_plan(seconds=3600.0, epoch_s=0.9) == DensePlan(30)
    none = dense_plan(seconds=60.0, epoch_s=40.0)
    assert none.epochs == 1
    (note,) = none.notes
    assert note.startswith(
        "an epoch of the dense network takes about 40 s here, which leaves little of 1 min for trials."
    )


def test_epochs_fit_the_time_that_was_given(here: Path) -> None:
    written = api.init("short.toml", network="resnet_digits", data="digits", time_limit="0.01s")
    assert api.load_study(here / "short.toml").setting.dense.epochs == 1
    assert [note.split(" takes ")[0] for note in written.notes] == ["an epoch of the dense network"]
    assert api.init("long.toml", network="resnet_digits", data="digits", time_limit="100h").notes == ()
    assert api.load_study(here / "long.toml").setting.dense.epochs == 30


@pytest.mark.slow
@pytest.mark.ray
def test_a_minute_is_enough_for_a_front(here: Path) -> None:
    notes: list[str] = []

    class Told(api.Progress):
        def note(self, text: str) -> None:
            notes.append(text)

    written = api.init("minute.toml", network="resnet20", data="digits", time_limit="1m")
    outcome = api.launch(written.path, storage=f"sqlite:///{here}/a.db", time_limit_s=60, progress=Told())
    assert outcome.finished
    trials = outcome.study.trials()
    complete = trials[trials["state"] == "COMPLETE"]
    assert complete["macs_ratio"].min() < 0.9  # not the dense network alone
    assert len(complete) >= 3
    assert not any("[train.dense] take" in note for note in notes)


def test_folders_of_images_in_parts(here: Path) -> None:
    photos(here / "pets" / "train")
    photos(here / "pets" / "val", size=(64, 64))
    (here / "studies").mkdir()
    api.init("studies/pets.toml", network="mine_init:photos", data="pets")
    config = api.load_study(here / "studies" / "pets.toml")
    data = config.setting.data
    assert data is not None
    assert (data.train, data.validation, data.test) == (str(here / "pets/train"), str(here / "pets/val"), None)
    assert (data.image_size, config.study.n_trials, config.space.name) == (20, 60, "any")
    assert config.setting.finetune.augmentation == "crop_flip"


def test_a_task_of_ones_own(here: Path) -> None:
    api.init("line.toml", network="mine_init:net", task="mine_init:task", name="line")
    config = api.load_study(here / "line.toml")
    assert (config.study.metric, config.setting.task.kind) == ("rmse", "regression")
    # The targets are sums of four normal numbers; with weights of chance the network says next to nothing of them.
    assert 1.0 < config.study.reference_point["rmse"] < 4.0


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "s.toml", "--network", "resnet_digits", "--data", "digits", "--time", "90s"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("wrote s.toml: resnet_digits on 1 x 8 x 8 images, ")
    assert out[1] == "next: autoprune launch s.toml --time-limit 90s"
    assert main(["init", "s.toml", "--network", "resnet_digits", "--data", "digits"]) == 2
    assert capsys.readouterr().err == (
        "autoprune: s.toml must not be there yet, but is. Choose another name, or move it away.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"network": "resnet_digits"}, ConfigError, "either data, labelled images, or a task of your own"),
        ({"network": "resnet_digits", "data": "digits", "task": "a:b"}, ConfigError, "Give one of the two"),
        ({"network": "resnet_digits", "data": "nowhere"}, DataError, "there is none at nowhere"),
        ({"network": "resnet_digts", "data": "digits"}, ConfigError, "did you mean 'resnet_digits'"),
        ({"network": "resnet_digits", "data": "digits", "time_limit": "soon"}, ConfigError, "a length of time"),
        ({"network": "mine_init:net", "task": "mine_init:net"}, ConfigError, "must return an autoprune.Task"),
        ({"network": "mine_init:photos", "task": "mine_init:task"}, DataError, "but failed on them"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_written(
    arguments: dict[str, str], error: type[Exception], told: str, here: Path
) -> None:
    with pytest.raises(error, match=told):
        api.init("study.toml", **arguments)  # type: ignore[arg-type]
    assert [path.name for path in here.glob("**/*.toml")] == []
    with pytest.raises(ConfigError, match=r"must be a \.toml file"):
        api.init("study.json", network="resnet_digits", data="digits")
