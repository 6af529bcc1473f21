"""The simulation in its short form: many drivers, much that goes wrong, and nothing lost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.simulate import Faults, Simulation

HARSH = Faults(
    late=0.2, lost=0.1, worker_dies=0.1, killed_every_s=150.0, stopped_every_s=100.0, skew_s=20.0
)  # Of four drivers one is killed every few trials.


@pytest.fixture(autouse=True)
def births_are_cheap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave out Optuna's look at its migration scripts, nine tenths of what opening costs; and what drivers say."""
    checked = "optuna.storages._rdb.storage._VersionManager.check_table_schema_compatibility"
    monkeypatch.setattr(checked, lambda self: None)
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def simulated(folder: Path, *, seed: int, n_trials: int, n_drivers: int, faults: Faults) -> Simulation:
    folder.mkdir()
    sim = Simulation(
        folder, seed=seed, n_trials=n_trials, n_drivers=n_drivers, n_workers=4 * n_drivers, faults=faults,
        sampler="random",
    )  # fmt: skip
    sim.run()
    assert sim.violations() == []
    sim.close()
    return sim


def test_nothing_is_lost(tmp_path: Path) -> None:
    sim = simulated(tmp_path / "sim", seed=1, n_trials=12, n_drivers=3, faults=HARSH)
    outcomes = Counter(event["as"] for event in sim.history if event["what"] == "told")
    assert sim.n_kills > 0
    assert sim.n_stops > 0
    assert outcomes["Complete"] > 0
    assert sum(event["what"] == "claimed" for event in sim.history) > 12  # Some were tried again.


def test_a_seed_decides_what_happens(tmp_path: Path) -> None:
    one, other = (
        simulated(tmp_path / name, seed=2, n_trials=4, n_drivers=2, faults=HARSH).history for name in ("a", "b")
    )
    assert one == other


def test_a_result_that_a_driver_forgets_is_seen(tmp_path: Path) -> None:
    """The checks of the simulation can fail: here somebody else fails a trial that was complete."""
    sim = simulated(tmp_path / "sim", seed=3, n_trials=3, n_drivers=1, faults=Faults(killed_every_s=float("inf")))
    with sim.record.db.writing() as connection:
        connection.exec_driver_sql("UPDATE trials SET state = 'FAIL' WHERE number = 0")
    found = sim.violations()
    assert any("was told as Complete, but is FAIL" in each for each in found)
    assert any("2 trials have finished instead of 3" in each for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_among_many(tmp_path: Path, seed: int) -> None:
    simulated(tmp_path / "sim", seed=seed, n_trials=200, n_drivers=16, faults=HARSH)
