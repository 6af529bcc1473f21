"""A sample of the crash points; all of them are a command's business (`scripts/crash_points.py`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autoprune
from scripts import crash_points

ROOT = Path(autoprune.__file__).parents[1]


def run(*flags: str) -> str:
    """The command in a process of its own, since it forks; its output."""
    command = [sys.executable, "-W", "ignore", "scripts/crash_points.py", *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_change_of_the_disk_is_a_kill_and_stands_for_what_came_before() -> None:
    points = [
        "look | statement",
        "claim | statement",
        "claim | commit!",
        "claim | commit",
        "retain | remove!",
        "look | x",
    ]
    assert crash_points.chosen(points, only=None, every=False) == [(3, 3), (5, 2), (6, 1)]
    assert crash_points.chosen(points, only="claim", every=False) == [(3, 2)]
    assert crash_points.chosen(points, only=None, every=True) == [(k, 1) for k in range(1, 7)]


@pytest.mark.parametrize(
    "flags", [("--sample", "3", "--only", "launch"), ("--sample", "9", "--only", "begin", "migrate")]
)
def test_a_sample_of_kills_leaves_nothing_amiss(flags: tuple[str, ...]) -> None:
    told = run(*flags, "--seed", "1")
    everything = re.search(r"\| \*\*all\*\* \| \*\*(\d+)\*\* \| \*\*(\d+)\*\* \| \*\*(\d+)\*\* \|", told)
    assert everything is not None
    n_points, n_kills, n_violations = map(int, everything.groups())
    assert (n_kills, n_violations) == (int(flags[1]), 0)
    assert n_points >= n_kills


@pytest.mark.slow
def test_clean_and_evaluate_are_killed_anywhere() -> None:
    run("--only", "clean", "evaluate")
