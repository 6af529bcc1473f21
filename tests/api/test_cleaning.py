"""The disk of a study: while it runs, and after `clean`."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autoprune
from autoprune import api
from autoprune.api._cleaning import Retention
from autoprune.config import ConstraintsConfig, StudyConfig, load_study
from autoprune.config.study_files import RetentionConfig
from autoprune.errors import ConfigError, StorageError, WeightsError
from autoprune.methods import catalogue
from autoprune.search.files import enter_folder, is_shared
from autoprune.search.phases import PhaseRows
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Attr, Claim, Lifecycle, Proposal
from tests.real_trials import run_study

SIZE = 1000
HEX = "0123456789abcdef" * 2


class Disk:
    """A study whose trials leave files but train nothing."""

    def __init__(self, folder: Path, *, name: str = "s", db: Database | None = None, **changes: Any) -> None:
        self.artifacts = folder / "artifacts"
        stock = load_study(Path(__file__).parents[2] / "studies" / "digits" / "study.toml", catalogue())
        setting = dataclasses.replace(stock.setting, artifacts=str(self.artifacts))
        self.config: StudyConfig = dataclasses.replace(stock, setting=setting, **changes)
        self.url = f"sqlite:///{folder}/autoprune.db"
        self.db = db or Database.open(self.url, create=True)
        self.name = name
        self.study = self.revised()
        self.lifecycle = Lifecycle(self.study.handle, owner="me", n_trials=10_000)
        self.folder = self.artifacts / "trials" / name
        self.folder.mkdir(parents=True)

    def revised(self, **changes: Any) -> api.Study:
        self.config = dataclasses.replace(self.config, **changes)
        record = StudyHandle.create_or_join(
            self.db, name=self.name, identity={}, config={"config": self.config.to_dict()},
            directions=self.config.study.directions, objectives=self.config.study.objectives,
        )  # fmt: skip
        return api.Study(self.db, record)

    def start(self, key: str, **attrs: Any) -> Claim:
        claim = self.lifecycle.claim(Proposal({}, {}, key, attrs))
        assert isinstance(claim, Claim)
        return claim

    def write(self, number: int) -> dict[str, Any]:
        path = self.folder / f"{number:05d}.safetensors"
        path.write_bytes(b"x" * SIZE)
        path.with_suffix(".json").write_text(json.dumps({"sha256": f"{number:064d}"}))
        return {"weights": str(path), "sha256": f"{number:064d}"}

    def finish(self, claim: Claim, *values: float, **attrs: Any) -> None:
        self.lifecycle.complete(claim.trial_id, values, {**self.write(claim.number), **attrs})

    def weights(self) -> set[str]:
        return {str(path) for path in self.folder.glob("*.safetensors")}

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.artifacts)) for path in self.artifacts.rglob("*") if path.is_file())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path)
    yield made
    made.db.close()


# While it runs


def test_a_study_of_200_trials_never_holds_more_than_its_front_and_what_runs(disk: Disk) -> None:
    rng, running, done, retention = random.Random(0), [], {}, Retention(disk.study)
    for i in range(200):
        running.append(disk.start(str(i)))
        if len(running) < 4:
            continue
        claim = running.pop(rng.randrange(4))
        if i % 17 == 0:
            disk.lifecycle.failed(claim.trial_id, "no luck")
            continue
        ratio = rng.randrange(1, 100) / 100
        accuracy = round(0.5 + 0.4 * ratio**0.5 + 0.02 * rng.random(), 3)
        disk.finish(claim, accuracy, ratio)
        done[str(disk.folder / f"{claim.number:05d}.safetensors")] = (accuracy, ratio)
        retention.apply()
        front = {path for path, one in done.items() if not any(beats(other, one) for other in done.values())}
        assert disk.weights() == front  # none lost, none too many
        assert sum(Path(path).stat().st_size for path in front) <= (len(front) + len(running)) * SIZE
    assert Retention(disk.study).apply() == []  # One that looks at all of them agrees.
    assert set(disk.study.front()["weights"]) == front
    assert len(list(disk.folder.glob("*.json"))) == len(done) > 150  # the small records stay
    assert 5 < len(front) < 100


def test_a_network_that_shows_late_goes_all_the_same(disk: Disk) -> None:
    clock = [0.0]
    retention = Retention(disk.study, clock=lambda: clock[0])
    for name, accuracy in (("a", 0.8), ("b", 0.7), ("c", 0.9)):
        disk.finish(disk.start(name), accuracy, 0.5)
    first, second = (disk.folder / f"0000{i}.safetensors" for i in range(2))
    away = disk.folder.with_name("away")
    disk.folder.rename(away)
    assert retention.apply() == []
    clock[0] += 10_000  # The folder is away; that says nothing.
    assert retention.apply() == []
    away.rename(disk.folder)
    first.rename(away)  # Another machine has written it, and this one does not see it yet.
    assert retention.apply() == [second]
    clock[0] += 60
    away.rename(first)
    assert retention.apply() == [first]
    assert disk.weights() == {str(disk.folder / "00002.safetensors")}
    second.touch()  # What this driver has deleted, or what was not seen for long, is not looked for again.
    assert retention.apply() == []


def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a != b and a[0] >= b[0] and a[1] <= b[1]


def test_networks_of_the_feasible_front_stay_too_and_limits_count_as_they_are_now(tmp_path: Path) -> None:
    disk = Disk(tmp_path, constraints=ConstraintsConfig(params=500))
    rng, retention = random.Random(1), Retention(disk.study)
    for i in range(40):
        ratio, params = rng.randrange(1, 20) / 20, rng.choice([400, 600])
        accuracy = round(0.5 + 0.4 * ratio + 0.1 * rng.random() - 0.1 * (params == 400), 2)
        disk.finish(disk.start(str(i)), accuracy, ratio, params=params)
        retention.apply()
        assert set(disk.study.front()["weights"]) <= disk.weights()
    feasible, every = disk.study.front(), disk.weights()
    assert (feasible["params"] == 400).all()
    assert set(feasible["weights"]) < every
    # Another driver lifts the constraint; this one hears of it without being told.
    lifted = disk.revised(constraints=ConstraintsConfig())
    retention.apply()
    assert set(lifted.front()["weights"]) == disk.weights() < every
    disk.db.close()


def test_all_networks_stay_where_the_study_says_so(tmp_path: Path) -> None:
    disk = Disk(tmp_path, retention=RetentionConfig(networks="all"))
    for i in range(5):
        disk.finish(disk.start(str(i)), 0.5, 0.5 + i / 10)
        assert Retention(disk.study).apply() == []
    assert len(disk.weights()) == 5
    assert api.clean("s", storage=disk.url) == []
    disk.revised(retention=RetentionConfig(networks="front"))
    assert len(Retention(disk.study).apply()) == 4
    disk.db.close()


def test_a_revision_of_a_newer_autoprune_lets_nothing_go(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    disk.finish(disk.start("a"), 0.8, 0.5)
    disk.finish(disk.start("b"), 0.9, 0.5)
    StudyHandle.create_or_join(
        disk.db, name="s", identity={}, config={"config": {**disk.config.to_dict(), "retention": {"networks": "few"}}},
        directions=disk.config.study.directions, objectives=disk.config.study.objectives,
    )  # fmt: skip
    assert Retention(disk.study).apply() == []
    assert "no network was dropped, since the configuration of study 's' must be one that this auto" in caplog.text
    assert len(disk.weights()) == 2


def test_artifacts_that_moved_are_looked_after_in_both_places(disk: Disk, tmp_path: Path) -> None:
    disk.finish(disk.start("a"), 0.8, 0.5)
    old = disk.folder
    disk.folder = tmp_path / "moved" / "trials" / "s"
    disk.folder.mkdir(parents=True)
    disk.revised(setting=dataclasses.replace(disk.config.setting, artifacts=str(tmp_path / "moved")))
    disk.finish(disk.start("b"), 0.9, 0.5)
    assert Retention(disk.study).apply() == [old / "00000.safetensors"]
    assert len(disk.weights()) == 1


@pytest.mark.slow
def test_ten_thousand_trials_are_looked_through_in_no_time(disk: Disk) -> None:
    import sqlalchemy as sa

    rng, n = random.Random(0), 10_000
    values = [(0.5 + 0.4 * rng.random(), rng.random()) for _ in range(n)]
    with disk.db.writing() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        trials, goals, attributes = (
            tables.tables[name] for name in ("trials", "trial_values", "trial_user_attributes")
        )
        study_id = disk.study.handle.study_id
        rows: list[dict[str, Any]] = [
            {"trial_id": i + 1, "number": i, "study_id": study_id, "state": "COMPLETE"} for i in range(n)
        ]
        connection.execute(trials.insert(), rows)
        rows = [
            {"trial_id": i + 1, "objective": j, "value": value, "value_type": "FINITE"}
            for i, pair in enumerate(values)
            for j, value in enumerate(pair)
        ]
        connection.execute(goals.insert(), rows)
        rows = [
            {"trial_id": i + 1, "key": key, "value_json": json.dumps(value)}
            for i in range(n)
            for key, value in {"weights": str(disk.folder / f"{i:05d}.safetensors"), "sha256": "0", "params": i}.items()
        ]
        connection.execute(attributes.insert(), rows)
    Retention(disk.study).apply()
    start = time.perf_counter()
    Retention(disk.study).apply()
    assert time.perf_counter() - start < 1.0  # 0.08 s where nothing else runs


# Afterwards


def test_clean(disk: Disk, tmp_path: Path) -> None:
    best, beaten, failed, _ = (disk.start(key) for key in ("best", "beaten", "failed", "running"))
    disk.finish(best, 0.9, 0.5)
    disk.finish(beaten, 0.8, 0.5)
    disk.lifecycle.failed(failed.trial_id, "no luck")
    for number in (2, 3, 17):
        disk.write(number)
    for name in (f"00003.safetensors.{HEX}.tmp", f"00002.json.{HEX}.tmp", "notes.txt"):
        (disk.folder / name).write_bytes(b"x" * 10)
    for name, owner in (("tune-left", "left"), ("tune-alive", "alive")):
        folder = disk.artifacts / "ray" / name / "study"
        folder.mkdir(parents=True)
        (folder / "state.json").write_bytes(b"x" * 50)
        (folder.parent / "owner").write_text(owner)
        disk.study.handle.enter(owner)
    disk.study.handle.leave("left")
    (disk.artifacts / "phases").mkdir()
    (disk.artifacts / "phases" / "sparsify-a.safetensors").write_bytes(b"x" * 70)
    other = disk.artifacts / "trials" / "other" / "00099.safetensors"
    other.parent.mkdir()
    other.touch()

    before = disk.files()
    told = api.clean("s", dry_run=True, storage=disk.url)
    assert disk.files() == before
    assert api.clean("s", storage=disk.url) == told
    record = len((disk.folder / "00000.json").read_bytes())
    assert [(kind.what, len(kind.paths), kind.size_bytes) for kind in told] == [
        ("networks that other trials beat", 1, SIZE),
        ("files of trials that failed or are unknown", 5, 2 * SIZE + 2 * record + 10),
        ("scratch folders of drivers that ended", 1, 50 + len("left")),
    ]
    assert disk.files() == [
        "phases/sparsify-a.safetensors",
        "ray/tune-alive/owner",
        "ray/tune-alive/study/state.json",
        "trials/other/00099.safetensors",
        "trials/s/00000.json",
        "trials/s/00000.safetensors",
        "trials/s/00001.json",
        "trials/s/00003.json",
        "trials/s/00003.safetensors",
        f"trials/s/00003.safetensors.{HEX}.tmp",
        "trials/s/notes.txt",
    ]
    assert api.clean("s", storage=disk.url) == []


def test_what_a_study_of_the_same_name_in_another_database_may_know_stays(disk: Disk, tmp_path: Path) -> None:
    other = Database.open(f"sqlite:///{tmp_path}/other.db", create=True)
    theirs = StudyHandle.create_or_join(
        other, name="s", identity={}, config={}, directions=disk.config.study.directions,
        objectives=disk.config.study.objectives,
    )  # fmt: skip
    enter_folder(disk.folder, disk.study.handle)
    enter_folder(disk.folder, disk.study.handle)
    assert not is_shared(disk.folder, disk.study.handle)
    disk.write(17)
    assert [kind.what for kind in api.clean("s", dry_run=True, storage=disk.url)] == [
        "files of trials that failed or are unknown"
    ]
    enter_folder(disk.folder, theirs)
    assert is_shared(disk.folder, disk.study.handle)
    assert is_shared(disk.folder, theirs)
    assert api.clean("s", storage=disk.url) == []
    assert disk.weights() == {str(disk.folder / "00017.safetensors")}
    other.close()


def test_checkpoints_go_once_nobody_goes_on_with_them(disk: Disk) -> None:
    folder = disk.artifacts / "checkpoints"
    folder.mkdir()
    old, new = folder / "finetune-a.checkpoint", folder / "finetune-b.checkpoint"
    for path in (old, new):
        path.touch()
    then = time.time() - 2 * 3600
    os.utime(old, (then, then))
    interrupted = disk.start("a")
    disk.lifecycle.release(interrupted.trial_id, "interrupted")
    Retention(disk.study).apply()
    assert api.clean("s", storage=disk.url) == []
    assert old.exists()  # The trial that waits may go on with it.
    again = disk.lifecycle.claim_waiting()
    assert again is not None
    disk.finish(again, 0.9, 0.5)
    (told,) = api.clean("s", dry_run=True, storage=disk.url)
    assert (told.what, told.paths) == ("checkpoints of trainings that nobody goes on with", (old,))
    Retention(disk.study).apply()
    assert [path.name for path in folder.iterdir()] == [new.name]


def test_phases_go_only_when_asked_for_and_not_shared(disk: Disk, tmp_path: Path) -> None:
    other, rows, folder = Disk(tmp_path, name="other", db=disk.db), PhaseRows(disk.db), disk.artifacts / "phases"
    folder.mkdir()
    for key in ("own", "shared", "running"):
        path = folder / f"sparsify-{key}.safetensors"
        path.write_bytes(b"x" * 100)
        path.with_suffix(".json").touch()
        rows.publish(key, kind="sparsify", owner="me", place=str(path), sha256="0", size_bytes=100)
        claim = disk.start(key, **{Attr.PHASE: key})
        if key != "running":
            disk.finish(claim, 0.9, 0.5)
    other.finish(other.start("shared", **{Attr.PHASE: "shared"}), 0.9, 0.5)
    assert api.clean("s", storage=disk.url) == []
    (told,) = api.clean("s", phases=True, dry_run=True, storage=disk.url)
    assert (told.what, told.size_bytes) == ("phases that only this study used", 100)
    assert len(rows.by_last_use()) == 3
    assert api.clean("s", phases=True, storage=disk.url) == [told]
    assert sorted(path.name for path in folder.iterdir()) == [
        "sparsify-running.json", "sparsify-running.safetensors", "sparsify-shared.json", "sparsify-shared.safetensors",
    ]  # fmt: skip
    assert {phase.key for phase in rows.by_last_use()} == {"shared", "running"}


def test_what_can_t_be_deleted_is_told(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.write(5)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match=r"00005\.json must be deleted, but can't be: Permission denied\. Check who"):
        api.clean("s", storage=disk.url)


def test_a_study_without_files(disk: Disk) -> None:
    disk.folder.rmdir()
    assert Retention(disk.study).apply() == []
    assert api.clean("s", phases=True, storage=disk.url) == []
    with pytest.raises(StorageError, match="there is no study 'x'"):
        api.clean("x", storage=disk.url)


# What is said of a network that is gone


def test_export_latency_and_load_say_that_retention_dropped_it(tmp_path: Path) -> None:
    points = [{"macs_target": 0.5}, {"macs_target": 0.49}]
    real = run_study(tmp_path, points, network='architecture = "resnet_digits"')
    with sqlite3.connect(real.url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE trial_values SET value = 0 WHERE trial_id = 1 AND objective = 0")
    connection.close()
    db = Database.open(real.url, create=False)
    dropped = Retention(autoprune.Study(db, StudyHandle.open(db, "tiny"))).apply()
    assert [path.name for path in dropped] == ["00000.safetensors"]
    db.close()
    told = (
        r"^a saved network must be there, but there is no file .*00000\.safetensors\. Its record is still there: "
        r"retention has dropped the network, because other trials beat it\. Take a trial of the front \(`autoprune "
        r"pareto`\), or keep all from now on with \[retention\] networks = \"all\"\.$"
    )
    for call in (
        lambda: autoprune.export_trial("tiny", 0, tmp_path / "net.onnx", storage=real.url),
        lambda: autoprune.export_trial("tiny", 0, tmp_path / "net.safetensors", storage=real.url),
        lambda: autoprune.measure_latency("tiny", 0, storage=real.url),
        lambda: autoprune.load_model(real.results[0].weights),
    ):
        with pytest.raises(WeightsError, match=told):
            call()
    assert autoprune.export_trial("tiny", 1, tmp_path / "net.safetensors", storage=real.url).size_bytes > 0
    with pytest.raises(ConfigError, match=r"trial 2 of study 'tiny' must have finished"):
        autoprune.export_trial("tiny", 2, tmp_path / "net.onnx", storage=real.url)
