"""Lineages under drivers that die, two at once, with networks dropped in between: nobody is orphaned."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from autoprune.search.files import beaten, delete_networks, holdings
from autoprune.search.proposals import Budget, Planner
from autoprune.search.storage import StudyHandle
from autoprune.search.trials import Attr, Claim, Lifecycle, NotClaimed, Proposal, Room, StoredTrial
from tests.search import fakes

N_TRIALS = 24
SPACE = {"methods": {"magnitude": {}}, "width_rules": ("global",)}


class Driver:
    """Claims, runs and tells trials one by one, as a dispatcher does; it may die at any time."""

    def __init__(self, study: StudyHandle, folder: Path, name: str) -> None:
        self.study, self.folder = study, folder
        self.lifecycle = Lifecycle(study, owner=name, n_trials=N_TRIALS, grace_s=60)
        space = fakes.space(**SPACE)
        planner = Planner((0.8, 0.4, 0.2), within=(0.05, 0.9), budget=Budget(1000, 1.0, 0.25), worst=(0.6, 1.0))
        self.proposer = fakes.proposer(space, n_trials=N_TRIALS, planner=planner)
        self.running: list[Claim] = []

    def claim(self) -> Claim | NotClaimed | None:
        claimed: Claim | NotClaimed | None = self.lifecycle.claim_waiting()
        if claimed is None:
            if self.lifecycle.room() is not Room.OPEN:
                return None
            proposal = self.proposer.propose(self.study.trials())
            assert proposal is not None
            claimed = self.lifecycle.claim(proposal)
        if isinstance(claimed, Claim):
            self.running.append(claimed)
        return claimed

    def finish(self, claim: Claim, chance: random.Random) -> None:
        self.running.remove(claim)
        path = self.folder / f"{claim.number:05d}.safetensors"
        path.write_bytes(b"x")
        sha256 = f"{claim.number:064d}"
        path.with_suffix(".json").write_text(json.dumps({"sha256": sha256, "kept": {}}))
        point = claim.point
        accuracy = 0.5 + 0.4 * point.macs_target**0.5 + chance.uniform(-0.02, 0.02)
        found: dict[str, Any] = {"accuracy": accuracy, "macs_ratio": point.macs_target, "images": 1000}
        found |= {"weights": str(path), "sha256": sha256, "wall_s": {"finetune": 1.0}, "started_from": point.parent}
        self.lifecycle.complete(claim.trial_id, (accuracy, point.macs_target), found)

    def retain(self) -> None:
        with self.study.lock():
            held = holdings(self.study.trials(), self.study.objectives, {})
            delete_networks(beaten(self.study, held, [self.folder]).here)

    def die(self) -> None:
        self.running.clear()


def check_running(drivers: list[Driver]) -> None:
    """Whoever is under way finds its parent's network."""
    for driver in drivers:
        for claim in driver.running:
            if claim.point.parent is not None:
                assert (driver.folder / f"{claim.point.parent:05d}.safetensors").is_file()


@pytest.mark.parametrize("seed", range(4))
def test_lineages_survive_deaths_and_retention(study: StudyHandle, clock: Any, tmp_path: Path, seed: int) -> None:
    chance, happened = random.Random(seed), Counter[str]()
    drivers = [Driver(study, tmp_path, name) for name in ("one", "two")]
    for step in range(2_000):
        driver = chance.choice(drivers)
        driver.lifecycle.beat([claim.trial_id for claim in driver.running])
        match chance.choices(["claim", "finish", "retain", "die", "fail"], [10, 8, 4, 1, 1])[0]:
            case "claim" if len(driver.running) < 3:
                claimed = driver.claim()
                happened[str(claimed) if isinstance(claimed, NotClaimed) else "claimed"] += 1
            case "finish" if driver.running:
                driver.finish(chance.choice(driver.running), chance)
            case "retain":
                driver.retain()
            case "fail" if driver.running:
                failed = driver.running.pop()
                driver.lifecycle.failed(failed.trial_id, "the worker died", retry=True)
            case "die":
                driver.die()
                clock.now += 61
                for other in drivers:  # Whoever lives has kept its leases meanwhile.
                    other.lifecycle.beat([claim.trial_id for claim in other.running])
                drivers[drivers.index(driver)] = Driver(study, tmp_path, f"heir {step}")
                happened["died"] += 1
        check_running(drivers)
        clock.now += 1
        if driver.lifecycle.room() is Room.FINISHED:
            break
    trials = {trial.number: StoredTrial(trial) for trial in study.trials()}
    complete = [trial for trial in trials.values() if trial.state is TrialState.COMPLETE]
    assert len(complete) == N_TRIALS
    assert not [trial for trial in trials.values() if trial.state is TrialState.RUNNING]
    assert len({trial.key for trial in complete}) == N_TRIALS
    children = [trial for trial in trials.values() if trial.parent is not None]
    assert children
    for child in children:
        parent = trials[child.parent]
        assert parent.state is TrialState.COMPLETE
        assert child.attrs[Attr.PARENT_SHA256] == parent.sha256
        assert child.depth == parent.depth + 1
        assert child.point.parent == child.parent
        assert child.point.macs_target <= parent.attrs["macs_ratio"]
        if child.retry_of is not None:
            assert child.parent == trials[child.retry_of].parent
    assert happened["died"]
    # What is on the front is there, and nothing else.
    drivers[0].retain()
    values = {trial.number: trial.frozen.values for trial in complete}
    front = {
        number
        for number, (accuracy, cost) in values.items()
        if not any(a >= accuracy and c <= cost and (a, c) != (accuracy, cost) for a, c in values.values())
    }
    assert {int(path.stem) for path in tmp_path.glob("*.safetensors")} == front


def test_the_same_history_gives_the_same_proposal(study: StudyHandle, tmp_path: Path) -> None:
    one, chance = Driver(study, tmp_path, "one"), random.Random(0)
    for _ in range(10):
        claim = one.claim()
        assert isinstance(claim, Claim)
        assert Driver(study, tmp_path, "other").proposer.propose(study.trials()) == one.proposer.propose(study.trials())
        one.finish(claim, chance)
    fresh = Driver(study, tmp_path, "fresh").proposer.propose(study.trials())
    assert fresh == one.proposer.propose(study.trials())
    assert fresh is not None
    assert "expected" in fresh.attrs[Attr.WHY]


def test_a_parent_beaten_in_mid_child_stays_until_the_child_ends(study: StudyHandle, tmp_path: Path) -> None:
    driver, chance = Driver(study, tmp_path, "one"), random.Random(0)
    for _ in range(3):  # The dense network, and the first two rungs.
        claim = driver.claim()
        assert isinstance(claim, Claim)
        driver.finish(claim, chance)
    child = driver.claim()
    assert isinstance(child, Claim)
    parent = child.point.parent
    assert parent is not None
    network = tmp_path / f"{parent:05d}.safetensors"
    better = driver.lifecycle.claim(fake_proposal("better"))
    assert isinstance(better, Claim)
    driver.lifecycle.complete(better.trial_id, (0.99, 0.01), {"accuracy": 0.99, "macs_ratio": 0.01})
    driver.retain()
    assert network.is_file()
    driver.lifecycle.failed(child.trial_id, "the worker died", retry=True)
    driver.retain()
    assert network.is_file()  # The child is to be tried again.
    driver.running.clear()
    again = driver.claim()
    assert isinstance(again, Claim)
    assert again.point == child.point
    driver.finish(again, chance)
    driver.retain()
    assert not network.is_file()


def fake_proposal(key: str) -> Proposal:
    return Proposal({}, {}, key, {})
