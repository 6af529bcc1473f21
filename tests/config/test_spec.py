"""Ranges and their grids, data and network specs, seeds and digests."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import (
    DataSpec,
    NetworkSpec,
    Range,
    SettingSpec,
    TrainSpec,
    TrialResult,
    TrialSpec,
    digest,
    seed_of,
)
from autoprune.errors import ConfigError


def refused(told: str) -> Any:
    return pytest.raises(ConfigError, match=re.escape(told))


# Ranges


@pytest.mark.parametrize(
    ("table", "grid"),
    [
        ({"low": 0.2, "high": 0.4, "step": 0.05}, (0.2, 0.25, 0.3, 0.35, 0.4)),
        ({"low": 0.03, "high": 0.1, "step": 0.03}, (0.03, 0.06, 0.09)),  # the last step would pass the end
        ({"low": 0.1, "high": 0.7, "step": 0.1}, (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),  # 0.1 + 2 * 0.1 > 0.3 in floats
        ({"low": 0.5, "high": 0.5, "step": 0.1}, (0.5,)),
        ({"low": 1e-14, "high": 3e-14, "step": 1e-14}, (1e-14, 2e-14, 3e-14)),
        ({"low": -1, "high": 1, "points": 5}, (-1.0, -0.5, 0.0, 0.5, 1.0)),
        ({"low": 1 / 3, "high": 2 / 3, "points": 3}, (1 / 3, 0.5, 2 / 3)),
        ({"low": 1e-4, "high": 1e-2, "scale": "log", "points": 3}, (1e-4, 1e-3, 1e-2)),
        ({"low": 1e-4, "high": 1e-2, "scale": "log", "points": 5}, (1e-4, 0.000316228, 1e-3, 0.00316228, 1e-2)),
        ({"low": 2.0, "high": 2.0, "scale": "log", "points": 4}, (2.0,)),
        ({"values": (3.0, 1.0)}, (3.0, 1.0)),
        ({"values": ("a", True, 0.5)}, ("a", True, 0.5)),
        ({"low": 0.0, "high": 1.0}, None),
        ({"low": 0.1, "high": 1.0, "scale": "log"}, None),
    ],
)
def test_the_values_of_a_range(table: dict[str, Any], grid: tuple[Any, ...] | None) -> None:
    assert Range(**table).grid == grid


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "a range must have `low` and `high`, or a list `values`. Give both ends."),
        ({"low": 1.0}, "a range must have `low` and `high`, or a list `values`."),
        ({"high": 1.0}, "a range must have `low` and `high`, or a list `values`."),
        ({"low": 2.0, "high": 1.0}, "`low` must not exceed `high`, but got low=2.0, high=1.0. Swap them."),
        ({"low": 0.0, "high": 1.0, "scale": "log"}, "`low` must be > 0 on a log scale, but got low=0.0."),
        ({"low": 0.0, "high": math.inf}, "`low` and `high` must be finite, but got low=0.0, high=inf."),
        ({"low": math.nan, "high": 1.0}, "`low` and `high` must be finite, but got low=nan, high=1.0."),
        ({"low": 0.0, "high": 1.0, "points": 3, "step": 0.1}, "a range takes `points` or `step`, not both."),
        ({"low": 0.1, "high": 1.0, "scale": "log", "step": 0.1}, "`step` needs a linear scale."),
        ({"low": 0.0, "high": 1.0, "points": 1}, "`points` must be in [2, 10000], but got points=1."),
        ({"low": 0.0, "high": 1.0, "points": 10**9}, "`points` must be in [2, 10000], but got points=1000000000."),
        ({"low": 0.0, "high": 1.0, "step": 0.0}, "`step` must be greater than 0, but got step=0.0."),
        ({"low": 0.0, "high": 1.0, "step": 1e-12}, "`step` must leave at most 10000 values, but got step=1e-12"),
        ({"low": 0.1, "high": 1.0, "scale": "loq"}, "`scale`: there is no choice 'loq'; did you mean 'log'?"),
        ({"values": ()}, "a range is either a non-empty list `values` or an interval `low` to `high`."),
        ({"values": (1.0,), "low": 0.0}, "a range is either a non-empty list `values` or an interval"),
        ({"values": (1.0,), "points": 3}, "a range is either a non-empty list `values` or an interval"),
        ({"values": (1.0, 2.0, 1.0)}, "`values` must name each value once, but got [1.0, 2.0, 1.0]. Drop the repeats."),
        ({"values": (1.0, True)}, "`values` must name each value once, but got [1.0, True]."),
        ({"values": (1.0, math.nan)}, "`values` must be finite, but got [1.0, nan]."),
    ],
)
def test_a_range_that_is_none(table: dict[str, Any], told: str) -> None:
    with refused(told):
        Range(**table)


@given(
    ends=st.tuples(st.floats(1e-12, 1e6), st.floats(1e-12, 1e6)),
    points=st.integers(2, 40),
    scale=st.sampled_from(["linear", "log"]),
)
def test_a_grid_of_points_rises_within_its_ends(ends: tuple[float, float], points: int, scale: str) -> None:
    low, high = min(ends), max(ends)
    grid = Range(low=low, high=high, points=points, scale=scale).grid
    assert grid is not None
    assert 1 <= len(grid) <= points
    assert all(a < b for a, b in pairwise(grid))
    assert low <= grid[0] <= low * (1 + 1e-5)
    assert high * (1 - 1e-5) <= grid[-1] <= high


@given(low=st.floats(-100, 100), n=st.integers(0, 300), step=st.floats(1e-3, 10), over=st.floats(0, 0.9))
def test_a_grid_of_steps_rises_within_its_ends(low: float, n: int, step: float, over: float) -> None:
    high = low + (n + over) * step
    grid = Range(low=low, high=high, step=step).grid
    assert grid is not None
    assert len(grid) in (n, n + 1, n + 2)
    assert low <= grid[0] <= grid[-1] <= high
    assert max((abs(b - a - step) for a, b in pairwise(grid)), default=0) < 1e-6


# Networks and data


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "a network is named by `architecture` or by `factory`, but got architecture=None, factory=None. "),
        (
            {"architecture": "resnet20", "factory": "a:b"},
            "got architecture='resnet20', factory='a:b'. Give exactly one.",
        ),
        ({"architecture": "resnet20", "min_width": 0}, "`min_width` must be at least 1, but got min_width=0. Every"),
    ],
)
def test_a_network_that_is_none(table: dict[str, Any], told: str) -> None:
    with refused(told):
        NetworkSpec(**table)


LIKE = '`validation` must be "last:N", N images, or "random:S", a share in (0, 1), but got '


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"source": "parkett"}, "`source`: there is no choice 'parkett'; did you mean 'parquet'?"),
        ({"source": "parquet"}, "`source` = 'parquet' needs the key `train`, but it is missing. Add it."),
        ({"source": "image_folder", "train": "a"}, "`source` = 'image_folder' needs the key `image_size`"),
        ({"source": "torchvision", "train": "a"}, "`source` = 'torchvision' needs the key `name`"),
        ({"source": "factory"}, "`source` = 'factory' needs the key `factory`"),
        (
            {"source": "digits", "train": "a"},
            "`train` has no meaning for `source` = 'digits', which takes validation, ",
        ),
        (
            {"source": "parquet", "train": "a", "image_size": 32},
            (
                "`image_size` has no meaning for `source` = 'parquet', which takes train, test, image_column, "
                "label_column, validation, mean, std. Drop it, or choose another source."
            ),
        ),
        (
            {"source": "image_folder", "train": "a", "image_size": 8, "label_column": "y"},
            "`label_column` has no meaning",
        ),
        ({"source": "image_folder", "train": "a", "image_size": 0}, "`image_size` must be in [1, 10000], but got "),
        (
            {"source": "parquet", "train": "a", "test": "a"},
            "`train` and `test` must be two data sets, but both are 'a'.",
        ),
        (
            {"source": "parquet", "train": "a", "validation": "a"},
            "`validation` must not be the training or the test set",
        ),
        (
            {"source": "parquet", "train": "a", "test": "b", "validation": "b"},
            "`validation` must not be the training or",
        ),
        (
            {"source": "digits", "std": (0.0,)},
            "`std` must hold numbers > 0, since images are divided by it, but got [0.0].",
        ),
        ({"source": "digits", "std": (math.nan,)}, "`std` must hold numbers > 0"),
        ({"source": "digits", "mean": (math.inf,)}, "`mean` must hold finite numbers, but got [inf]."),
        *(
            ({"source": "digits", "validation": wrong}, f"{LIKE}{wrong!r}. Write for example")
            for wrong in (
                "last:0",
                "last:-3",
                "last:0.1",
                "last:",
                "last",
                "random:0",
                "random:1",
                "random:1.5",
                "random:nan",
                "random:inf",
                "random:many",
                "first:10",
                "",
                "validation.parquet",
            )
        ),
        ({"source": "parquet", "train": "a", "validation": "random:2"}, f"{LIKE}'random:2'."),
    ],
)
def test_data_that_is_none(table: dict[str, Any], told: str) -> None:
    with refused(told):
        DataSpec(**table)


@pytest.mark.parametrize(
    "table",
    [
        {"source": "digits"},
        {"source": "digits", "validation": "last:100", "mean": (0.3,), "std": (0.3,)},
        {"source": "parquet", "train": "a", "test": "b", "validation": "c.parquet", "image_column": "x"},
        {"source": "image_folder", "train": "a", "image_size": 32, "test": "b", "validation": "random:0.5"},
        {"source": "torchvision", "train": "a", "name": "CIFAR10"},
        {"source": "factory", "factory": "a:b"},
    ],
)
def test_data_of_every_source(table: dict[str, Any]) -> None:
    spec = DataSpec(**table)
    assert {key: getattr(spec, key) for key in table} == table


# Training and trials


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"epochs": -1}, "`epochs` must be in [0, 100000], but got epochs=-1."),
        ({"batch": 0}, "`batch` must be in [1, 1000000], but got batch=0."),
        ({"learning_rate": 0}, "`learning_rate` must be in (0, 100], but got learning_rate=0."),
        ({"momentum": 1.0}, "`momentum` must be in [0, 1), but got momentum=1.0."),
        ({"weight_decay": -1e-4}, "`weight_decay` must be at least 0, but got weight_decay=-0.0001."),
        ({"optimizer": "sgdd"}, "`optimizer`: there is no choice 'sgdd'; did you mean 'sgd'? Valid: adam, adamw, sgd."),
        ({"augmentation": "flip"}, "`augmentation`: there is no choice 'flip'; did you mean 'crop_flip'?"),
    ],
)
def test_training_that_is_none(table: dict[str, Any], told: str) -> None:
    with refused(told):
        TrainSpec(**table)


def setting(**changes: Any) -> SettingSpec:
    parts = {"network": NetworkSpec(architecture="resnet20"), "data": DataSpec(source="digits")}
    phases = dict.fromkeys(("dense", "sparsify", "finetune"), TrainSpec())
    return SettingSpec(**{**parts, **phases, **changes})


@pytest.mark.parametrize("rungs", [(0.0,), (1.0,), (0.5, 0.5), (0.6, 0.5), (math.nan,), (-0.1,)])
def test_rungs_must_rise_within_the_phase(rungs: tuple[float, ...]) -> None:
    with refused(f"`rungs` must be rising shares of the fine-tune phase, each in (0, 1), but got {list(rungs)}."):
        setting(rungs=rungs)


def test_rungs_may_be_none_or_many() -> None:
    assert setting(rungs=()).rungs == ()
    assert setting(rungs=(0.1, 0.5, 0.9)).rungs == (0.1, 0.5, 0.9)


def test_equal_settings_share_a_workbench() -> None:
    assert hash(setting()) == hash(setting())  # a process opens one workbench per setting, kept by its hash
    assert setting(seed=1) != setting()


@pytest.mark.parametrize("target", [0.0, -0.1, 1.4, math.nan, 50])
def test_a_trial_needs_a_share_of_the_macs(target: float) -> None:
    with refused("`macs_target` must be in (0, 1], but got macs_target="):
        TrialSpec(setting=setting(), study="s", number=0, method="slimming", width_rule="uniform", macs_target=target)


@given(
    number=st.integers(0, 10**6),
    target=st.floats(0.001, 1),
    hyper=st.dictionaries(
        st.text(max_size=5), st.one_of(st.floats(allow_nan=False), st.text(max_size=5), st.booleans())
    ),
    rungs=st.lists(st.floats(0.01, 0.99), unique=True, max_size=4).map(sorted),
    weights=st.none() | st.text(max_size=9),
)
def test_a_trial_survives_json(
    number: int, target: float, hyper: dict[str, Any], rungs: list[float], weights: str | None
) -> None:
    network = NetworkSpec(factory="a:b", weights=weights, exclude=("conv1",))
    spec = TrialSpec(
        setting=setting(rungs=tuple(rungs), network=network, threads=2),
        study="s",
        number=number,
        method="slimming",
        hyper=hyper,
        width_rule="global",
        macs_target=target,
    )
    assert TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_stored_trial_with_a_wrong_key() -> None:
    spec = TrialSpec(setting=setting(), study="s", number=0, method="m", width_rule="uniform", macs_target=0.5)
    data = spec.to_dict()
    data["setting"]["dense"]["epoch"] = 3
    with refused("[trial.setting.dense]: there is no key 'epoch'; did you mean 'epochs'?"):
        TrialSpec.from_dict(data)


# Digests


def test_digests_are_what_they_were() -> None:
    # Phases on disk and trials in databases are found by these: another value loses them.
    assert digest() == "4f53cda18c2baa0c"
    assert digest("a", 1, [2.5, None], {"b": True, "a": "é"}) == "a61b6e4b57532b70"
    assert (seed_of("dense", 0), seed_of("dense", 1)) == (1585435492, 873889618)


def test_digests_do_not_hang_on_order_or_containers() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest((1, 2)) == digest([1, 2])
    assert len({digest(1), digest("1"), digest([1]), digest(1.5), digest(True), digest(None), digest()}) == 7


def test_digests_refuse_what_has_no_text() -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        digest(math.nan)


@pytest.mark.parametrize("hash_seed", ["0", "1", "12345"])
def test_digests_are_the_same_in_every_process(hash_seed: str) -> None:
    code = (
        "from autoprune.config.spec import digest, seed_of\n"
        "print(digest({'b': [1, 2.5], 'a': 'x'}, ['slimming', 0.001]), seed_of('finetune', 7, 3))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    here = digest({"a": "x", "b": [1, 2.5]}, ["slimming", 0.001]), seed_of("finetune", 7, 3)
    assert done.stdout.split() == [here[0], str(here[1])]


@given(parts=st.lists(st.one_of(st.integers(), st.text(), st.floats(allow_nan=False, allow_infinity=False))))
def test_seeds_fit_every_generator(parts: list[Any]) -> None:
    assert 0 <= seed_of(*parts) < 2**31
    assert re.fullmatch("[0-9a-f]{16}", digest(*parts))


# Results


def result(**more: Any) -> TrialResult:
    return TrialResult(
        score=0.75, macs=50, params=5, macs_ratio=0.5, params_ratio=0.25, convention="c", widths={"a": 3},
        rungs={"0": 0.5, "1": 0.75}, weights="/w", sha256="h", wall_s={"dense": 1.0}, **more,
    )  # fmt: skip


def test_a_result_holds_its_score_under_the_name_of_the_metric() -> None:
    rest = {
        "macs": 50, "params": 5, "macs_ratio": 0.5, "params_ratio": 0.25, "convention": "c", "widths": {"a": 3},
        "rungs": {"0": 0.5, "1": 0.75}, "weights": "/w", "sha256": "h", "wall_s": {"dense": 1.0}, "images": 0,
        "differences": {},
    }  # fmt: skip
    assert list(result().to_dict().items()) == [("accuracy", 0.75), *rest.items()]
    assert result(metric="rmse").to_dict() == {"rmse": 0.75, **rest}
    assert result(latency_ms=3.0).to_dict() == {"accuracy": 0.75, **rest, "latency_ms": 3.0}
