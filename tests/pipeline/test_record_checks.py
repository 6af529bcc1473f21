"""Records beside networks are held against what they can be before anything is built by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune.errors import WeightsError
from autoprune.pipeline.record_checks import check_record, require

GOOD: dict[str, Any] = {
    "sha256": "0" * 64,
    "architecture": "resnet20",
    "factory": None,
    "n_classes": 10,
    "image_shape": [3, 32, 32],
    "normalisation": {"mean": [0.5, 0, 1], "std": [1.0, 1.0, 1.0]},
    "kept": {"conv1": [0, 1, 5]},
    "widths": {"conv1": 3},
    "hyper": {"strength": 0.1, "form": "subgradient"},
    "task": {"kind": "detection", "submodule": "backbone", "has_forward": False},
    "example": {"tuple": [{"list": [{"shape": [3, 64, 64], "dtype": "float32"}]}, {"value": None}]},
    "more": object(),
}


def test_a_good_record() -> None:
    check_record(GOOD, where="x.json")
    check_record({"image_shape": [3, 2048, 2048]}, where="x.json")


def nested(depth: int) -> Any:
    return {"list": [nested(depth - 1)]} if depth else {"value": 1}


BAD = [
    ("architecture", 3),
    ("n_classes", 0),
    ("n_classes", True),
    ("n_classes", 2.0),
    ("n_classes", 10**12),
    ("image_shape", [3, 32]),
    ("image_shape", [3, 32, -1]),
    ("image_shape", [3, 10**9, 1]),
    ("image_shape", [1000, 2048, 2048]),
    ("image_shape", "3x3"),
    ("normalisation", {"mean": [0.5]}),
    ("normalisation", {"mean": ["a"], "std": [1.0]}),
    ("normalisation", {"mean": [float("nan")], "std": [1.0]}),
    ("kept", [1]),
    ("kept", {"conv1": []}),
    ("kept", {"conv1": [-1]}),
    ("kept", {"conv1": ["0"]}),
    ("kept", {"conv1": [10**30]}),
    ("widths", {"conv1": None}),
    ("hyper", {"strength": [0.1]}),
    ("macs_target", "half"),
    ("task", {"kind": "poetry", "submodule": None, "has_forward": False}),
    ("task", {"kind": ["detection"], "submodule": None, "has_forward": False}),
    ("task", {"kind": "detection"}),
    ("example", {"shape": [10**5, 10**5], "dtype": "float32"}),
    ("example", {"shape": [1], "dtype": "no_type"}),
    ("example", {"shape": [1], "dtype": "nn"}),
    ("example", {"mapping": [1]}),
    ("example", {}),
    ("example", nested(500)),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_bad_record(key: str, value: Any) -> None:
    with pytest.raises(WeightsError, match=rf"x\.json: `{key}` must be .*, but is .*\. Take the record that the trial"):
        check_record({**GOOD, key: value}, where="x.json")


def test_what_is_lacking() -> None:
    with pytest.raises(WeightsError, match="must hold kept, widths, but lacks widths"):
        require({"kept": {}, "widths": None}, ("kept", "widths"), where=Path("x.json"))
