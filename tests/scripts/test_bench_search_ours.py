"""The rows ``ours``: the study file that is launched, and what is read from the trials; no cluster is started here."""

from __future__ import annotations

import tomllib
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_search import TASKS
from bench_search_ours import VARIANTS, as_toml, filled_in, found_by, front_of
from optuna.trial import FrozenTrial, TrialState, create_trial
from sklearn.datasets import load_digits

import autoprune
from autoprune import methods
from autoprune.config import load_study
from autoprune.pipeline import open_workbench
from tests.real_trials import run_study

ENVIRONMENT = {"DATA": '/data/ci\'far "10"', "WEIGHTS": "/w/dense.safetensors", "PRECISION": "float32", "SEED": "7"}


def test_tables_come_back_from_toml_as_they_were() -> None:
    text = TASKS["resnet20"].study.read_text()
    tables = tomllib.loads(text) | {"odd": {"small": 1e-05, "texts": ['"', "\\", "é"], "none": [], "yes": True}}
    assert tomllib.loads(as_toml(tables)) == tables


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_study_that_is_launched_differs_from_the_kept_one_where_it_must(tmp_path: Path, variant: str) -> None:
    kept = tomllib.loads(TASKS["resnet20"].study.read_text())
    finetune = filled_in(kept, ENVIRONMENT, variant=variant)["train"]["finetune"]
    assert ("distill" in finetune) == (variant not in ("peers", "untaught"))
    assert finetune["learning_rate"] == (0.05 if variant == "peers" else kept["train"]["finetune"]["learning_rate"])
    file = tmp_path / "study.toml"
    file.write_text(as_toml(filled_in(kept, ENVIRONMENT, variant=variant)))
    config = load_study(file, methods.catalogue())
    assert (config.study.seed, config.setting.precision) == (7, "float32")
    assert config.setting.network.weights == "/w/dense.safetensors"
    assert config.setting.data.train == '/data/ci\'far "10"/train.parquet'
    assert config.setting.data.test == '/data/ci\'far "10"/test.parquet'
    assert config.setting.finetune.epochs == (1.0 if variant == "alone" else 10.0)
    assert config.setting.compensate == (variant == "compensated")
    assert config.study.inherit == (variant != "alone")
    assert ("damage" in config.space.methods) == (variant != "alone")
    assert len(config.space.methods) == 1 or variant not in ("alone", "damage")
    assert config.study.reference_point == {"accuracy": 0.70, "macs_ratio": 1.0}


def trial(start_s: float, end_s: float | None, values: list[float] | None, walls: dict[str, float]) -> FrozenTrial:
    state = TrialState.COMPLETE if values else TrialState.WAITING
    made = create_trial(state=state, values=values, user_attrs={"wall_s": walls} if values else {})
    made.datetime_start = LAUNCH + timedelta(seconds=start_s)
    made.datetime_complete = None if end_s is None else LAUNCH + timedelta(seconds=end_s)
    return made


LAUNCH = datetime(2026, 1, 2, 3, 4, 5)


def test_what_the_trials_say_of_the_search() -> None:
    trials = [
        trial(10, 40, [0.775, 0.5], {"finetune": 20.0, "surgery": 3.0}),
        trial(11, 30, [0.85, 0.5], {"finetune": 15.0, "recalibrate": 5.0}),
        trial(41, None, None, {}),
    ]
    found = found_by(trials, started=LAUNCH.timestamp(), wall_s=50.0, concurrency=2)
    assert found == {
        "trials": {"COMPLETE": 2, "WAITING": 1},
        "first_s": 10.0,
        "busy_share": 0.4,  # 40 s of twice 50
        "history": [(30.0, 0.25), (40.0, 0.25)],
    }
    assert found_by([], started=0.0, wall_s=1.0, concurrency=1)["history"] == []


def test_the_networks_of_the_front_are_scored_as_they_were_left(tmp_path: Path) -> None:
    points = [{"macs_target": target} for target in (0.3, 0.5, 0.6)]
    # The second is dominated by what the database is told.
    made = run_study(tmp_path, points, network='architecture = "resnet_digits"', accuracies=(0.8, 0.7, 0.9))
    with autoprune.open_study("tiny", made.url) as study:
        front, preprocess = front_of(study), open_workbench(study.config.setting).runtime.preprocess
        found = found_by(study.handle.trials(), started=0.0, wall_s=1.0, concurrency=1)
    # The test split is the last 360 of scikit-learn's images, looked at here at once.
    digits = load_digits()
    pixels = torch.from_numpy((digits.images[1437:] * (255 / 16)).round().astype(np.uint8)[:, None])
    expected = []
    for result in (made.results[0], made.results[2]):
        with torch.no_grad():
            told = autoprune.load_model(result.weights)(preprocess(pixels, torch.device("cpu"))).argmax(1).numpy()
        expected.append((1 - np.mean(told == digits.target[1437:]), result.macs_ratio))
    assert front == sorted(expected)
    assert found["trials"] == {"COMPLETE": 3, "RUNNING": 1}
    seconds = [
        sum(result.wall_s.get(phase, 0.0) for phase in ("dense", "sparsify", "recalibrate", "finetune", "scoring"))
        for result in made.results
    ]
    assert found["busy_share"] == pytest.approx(sum(seconds), abs=1e-3)
    # Up to (0.30, 1): the shares are of accuracies above 0.70.
    ratios = [made.results[0].macs_ratio, made.results[2].macs_ratio]
    assert found["history"][-1][1] == pytest.approx((0.1 * (1 - ratios[0]) + 0.1 * (1 - ratios[1])) / 0.3, abs=1e-5)
