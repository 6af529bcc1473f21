"""`scripts/bench front` on a small study, and what is promised of a large one."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_front import N_PARAMS, NAME, measure, write_study

import autoprune


def test_the_study_that_is_measured(tmp_path: Path) -> None:
    write_study(tmp_path / "bench.db", 300)
    with autoprune.open_study(NAME, f"sqlite:///{tmp_path}/bench.db") as study:
        trials, front = study.trials(), study.front()
    assert len(trials) == 300
    assert sum(name.startswith(("p0", "p1", "p2")) for name in trials.columns) == N_PARAMS
    assert sorted(front["number"]) == trials.loc[trials["is_pareto"], "number"].tolist()
    assert len(front) > 5


@pytest.mark.slow
def test_the_front_of_50_000_trials_of_30_parameters(tmp_path: Path) -> None:
    write_study(tmp_path / "bench.db", 50_000)
    found = measure(tmp_path / "bench.db")
    assert found["code"] == 0
    assert found["cpu_s"] < 1.0  # of the processor, so that others' work on the machine does not count
    assert found["rss_mb"] < 300
