"""No network of a front is ever lost, and none that nobody needs stays."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from autoprune.search.files import beaten, delete_networks, holdings
from autoprune.search.files.retention import Holding, droppable, weights_in
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Proposal

DIRECTIONS = ["maximize", "minimize"]
COMPLETE, RUNNING, WAITING, FAIL = TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL

COARSE = st.sampled_from([0.0, 0.5, 1.0])


@st.composite
def studies(draw: st.DrawFn) -> list[Holding]:
    """Trials with many ties; some took over the result of an earlier one, some are under way."""
    trials: list[Holding] = []
    for number in range(draw(st.integers(0, 14))):
        state = draw(st.sampled_from([COMPLETE] * 4 + [RUNNING, WAITING, FAIL, TrialState.PRUNED]))
        done = [trial for trial in trials if trial.state is COMPLETE]
        one = Holding(number, state, is_feasible=draw(st.booleans()))
        if state is COMPLETE:
            one = dataclasses.replace(one, values=(draw(COARSE), draw(COARSE)), path=f"/{number}", sha256=f"{number}")
        if done and state in (COMPLETE, RUNNING) and draw(st.booleans()):
            of = draw(st.sampled_from(done))
            told = {"path": of.path, "sha256": of.sha256} if draw(st.booleans()) or state is COMPLETE else {}
            values = of.values if state is COMPLETE else None
            one = dataclasses.replace(one, values=values, source=of.number, **told)
        trials.append(one)
    return trials


def beats(a: Holding, b: Holding) -> bool:
    assert a.values is not None
    assert b.values is not None
    return a.values != b.values and a.values[0] >= b.values[0] and a.values[1] <= b.values[1]


def needed(trials: list[Holding]) -> set[str | None]:
    complete = [trial for trial in trials if trial.state is COMPLETE]
    feasible = [trial for trial in complete if trial.is_feasible]
    fronts = [one for some in (complete, feasible) for one in some if not any(beats(other, one) for other in some)]
    live = [trial for trial in trials if trial.state in (RUNNING, WAITING)]
    sources = {trial.source for trial in [*fronts, *live]}
    return {trial.path for trial in [*fronts, *live, *(one for one in complete if one.number in sources)]}


@given(studies())
def test_what_may_go_against_brute_force(trials: list[Holding]) -> None:
    every = {trial.path for trial in trials if trial.state is COMPLETE}
    may_go = droppable(trials, DIRECTIONS)
    assert set(may_go) == every - needed(trials)
    assert all(f"/{sha256}" == path for path, sha256 in may_go.items())


@given(studies(), st.integers(0, 14))
def test_what_may_go_once_may_go_for_ever(trials: list[Holding], n: int) -> None:
    """So a driver may decide by what it has read, whatever others have told the database meanwhile."""
    before, news = trials[:n], [trial for trial in trials[n:] if trial.source is None]
    assert set(droppable(before, DIRECTIONS)) <= set(droppable([*before, *news], DIRECTIONS))


@pytest.mark.parametrize("state", [RUNNING, WAITING])
def test_the_parent_of_what_is_under_way_stays(state: TrialState) -> None:
    best = Holding(0, COMPLETE, (0.9, 0.1), path="/0", sha256="0")
    beaten = Holding(1, COMPLETE, (0.8, 0.2), path="/1", sha256="1")
    assert droppable([best, beaten, Holding(2, state, parent=1)], DIRECTIONS) == {}
    ended = Holding(2, COMPLETE, (0.7, 0.3), path="/2", sha256="2", parent=1)
    assert droppable([best, beaten, ended], DIRECTIONS) == {"/1": "1", "/2": "2"}


@pytest.mark.parametrize("state", [RUNNING, WAITING])
def test_a_result_that_is_being_taken_over_stays(state: TrialState) -> None:
    best = Holding(0, COMPLETE, (0.9, 0.1), path="/0", sha256="0")
    beaten = Holding(1, COMPLETE, (0.8, 0.2), path="/1", sha256="1")
    assert droppable([best, beaten], DIRECTIONS) == {"/1": "1"}
    assert droppable([best, beaten, Holding(2, state, source=1)], DIRECTIONS) == {}
    assert droppable([best, beaten, Holding(2, state, path="/1", sha256="1")], DIRECTIONS) == {}


def test_the_best_that_keeps_the_constraints_stays_beside_the_best_of_all() -> None:
    best = Holding(0, COMPLETE, (0.9, 0.1), is_feasible=False, path="/0", sha256="0")
    beaten = Holding(1, COMPLETE, (0.8, 0.2), path="/1", sha256="1")
    assert droppable([best, beaten], DIRECTIONS) == {}


def test_trials_without_a_file_still_beat_others() -> None:
    best = Holding(0, COMPLETE, (0.9, 0.1))
    beaten = Holding(1, COMPLETE, (0.8, 0.2), path="/1", sha256="1")
    assert droppable([best, beaten], DIRECTIONS) == {"/1": "1"}
    assert droppable([], DIRECTIONS) == {}


# From the database to the disk


class Networks:
    """A study whose trials leave a file each."""

    def __init__(self, study: StudyHandle, folder: Path, *, owner: str = "me") -> None:
        self.study, self.folder = study, folder
        self.lifecycle = Lifecycle(study, owner=owner, n_trials=10_000)
        folder.mkdir(exist_ok=True)

    def start(self, key: str) -> Claim:
        claim = self.lifecycle.claim(Proposal({}, {}, key, {}))
        assert isinstance(claim, Claim)
        return claim

    def write(self, number: int) -> dict[str, Any]:
        path = self.folder / f"{number:05d}.safetensors"
        path.write_bytes(b"x" * 100)
        sha256 = f"{number:064d}"
        path.with_suffix(".json").write_text(json.dumps({"sha256": sha256, "kept": {}}))
        return {"weights": str(path), "sha256": sha256}

    def finish(self, claim: Claim, *values: float, **attrs: Any) -> None:
        self.lifecycle.complete(claim.trial_id, values, {**self.write(claim.number), **attrs})

    def prune(self, limits: dict[str, float] | None = None) -> list[int]:
        trials = holdings(self.study.trials(), self.study.objectives, limits or {})
        folders = [self.folder, self.folder / "none"]
        gone = delete_networks(beaten(self.study, trials, folders).here)
        return [int(path.stem) for path in gone]

    def left(self) -> list[int]:
        return [int(path.stem) for path in weights_in(self.folder)]


@pytest.fixture
def networks(study: StudyHandle, tmp_path: Path) -> Networks:
    return Networks(study, tmp_path / "networks")


def test_networks_go_as_soon_as_they_are_beaten(networks: Networks) -> None:
    a, b, c, d = (networks.start(key) for key in "abcd")
    networks.finish(a, 0.8, 0.5)
    assert networks.prune() == []
    networks.write(b.number)  # written, but not told yet
    networks.finish(c, 0.9, 0.4)
    networks.lifecycle.failed(d.trial_id, "no luck")
    networks.write(d.number)  # its worker went on
    assert networks.prune() == [0]
    assert networks.prune() == []
    assert networks.left() == [1, 2, 3]
    assert (networks.folder / "00000.json").exists()  # its channels, a few kilobytes


def test_a_result_taken_over_is_one_file(networks: Networks) -> None:
    a, b, c, d = (networks.start(key) for key in "abcd")
    networks.finish(a, 0.8, 0.5)
    taken = {"weights": str(networks.folder / "00000.safetensors"), "sha256": f"{0:064d}", "taken_over_from": 0}
    networks.lifecycle.complete(b.trial_id, (0.8, 0.5), taken)
    assert networks.prune() == []
    assert networks.left() == [0]
    networks.finish(c, 0.8, 0.5)  # as good by chance
    assert networks.prune() == []
    networks.finish(d, 0.8, 0.4)
    assert networks.prune() == [0, 2]
    assert networks.left() == [3]


@pytest.mark.parametrize("limited", ["macs_ratio", "params"])
def test_constraints_count_as_they_are_now(limited: str, networks: Networks) -> None:
    a, b, c = (networks.start(key) for key in "abc")
    networks.finish(a, 0.9, 0.5, params=900)
    networks.finish(b, 0.9, 0.6, params=100)
    networks.finish(c, 0.8, 0.7)
    limits: dict[str, float] = {limited: 0.6 if limited == "macs_ratio" else 100}
    assert networks.prune(limits) == ([1, 2] if limited == "macs_ratio" else [2])
    assert networks.left() == ([0] if limited == "macs_ratio" else [0, 1])


def test_a_file_of_another_database_is_left_alone(networks: Networks) -> None:
    a, b, c = (networks.start(key) for key in "abc")
    networks.finish(a, 0.8, 0.5)
    networks.finish(b, 0.8, 0.5)
    networks.finish(c, 0.9, 0.5)
    record = networks.folder / "00000.json"
    record.write_text(json.dumps({"sha256": "of another trial 0"}))
    (networks.folder / "00001.json").write_text("not a record")
    assert networks.prune() == []
    assert networks.left() == [0, 1, 2]


def test_only_the_folders_given_are_touched(networks: Networks, tmp_path: Path) -> None:
    elsewhere = Networks(networks.study, tmp_path / "elsewhere")
    a, b = networks.start("a"), networks.start("b")
    elsewhere.finish(a, 0.8, 0.5)
    networks.finish(b, 0.9, 0.5)
    assert networks.prune() == []
    assert elsewhere.left() == [0]
    assert elsewhere.prune() == [0]


def test_a_file_that_can_t_be_deleted_is_told_and_tried_again(
    networks: Networks, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = networks.start("a"), networks.start("b")
    networks.finish(a, 0.8, 0.5)
    networks.finish(b, 0.9, 0.5)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Path, "unlink", refuse)
        assert networks.prune() == []
    assert "a network that is no longer needed can't be deleted" in caplog.text
    assert networks.prune() == [0]


def test_what_is_missing_is_infeasible(networks: Networks) -> None:
    a, b = networks.start("a"), networks.start("b")
    networks.finish(a, 0.8, 0.5, latency_ms=2.0)
    trials = networks.study.trials()
    assert [trial.is_feasible for trial in holdings(trials, networks.study.objectives, {"latency_ms": 2.0})] == [
        True, False,
    ]  # fmt: skip
    assert [trial.is_feasible for trial in holdings(trials, networks.study.objectives, {})] == [True, True]
    assert holdings(trials, networks.study.objectives, {})[1] == Holding(b.number, RUNNING)
    assert math.isclose(holdings(trials, networks.study.objectives, {})[0].values[0], 0.8)  # type: ignore[index]


def test_drivers_that_prune_at_once_lose_no_front_member(networks: Networks, db: Database, url: str) -> None:
    """Each tells results and prunes by what it has read, with no lock between them."""
    import random
    import threading

    errors: list[BaseException] = []

    def drive(seed: int) -> None:
        rng, own_db = random.Random(seed), Database.open(url, create=False)
        try:
            own = Networks(StudyHandle.open(own_db, "digits"), networks.folder, owner=f"driver {seed}")
            for i in range(25):
                ratio = rng.randrange(1, 40) / 40
                own.finish(own.start(f"{seed} {i}"), 0.5 + 0.3 * ratio + 0.02 * rng.randrange(-3, 4), ratio)
                own.prune()
        except BaseException as error:
            errors.append(error)
        finally:
            own_db.close()

    threads = [threading.Thread(target=drive, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    networks.prune()
    trials = holdings(networks.study.trials(), networks.study.objectives, {})
    assert len(trials) == 75
    assert {str(path) for path in weights_in(networks.folder)} == needed(trials)
    assert 3 <= len(networks.left()) < 60


def test_where_both_objectives_are_minimised_the_networks_with_the_least_of_both_stay() -> None:
    values = [(0.4, 1.0), (0.5, 0.5), (1.0, 0.2), (1.2, 0.3), (0.4, 0.9)]
    trials = [Holding(i, COMPLETE, values=pair, path=f"/{i}", sha256=str(i)) for i, pair in enumerate(values)]
    assert set(droppable(trials, ["minimize", "minimize"])) == {"/0", "/3"}
