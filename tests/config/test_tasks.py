"""The table [task] of study files."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune import methods
from autoprune.config import TASKS, StudyConfig, TaskSpec, load_study
from autoprune.errors import ConfigError

START = '[study]\nname = "s"\n{study}[network]\nfactory = "mine:net"\n'
DIGITS = '[data]\nsource = "digits"\n'


def load(tmp_path: Path, rest: str, study: str = "") -> StudyConfig:
    path = tmp_path / "study.toml"
    path.write_text(START.format(study=study) + rest)
    return load_study(path, methods.catalogue())


def test_without_it_images_are_classified(tmp_path: Path) -> None:
    config = load(tmp_path, DIGITS)
    assert config.setting.task == TaskSpec()
    assert (config.study.metric, config.study.direction) == ("accuracy", "maximize")
    assert config.study.objectives == ("accuracy", "macs_ratio")
    assert load(tmp_path, f'{DIGITS}[task]\nkind = "classification"\n') == config


@pytest.mark.parametrize("kind", [kind for kind, (_, direction) in TASKS.items() if direction == "maximize"])
def test_the_kind_names_the_metric(kind: str, tmp_path: Path) -> None:
    config = load(tmp_path, f'[task]\nkind = "{kind}"\nfactory = "mine:task"\n')
    assert config.setting.data is None
    assert (config.study.metric, config.study.direction) == TASKS[kind]
    assert config.study.objectives == (TASKS[kind][0], "macs_ratio")


def test_a_minimised_metric_is_measured_from_a_point_that_is_given(tmp_path: Path) -> None:
    task = '[task]\nkind = "regression"\nfactory = "mine:task"\n'
    config = load(tmp_path, task, "reference_point = { rmse = 2.5, macs_ratio = 1.0 }\n")
    assert (config.study.metric, config.study.directions) == ("rmse", ("minimize", "minimize"))
    with pytest.raises(ConfigError, match="rmse"):
        load(tmp_path, task)


def test_a_metric_of_ones_own(tmp_path: Path) -> None:
    task = '[task]\nfactory = "mine:task"\nmetric = "dice"\ndirection = "maximize"\n'
    config = load(tmp_path, task)
    assert (config.study.metric, config.study.objectives) == ("dice", ("dice", "macs_ratio"))
    assert StudyConfig.to_dict(config)["setting"]["task"] == {
        "kind": "classification", "factory": "mine:task", "metric": "dice", "direction": "maximize",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ("", r"the table \[data\] must be given, but is missing"),
        (f'{DIGITS}[task]\nfactory = "mine:task"\n', r"either \[data\], .*, or a task of its own .*, but got both"),
        (f'{DIGITS}[task]\nkind = "segmentation"\n', "`kind` = 'segmentation' needs `factory`"),
        (f'{DIGITS}[task]\nkind = "segmentaton"\n', "did you mean 'segmentation'"),
        (f'{DIGITS}[task]\nmetric = "top5"\n', "`metric` and `direction` name what a task of your own is scored by"),
        ('[task]\nfactory = "mine:task"\nmetric = "mae"\n', "`metric` = 'mae' needs `direction`"),
        ('[task]\nfactory = "mine:task"\ndirection = "down"\n', "there is no choice 'down'"),
        ('[task]\nfactry = "mine:task"\n', "[data]|did you mean 'factory'"),
    ],
)
def test_what_does_not_go_together(rest: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        load(tmp_path, rest)
