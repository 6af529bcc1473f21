"""What `autoprune doctor` finds amiss, and what of it it mends."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autoprune import api
from autoprune.api import Complaint
from autoprune.cli.main import main
from tests.real_trials import RealStudy, run_study


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> RealStudy:
    folder = tmp_path_factory.mktemp("doctor")
    points = [{"macs_target": 0.5}, {"macs_target": 0.3}]
    return run_study(folder, points, network='architecture = "resnet_digits"', accuracies=[0.9, 0.8])


@pytest.fixture
def study(once: RealStudy) -> Any:
    """The study where it was made, put back as it was afterwards: its rows name absolute paths."""
    folder = Path(once.url.removeprefix("sqlite:///")).parent
    shutil.copytree(folder, folder.with_suffix(".whole"))
    yield once
    shutil.rmtree(folder)
    folder.with_suffix(".whole").rename(folder)


def change(study: RealStudy, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(study.url.removeprefix("sqlite:///"))) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def only(found: list[Complaint]) -> Complaint:
    (one,) = found
    return one


def looked(study: RealStudy, *, mend: bool = False) -> list[Complaint]:
    return api.doctor("tiny", mend=mend, storage=study.url)


def test_a_whole_study(study: RealStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert looked(study) == []
    assert main(["doctor", "tiny", "--storage", study.url]) == 0
    assert capsys.readouterr().out == "nothing is amiss.\n"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (Path.unlink, "the network of trial 1 is not there"),
        (flip, "the network of trial 1 is damaged"),
        (lambda path: path.with_suffix(".json").unlink(), "the network of trial 1 has no record beside it"),
        (lambda path: path.with_suffix(".json").write_text("[" * 10**5), "the network of trial 1 has no record"),
    ],
)
def test_a_front_member_without_its_network(study: RealStudy, harm: Callable[[Path], Any], told: str) -> None:
    harm(Path(study.results[1].weights))
    for mend in (False, True):  # Nothing brings it back.
        one = only(looked(study, mend=mend))
        assert one.text.startswith(told)
        assert (one.kind, one.trial, one.path, one.can_mend) == ("network", 1, study.results[1].weights, False)


def test_a_network_that_lies_elsewhere(study: RealStudy) -> None:
    change(
        study,
        "UPDATE trial_user_attributes SET value_json = '\"/etc/passwd\"' WHERE key = 'weights' AND trial_id = 1",
    )
    one, its_file = looked(study, mend=True)
    assert one.text == "the network of trial 0 is said to lie in /etc, not in the study's folder"
    assert its_file.kind == "file"
    assert not its_file.mended
    assert Path(study.results[0].weights).exists()  # Whoever changed the row did not mean that to go.


ROWS = {
    "score": (
        "INSERT INTO autoprune_evaluations VALUES (1, 77, 0, 'f', 0.5, 10, 1.0, 0.0)",
        "there is a test score of trial 77, which has no network",
    ),
    "lease of nobody": (
        "INSERT INTO autoprune_leases VALUES (99, 1, 'x', 0.0)",
        "there is a lease of a trial with the id 99, which is not there",
    ),
    "lease that ran out": (
        "UPDATE autoprune_leases SET expires_at = 0",
        "trial 2 is RUNNING, but nobody has stood for it for 60 s",
    ),
    "lease of a trial that has ended": (
        "INSERT INTO autoprune_leases VALUES (1, 1, 'x', 9e9)",
        "trial 0 has ended, but its lease is still there",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_can_be_mended(name: str, study: RealStudy) -> None:
    statement, told = ROWS[name]
    change(study, statement)
    one = only(looked(study))
    assert (one.text, one.can_mend, one.mended) == (told, True, False)
    assert only(looked(study, mend=True)).mended
    assert looked(study) == []


def test_a_lost_trial_waits_for_another_try(study: RealStudy) -> None:
    change(study, "UPDATE autoprune_leases SET expires_at = 0")
    looked(study, mend=True)
    assert api.status("tiny", study.url).waiting == ((3, 2),)


def test_a_phase_that_is_gone_and_one_that_is_damaged(study: RealStudy) -> None:
    folder = Path(study.specs[0].setting.artifacts) / "phases"
    (path,) = folder.glob("dense-*.safetensors")
    record = json.loads(path.with_suffix(".json").read_text())
    row = "INSERT INTO autoprune_phases VALUES (?, 'dense', 'x', 0, ?, ?, ?, 0, 0)"
    change(study, row, "whole", str(path), record["sha256"], path.stat().st_size)
    assert looked(study) == []
    change(study, row, "gone", str(folder / "dense-gone.safetensors"), "0" * 64, 1)
    flip(path)
    found = looked(study, mend=True)
    assert sorted(one.text.partition(" (")[0] for one in found) == [
        "the dense phase gone is not there", "the dense phase whole is damaged",
    ]  # fmt: skip
    assert looked(study) == []
    assert not path.exists()


def test_tables_of_an_older_version(study: RealStudy) -> None:
    change(study, "UPDATE autoprune_schema SET version = 1")
    change_all = "DROP TABLE autoprune_evaluations"
    with closing(sqlite3.connect(study.url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(change_all)
    one = only(looked(study, mend=True))
    assert (one.kind, one.mended) == ("schema", True)
    assert looked(study) == []


def test_more_trials_than_were_asked_for(study: RealStudy) -> None:
    change(study, "UPDATE autoprune_revisions SET config = replace(config, '\"n_trials\": 9', '\"n_trials\": 1')")
    assert only(looked(study)).text == "2 trials have finished, though at most 1 were ever asked for"


def test_the_command_asks_before_it_mends(
    study: RealStudy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = Path(study.results[0].weights).with_name("00042.safetensors")
    stray.write_bytes(b"")
    command = ["doctor", "tiny", "--storage", study.url]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert f"file: files of trials that failed or are unknown: 1, 0 bytes, the first of them {stray}" in out
    assert "can be mended: delete them" in out
    assert "nothing was mended; `--yes` mends." in out
    assert main([*command, "--format", "json"]) == 1
    (one,) = json.loads(capsys.readouterr().out)["complaints"]
    assert (one["kind"], one["can_mend"], one["mended"]) == ("file", True, False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert main(command) == 1
    assert stray.exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert main(command) == 0
    assert not stray.exists()
    stray.write_bytes(b"")
    assert main([*command, "--yes"]) == 0
    assert not stray.exists()


def test_a_damaged_file(study: RealStudy, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(study.url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_trials_study_id'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    data[size * (page - 1) + size - 4 : size * page] = b"\xff" * 4
    path.write_bytes(data)
    assert main(["doctor", "tiny", "--storage", study.url]) == 1
    assert "database: the database file is damaged: " in capsys.readouterr().out
