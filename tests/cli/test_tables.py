"""The front as text."""

from __future__ import annotations

import math

import pandas as pd

from autoprune.cli.tables import front_table


def test_an_empty_front() -> None:
    assert front_table(pd.DataFrame({"number": [], "accuracy": []})) == "no trial is on the front yet."


def test_columns_are_aligned_and_ordered() -> None:
    front = pd.DataFrame(
        {
            "method": ["slimming", "magnitude"],
            "macs": [1234567, 89],
            "accuracy": [0.98765, 0.5],
            "macs_ratio": [0.12345, 1.0],
            "number": [7, 12],
            "hyper": ["strength=0.001", ""],
            "secret": ["x", "y"],  # what people did not ask for is left out
        }
    )
    assert front_table(front).splitlines() == [
        "trial  accuracy  macs_ratio       MACs  method     strengths",
        "    7    0.9877      0.1235  1,234,567  slimming   strength=0.001",
        "   12    0.5000      1.0000         89  magnitude",
    ]


def test_what_is_missing_is_left_empty() -> None:
    front = pd.DataFrame({"number": [1, 2], "macs": [math.nan, 5.0], "width_rule": [None, "global"]})
    assert front_table(front).splitlines() == ["trial  MACs  widths", "    1", "    2     5  global"]
