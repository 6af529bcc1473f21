"""The front of a real study on the real test split, over a real cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch

import autoprune
from autoprune.api import Progress, _evaluating
from autoprune.api._rounds import Job, Rounds
from autoprune.distributed import Cluster
from autoprune.engine.images import load_test
from autoprune.engine.images._digits import Digits
from autoprune.errors import ConfigError, DataError, IdentityError, StorageError, StudyFailedError, WeightsError
from autoprune.pipeline import Link, open_workbench
from autoprune.search.front import EvaluationRows, TestScore
from autoprune.search.storage import Database, StudyHandle, schema
from tests.real_trials import STUDY, RealStudy, run_study

torch.set_num_threads(1)  # as in the workers: other threads round apart

# Ray warns of itself.
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

LONGER = STUDY.replace("epochs = 0.05", "epochs = 0.7\nbatch = 64").replace("epochs = 0.2", "epochs = 2\nbatch = 64")
POINTS: list[dict[str, Any]] = [
    {"macs_target": 1.0},
    {"macs_target": 0.5},
    {"method": "slimming", "hyper": {"strength": 0.001}, "width_rule": "global", "macs_target": 0.3},
    {"macs_target": 0.05},
]
ACCURACIES = (0.99, 0.9, 0.8, 0.7)  # All are on the front, whatever they reach in so short a training.


class Heard(Progress):
    """Keeps what is told; may act on it."""

    def __init__(self, act: Callable[[str], None] = lambda text: None) -> None:
        self.notes: list[str] = []
        self._act = act

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._act(text)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> RealStudy:
    network = 'architecture = "resnet_digits"'
    folder = tmp_path_factory.mktemp("evaluated")
    return run_study(folder, POINTS, network=network, study_file=LONGER, accuracies=ACCURACIES)


@pytest.fixture
def url(once: RealStudy, tmp_path: Path) -> str:
    """A copy of the database; the artifacts are shared, since an evaluation writes only phases there."""
    shutil.copy(Path(once.url.removeprefix("sqlite:///")), tmp_path / "autoprune.db")
    return f"sqlite:///{tmp_path}/autoprune.db"


def front_numbers(url: str) -> list[int]:
    return [int(number) for number in autoprune.open_study("tiny", url).front()["number"]]


def rows(url: str) -> dict[tuple[int, int], float]:
    frame = autoprune.open_study("tiny", url).evaluations()
    return {(row.number, row.seed): row.accuracy for row in frame.itertuples()}


def rewritten(url: str, name: str, number: int, value: Any) -> None:
    """Change one attribute of a finished trial, which Optuna itself would refuse."""
    table = schema.optuna_trial_attributes
    db = Database.open(url, create=False)
    with db.writing() as connection:
        where = (table.c.trial_id == number + 1) & (table.c.key == name)
        connection.execute(sa.update(table).where(where).values(value_json=json.dumps(value)))
    db.close()


# What is scored


def test_the_front_is_scored_and_stored_beside_the_search(url: str, once: RealStudy, cluster: Cluster) -> None:
    before = autoprune.open_study("tiny", url).front()
    numbers = front_numbers(url)
    heard = Heard()
    done = autoprune.evaluate("tiny", storage=url, progress=heard)
    assert (done.n_runs, done.n_known, done.n_done) == (3 * len(numbers), 0, 3 * len(numbers))
    assert not done.interrupted
    found = rows(url)
    assert set(found) == {(number, seed) for number in numbers for seed in range(3)}
    assert 0 in numbers  # the dense network, scored as it is
    assert len({found[0, seed] for seed in range(3)}) == 1
    assert len(set(found.values())) > len(numbers)  # and the others with real seeds

    front = autoprune.open_study("tiny", url).front()
    assert front[list(before.columns)].equals(before)
    for row in front.itertuples():
        own = [found[int(row.number), seed] for seed in range(3)]
        assert row.test_accuracy == pytest.approx(statistics.mean(own), rel=1e-12)
        assert row.test_sd == pytest.approx(statistics.stdev(own), rel=1e-9)
        assert row.test_seeds == 3
    assert front["like_next"].iloc[-1] is None
    assert all(isinstance(mark, bool) for mark in front["like_next"].iloc[:-1])
    assert heard.notes[0].startswith(f"{len(numbers)} trials of the front, 3 fine-tunings each: 0 known, ")
    assert sum("the dense network as it is" in note for note in heard.notes) == 3
    assert heard.notes[-1].endswith(f"{done.n_runs} of {done.n_runs})")

    # What is known is not computed again; more seeds add to it.
    again = autoprune.evaluate("tiny", storage=url)
    assert (again.n_known, again.n_done) == (done.n_runs, 0)
    more = autoprune.evaluate("tiny", storage=url, seeds=4, where="macs_ratio < 1", concurrency=1)
    assert more.n_done == len(numbers) - 1
    assert {key: value for key, value in rows(url).items() if key[1] < 3} == found
    assert autoprune.open_study("tiny", url).front()["test_seeds"].tolist() == [4] * (len(numbers) - 1) + [3]
    facts = autoprune.open_study("tiny", url).trial(numbers[0])
    assert facts["test_seeds"] == 4
    assert list(facts["test_scores"]) == ["0", "1", "2", "3"]


def test_other_processes_and_evicted_parents_give_the_same_scores(url: str, once: RealStudy, cluster: Cluster) -> None:
    autoprune.evaluate("tiny", storage=url, seeds=1)
    first = rows(url)
    db = Database.open(url, create=False)
    with db.writing() as connection:
        connection.execute(sa.delete(schema.evaluations))
        connection.execute(sa.delete(schema.phases))
    artifacts = Path(once.specs[0].setting.artifacts)
    for path in (artifacts / "phases").glob("sparsify-*"):
        path.unlink()
    autoprune.evaluate("tiny", storage=url, seeds=1)
    assert rows(url) == first
    with db.reading() as connection:  # what was computed again is in the ledger again
        kinds = set(connection.execute(sa.select(schema.phases.c.kind)).scalars())
    assert "sparsify" in kinds
    db.close()


def test_networks_that_retention_dropped_can_be_scored(url: str, cluster: Cluster) -> None:
    """All that is needed is the record of the kept channels."""
    number = front_numbers(url)[0]
    study = autoprune.open_study("tiny", url)
    weights = Path(study.trial(number)["weights"])
    alone = weights.with_name("alone.safetensors")
    shutil.copy(weights.with_suffix(".json"), alone.with_suffix(".json"))
    rewritten(url, "weights", number, str(alone))
    assert autoprune.evaluate("tiny", storage=url, seeds=1, where=f"number == {number}").n_done == 1


def test_a_result_taken_over_is_scored_once(url: str, once: RealStudy, cluster: Cluster) -> None:
    last = front_numbers(url)[0]
    db = Database.open(url, create=False)
    from autoprune.search.trials import Lifecycle

    study = StudyHandle.open(db, "tiny")
    result = once.results[last].to_dict()
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=9, grace_s=10**9)
    values = (result["accuracy"], result["macs_ratio"])
    lifecycle.complete(len(POINTS) + 1, values, {**result, "taken_over_from": last})  # the one that was left running
    db.close()
    assert len(POINTS) in front_numbers(url)
    done = autoprune.evaluate("tiny", storage=url, seeds=1, where="macs_ratio < 0.2")
    assert (done.n_runs, done.n_done) == (1, 1)
    front = autoprune.open_study("tiny", url).front(where="macs_ratio < 0.2")
    assert len(front) == 2
    assert front["test_accuracy"].nunique() == 1
    assert autoprune.open_study("tiny", url).trial(len(POINTS))["test_seeds"] == 1


def test_the_recipe_is_that_of_the_trial_s_own_revision(
    url: str, once: RealStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Database.open(url, create=False)
    record = StudyHandle.open(db, "tiny")
    config = json.loads(json.dumps(record.config))
    config["config"]["setting"]["finetune"]["epochs"] = 77.0
    config["config"]["setting"]["artifacts"] = "/moved"
    names = {"name": "tiny", "identity": record.identity, "directions": record.directions}
    StudyHandle.create_or_join(db, config=config, objectives=record.objectives, **names)
    study = autoprune.Study(db, StudyHandle.open(db, "tiny"))
    assert study.config.setting.finetune.epochs == 77.0
    members = _evaluating._members(study, None)
    workbench = dataclasses.replace(open_workbench(once.specs[0].setting), setting=study.config.setting)
    jobs = Rounds(study, members, workbench, seeds=2, race=False).first()
    assert len(jobs) == 2 * len(members)
    for job in jobs:
        assert (job.setting.finetune.epochs, job.setting.artifacts) == (0.7, "/moved")
    # Seed by seed: the parents of all are there before the second round begins.
    assert [job.seed for job in jobs] == [0] * len(members) + [1] * len(members)
    db.close()


# Races


def store(db: Database, number: int, *scores: float) -> None:
    rows = EvaluationRows(db, StudyHandle.open(db, "tiny").study_id)
    fingerprint = open_workbench(autoprune.open_study("tiny", db.url).config.setting).work.test().fingerprint
    n_known = sum(row.number == number for row in rows.read())
    for seed, score in enumerate(scores, start=n_known):
        rows.add(TestScore(number, seed, fingerprint, score, n_images=360, wall_s=1.0))


def test_a_race_asks_for_more_seeds_of_near_ties_alone(url: str, once: RealStudy) -> None:
    db = Database.open(url, create=False)
    study = autoprune.Study(db, StudyHandle.open(db, "tiny"))
    members = _evaluating._members(study, None)
    a, b, c, d = (member.number for member in members)
    rounds = Rounds(study, members, open_workbench(once.specs[0].setting), seeds=5, race=True)
    assert [(job.number, job.seed) for job in rounds.first()] == [(n, s) for s in range(3) for n in (a, b, c, d)]
    for number, scores in {a: (0.70, 0.71, 0.72), b: (0.90, 0.92, 0.94), c: (0.91, 0.92, 0.96)}.items():
        store(db, number, *scores)
    assert [(job.number, job.seed) for job in rounds.first()] == [(d, 0), (d, 1), (d, 2)]
    store(db, d, 0.99, 0.99, 0.99)
    assert [pair.told_apart for pair in rounds.outcome()] == [True, False, False]
    jobs = rounds.next()
    assert sorted((job.number, job.seed) for job in jobs) == sorted([(b, 3), (c, 3), (d, 3)])
    store(db, b, 0.92)
    assert sorted(job.number for job in rounds.left(jobs)) == sorted([c, d])
    store(db, c, 0.92)
    store(db, d, 0.99)
    assert [pair.told_apart for pair in rounds.outcome()] == [True, False, True]
    assert sorted((job.number, job.seed) for job in rounds.next()) == sorted([(b, 4), (c, 4)])
    store(db, b, 0.92)
    store(db, c, 0.92)
    assert rounds.next() == []  # the limit is reached
    assert [(pair.told_apart, pair.n_seeds) for pair in rounds.outcome()] == [(True, 3), (False, 5), (True, 4)]
    db.close()


def test_a_race_runs_until_all_are_told_apart_or_have_their_seeds(url: str, cluster: Cluster) -> None:
    numbers, heard = front_numbers(url), Heard()
    done = autoprune.evaluate("tiny", storage=url, race=True, seeds=4, where="macs_ratio < 1", progress=heard)
    n_seeds = {number: sum(key[0] == number for key in rows(url)) for number in numbers[:-1]}
    assert set(n_seeds.values()) <= {3, 4}
    assert done.n_done == sum(n_seeds.values()) == done.n_runs
    assert [(pair.cheaper, pair.costlier) for pair in done.race] == list(pairwise(numbers[:-1]))
    for pair in done.race:
        if not pair.told_apart:
            assert (n_seeds[pair.cheaper], n_seeds[pair.costlier], pair.n_seeds) == (4, 4, 4)
    assert heard.notes[0].startswith(f"{len(n_seeds)} trials of the front, 3 to 4 fine-tunings each: 0 known, ")
    assert sum(note.startswith("race: one more seed for ") for note in heard.notes) == (4 in n_seeds.values())
    again = autoprune.evaluate("tiny", storage=url, race=True, seeds=4, where="macs_ratio < 1")
    assert (again.n_done, again.race) == (0, done.race)


# What ends it early


def test_ctrl_c_keeps_what_is_scored_and_the_next_call_goes_on(url: str, cluster: Cluster) -> None:
    def interrupt(text: str) -> None:
        if text.startswith("trial "):
            os.kill(os.getpid(), signal.SIGINT)

    first = autoprune.evaluate("tiny", storage=url, seeds=4, concurrency=1, progress=Heard(interrupt))
    assert first.interrupted
    assert 1 <= first.n_done < first.n_runs
    assert len(rows(url)) == first.n_done
    second = autoprune.evaluate("tiny", storage=url, seeds=4)
    assert (second.n_known, second.n_done) == (first.n_done, first.n_runs - first.n_done)
    assert not second.interrupted


def test_runs_that_fail_are_told_and_the_others_kept(url: str, once: RealStudy, cluster: Cluster) -> None:
    number = front_numbers(url)[0]
    path = Path(once.results[number].weights)
    record = json.loads(path.with_suffix(".json").read_text())
    record["kept"]["conv1"] = [0, 999]
    path.with_name("broken.json").write_text(json.dumps(record))
    rewritten(url, "weights", number, str(path.with_name("broken.safetensors")))
    heard = Heard()
    with pytest.raises(
        StudyFailedError, match=rf"^1 of \d runs failed; .* The first error, of trial {number}, seed 0: "
    ):
        autoprune.evaluate("tiny", storage=url, seeds=1, progress=heard)
    assert {key[0] for key in rows(url)} == set(front_numbers(url)) - {number}
    assert any(note.startswith(f"failed: trial {number}, seed 0: ") for note in heard.notes)
    with pytest.raises(StudyFailedError, match=r"^3 of 9 runs failed"):  # as many in a row as end a study
        autoprune.evaluate("tiny", storage=url, seeds=9, where=f"number == {number}", concurrency=1)


# What is refused before anything is started


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str | None = None) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("autoprune.api._evaluating.open_cluster", refuse)


@pytest.mark.parametrize("seeds", [0, -1, 1001])
def test_seeds_out_of_range(seeds: int, url: str, no_cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=rf"^`seeds` must be in \[1, 1000\], but got seeds={seeds}\.$"):
        autoprune.evaluate("tiny", storage=url, seeds=seeds)


def test_one_seed_is_no_race(url: str, no_cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"^`seeds` must be in \[2, 1000\] in a race, but got seeds=1\.$"):
        autoprune.evaluate("tiny", storage=url, seeds=1, race=True)


def test_nothing_to_score_is_no_error(url: str, no_cluster: Cluster) -> None:
    done = autoprune.evaluate("tiny", storage=url, where="accuracy > 1")
    assert (done.n_runs, done.n_known, done.n_done, done.interrupted) == (0, 0, 0, False)


def test_what_is_not_there(url: str, tmp_path: Path, no_cluster: Cluster) -> None:
    with pytest.raises(StorageError, match="there is no study 'tin'; did you mean 'tiny'"):
        autoprune.evaluate("tin", storage=url)
    with pytest.raises(StorageError, match="the database must exist"):
        autoprune.evaluate("tiny", storage=f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(ConfigError, match="in `where`, there is no column 'mac'"):
        autoprune.evaluate("tiny", storage=url, where="mac > 1")


def test_a_missing_or_foreign_record(url: str, once: RealStudy, no_cluster: Cluster) -> None:
    number = front_numbers(url)[0]
    rewritten(url, "weights", number, str(Path(once.results[number].weights).with_name("none.safetensors")))
    with pytest.raises(WeightsError, match=rf"network of trial {number} must say which .* No such file.*none\.json"):
        autoprune.evaluate("tiny", storage=url)
    rewritten(url, "weights", number, once.results[1].weights)
    told = rf"00001\.json must be the record of trial {number}, but is that of another one"
    with pytest.raises(WeightsError, match=told):
        autoprune.evaluate("tiny", storage=url)
    assert rows(url) == {}


def test_a_study_whose_data_changed(url: str, no_cluster: Cluster) -> None:
    db = Database.open(url, create=False)
    with db.writing() as connection:
        identity = json.loads(connection.execute(sa.select(schema.studies.c.identity)).scalar_one())
        changed = json.dumps({**identity, "data": "other images"})
        connection.execute(sa.update(schema.studies).values(identity=changed))
    db.close()
    with pytest.raises(
        IdentityError,
        match=r"^study 'tiny' must be scored with what .* but `data` is .* there and .* here\. Put the old",
    ):
        autoprune.evaluate("tiny", storage=url)


def test_a_study_without_a_test_split(url: str, monkeypatch: pytest.MonkeyPatch, no_cluster: Cluster) -> None:
    """Digits always have one, so a data set without one is put in their place once they are loaded."""

    def untested(spec: Any, splits: Any, *, folder: Path) -> Any:
        without = dataclasses.replace(spec, source="parquet", train="here")
        return load_test(without, splits, folder=folder)

    monkeypatch.setattr("autoprune.pipeline.workbench.load_test", untested)
    with pytest.raises(ConfigError, match=r"must have a test split to be scored on, but it names no `test`"):
        autoprune.evaluate("tiny", storage=url)


def test_a_test_split_that_was_trained_on(url: str, monkeypatch: pytest.MonkeyPatch, no_cluster: Cluster) -> None:
    monkeypatch.setattr(Digits, "fingerprint", lambda self, spec, part: "the same")
    with pytest.raises(DataError, match="`train` and `test` hold the same data"):
        autoprune.evaluate("tiny", storage=url)


def test_a_score_that_another_machine_stored_first_stays(url: str, once: RealStudy) -> None:
    db = Database.open(url, create=False)
    study = autoprune.Study(db, StudyHandle.open(db, "tiny"))
    desk = _evaluating._Desk(study, Heard(), n_runs=2, n_known=0, most_in_a_row=3)
    spec = dataclasses.replace(once.specs[0], number=1)
    job = Job((Link(spec, {}),), 0, "t")
    phase = {"key": "k", "place": "/p", "sha256": "s", "size_bytes": 1}
    for accuracy in (0.5, 0.6):
        found = {"accuracy": accuracy, "n_images": 360, "wall_s": 1.0, "is_untouched": False}
        desk.done(job, {**found, "phase_file": phase, "phase_kind": "sparsify"})
    assert [score.score for score in EvaluationRows(db, study.handle.study_id).read()] == [0.5]
    db.close()
