"""The [loggers] table."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune.api import _planning
from autoprune.config import LoggersConfig, read_stored, resolved
from autoprune.errors import ConfigError

Write = Callable[..., Path]


def test_a_study_tells_nobody_unless_it_says_so(write_study: Write, tmp_path: Path) -> None:
    assert _planning.load_config(write_study(tmp_path)).loggers == LoggersConfig()


def test_what_a_study_file_says(write_study: Write, tmp_path: Path) -> None:
    table = 'use = ["tensorboard", "mlflow"]\nfolder = "logs/here"\nmlflow_uri = "http://server:5000"'
    config = _planning.load_config(write_study(tmp_path, loggers=table))
    assert config.loggers == LoggersConfig(
        use=("tensorboard", "mlflow"), folder=f"{tmp_path}/logs/here", mlflow_uri="http://server:5000"
    )
    assert read_stored(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('use = ["mlflw"]', "study.toml: [loggers]: `use`: there is no logger 'mlflw'; did you mean 'mlflow'?"),
        ('use = ["wandb", "wandb"]', "`use` must name each logger once, but got ['wandb', 'wandb']. Drop the repeats."),
        ('use = "wandb"', "study.toml: [loggers]: `use` must be a list, each entry a text, but got 'wandb' (a text)."),
        ("folder = 3", "study.toml: [loggers]: `folder` must be a text, but got 3 (a whole number)."),
        ('uri = "x"', "study.toml: [loggers]: there is no key 'uri'"),
    ],
)  # fmt: skip
def test_what_is_refused(table: str, told: str, write_study: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        _planning.load_config(write_study(tmp_path, loggers=table))


def test_a_study_from_before_there_were_loggers(write_study: Write, tmp_path: Path) -> None:
    config = _planning.load_config(write_study(tmp_path))
    stored = config.to_dict()
    del stored["loggers"]
    assert read_stored(stored) == config


def test_a_folder_given_in_python_is_made_absolute(write_study: Write, tmp_path: Path) -> None:
    config = _planning.load_config(write_study(tmp_path))
    given = dataclasses.replace(config, loggers=LoggersConfig(folder="logs"))
    assert resolved(given, folder=tmp_path).loggers.folder == f"{tmp_path}/logs"


def test_arguments_go_over_the_file(write_study: Write, tmp_path: Path) -> None:
    path = write_study(tmp_path, loggers='use = ["mlflow"]\nfolder = "logs"')

    def named(loggers: Any) -> LoggersConfig:
        return _planning.load_config(path, loggers=loggers).loggers

    folder = f"{tmp_path}/logs"
    assert named(None) == LoggersConfig(use=("mlflow",), folder=folder)
    assert named(["wandb", "tensorboard"]) == LoggersConfig(use=("wandb", "tensorboard"), folder=folder)
    assert named([]) == LoggersConfig(folder=folder)
    with pytest.raises(ConfigError, match=r"^arguments: `use`: there is no logger 'aim'\. Valid: mlflow, tensorboard"):
        named(["aim"])
