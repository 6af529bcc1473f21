"""`autoprune evaluate`, and what the other commands then tell of it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprune import api
from autoprune.errors import StudyFailedError
from autoprune.search.front import EvaluationRows, RacedPair, TestScore
from autoprune.search.storage import Database, StudyHandle

Run = Callable[..., Any]

# Trials 2, 1 and 0 are the front by cost; 2 and 1 can't be told apart, 1 and 0 can.
SCORES = {2: [0.90, 0.94, 0.92], 1: [0.93, 0.95, 0.94], 0: [0.98, 0.98, 0.98]}


@pytest.fixture
def scored(finished: Any) -> Any:
    """The finished study with scores on the test split, as if it had been evaluated."""
    db = Database.open(finished.url, create=False)
    rows = EvaluationRows(db, StudyHandle.open(db, "digits").study_id)
    for number, accuracies in SCORES.items():
        for seed, accuracy in enumerate(accuracies):
            rows.add(TestScore(number, seed, "t", accuracy, n_images=360, wall_s=1.5))
    db.close()
    return finished


def ok(answer: Any) -> str:
    assert (answer.code, answer.err) == (0, "")
    return str(answer.out)


def test_pareto_shows_mean_deviation_and_what_can_t_be_told_apart(run: Run, scored: Any) -> None:
    lines = ok(run("pareto", "digits", "--storage", scored.url)).splitlines()
    assert lines[0].split()[:6] == ["trial", "accuracy", "test", "acc", "±", "sd"]
    assert [line[:35].split() for line in lines[1:4]] == [
        ["2", "0.9000", "0.9200", "±", "0.0200", "~"],
        ["1", "0.9700", "0.9400", "±", "0.0100"],
        ["0", "0.9800", "0.9800", "±", "0.0000"],
    ]
    assert lines[4] == "test acc ± sd: mean and standard deviation over 3 fine-tunings, on the test split"
    assert lines[5].startswith("~ can't be told apart from the next costlier one: ")
    assert lines[6].startswith("hypervolume 0.7100 ")  # of the search's scores


def test_csv_and_json_hold_the_same(run: Run, scored: Any) -> None:
    flags = ["--storage", scored.url, "--format"]
    rows = list(csv.DictReader(io.StringIO(ok(run("pareto", "digits", *flags, "csv")))))
    assert [row["like_next"] for row in rows] == ["True", "False", ""]
    records = json.loads(ok(run("pareto", "digits", *flags, "json")))
    assert [record["like_next"] for record in records] == [True, False, None]
    for row, record, number in zip(rows, records, (2, 1, 0), strict=True):
        assert record["test_accuracy"] == pytest.approx(sum(SCORES[number]) / 3, abs=1e-9)
        assert float(row["test_accuracy"]) == pytest.approx(record["test_accuracy"], abs=1e-9)
        assert float(row["test_sd"]) == pytest.approx(record["test_sd"], abs=1e-9)
        assert (int(row["test_seeds"]), record["test_seeds"]) == (3, 3)


def test_neighbours_are_those_that_are_shown(run: Run, scored: Any) -> None:
    records = json.loads(ok(run("pareto", "digits", "--spacing", "0.4", "--format", "json", "--storage", scored.url)))
    assert [(record["number"], record["like_next"]) for record in records] == [(2, False), (0, None)]
    out = ok(run("pareto", "digits", "--sort", "accuracy", "--where", "macs_ratio <= 0.5", "--storage", scored.url))
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["1", "2"]
    assert [" ~ " in line for line in out.splitlines()[1:3]] == [False, True]


def test_trials_are_not_chosen_by_their_test_scores(run: Run, scored: Any) -> None:
    for flags in (["--where", "test_accuracy > 0.9"], ["--sort", "test_accuracy"]):
        told = "there is no column 'test_accuracy'; did you mean 'accuracy'?"
        assert run("pareto", "digits", *flags, "--storage", scored.url).is_refusal(told)


def test_show_tells_every_seed(run: Run, scored: Any) -> None:
    facts = json.loads(ok(run("show", "digits", 1, "--format", "json", "--storage", scored.url)))
    assert (facts["accuracy"], facts["test_accuracy"], facts["test_seeds"]) == (0.97, pytest.approx(0.94), 3)
    assert facts["test_scores"] == {"0": 0.93, "1": 0.95, "2": 0.94}
    assert re.search(r"test .*0\.9400 ± 0\.0100", ok(run("show", "digits", 1, "--storage", scored.url)))
    assert "test_accuracy" not in json.loads(ok(run("show", "digits", 3, "--format", "json", "--storage", scored.url)))


def test_an_evaluation_is_told_run_by_run(run: Run, scored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def evaluate(name: str, *, progress: api.Progress, **options: Any) -> api.Evaluated:
        given.update(name=name, **options)
        progress.note("trial 1, seed 0: 0.9300 (2 s; 1 of 9)")
        return api.Evaluated(api.open_study(name, options["storage"]), 9, 6, 3, interrupted=given["seeds"] == 5)

    monkeypatch.setattr(api, "evaluate", evaluate)
    where = ["--where", "macs_ratio <= 0.5"]
    lines = ok(run("evaluate", "digits", *where, "--concurrency", 2, "--storage", scored.url)).splitlines()
    assert given == {
        "name": "digits", "seeds": None, "race": False, "where": "macs_ratio <= 0.5", "concurrency": 2,
        "address": None, "storage": scored.url,
    }  # fmt: skip
    assert lines[0] == "trial 1, seed 0: 0.9300 (2 s; 1 of 9)"
    assert [line.split()[0] for line in lines[1:4]] == ["trial", "2", "1"]
    assert lines[-1].startswith("~ can't be told apart")
    stopped = run("evaluate", "digits", "--seeds", 5, "--storage", scored.url)
    assert (stopped.code, stopped.out.splitlines()[-1]) == (130, "9 of 9 runs are done; the same command goes on.")


def test_a_race_says_what_came_out(run: Run, scored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(name: str, *, race: bool, seeds: int, storage: str, **options: Any) -> api.Evaluated:
        assert (race, seeds) == (True, 6)
        pairs = RacedPair(2, 1, told_apart=False, n_seeds=6), RacedPair(1, 0, told_apart=True, n_seeds=3)
        return api.Evaluated(api.open_study(name, storage), 15, 9, 6, interrupted=False, race=pairs)

    monkeypatch.setattr(api, "evaluate", evaluate)
    lines = ok(run("evaluate", "digits", "--race", "--seeds", 6, "--storage", scored.url)).splitlines()
    assert lines[-2:] == [
        "race: trials 2 and 1 not told apart with 6 seeds", "race: trials 1 and 0 told apart with 3 seeds",
    ]  # fmt: skip


def test_failed_runs_are_an_exit_code_of_1(run: Run, scored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(name: str, **options: Any) -> None:
        raise StudyFailedError("1 of 9 runs failed; what was scored is kept.")

    monkeypatch.setattr(api, "evaluate", evaluate)
    failed = run("evaluate", "digits", "--storage", scored.url)
    assert (failed.code, failed.err) == (1, "autoprune: 1 of 9 runs failed; what was scored is kept.\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["digits", "--seeds", "0"], "argument --seeds: must be a whole number of at least 1, but got '0'"),
        (["digits", "--seeds", "1.5"], "argument --seeds: must be a whole number of at least 1, but got '1.5'"),
        (["digits", "--seeds", "1", "--race"], "`seeds` must be in [2, 1000] in a race, but got seeds=1."),
        (["digits", "--seeds", "1001"], "`seeds` must be in [1, 1000], but got seeds=1001."),
        (["digits", "--where", "mac < 1"], "in `where`, there is no column 'mac'; did you mean 'macs'?"),
        (["digit"], "there is no study 'digit'; did you mean 'digits'?"),
        (["digits"], "the record beside the network of trial 2 must say which channels it kept, but can't be read"),
    ],
)
def test_bad_input(arguments: list[str], told: str, run: Run, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprune.api._evaluating.open_cluster", lambda address: pytest.fail("a cluster was started"))
    assert run("evaluate", *arguments, "--storage", finished.url).is_refusal(told)


def test_an_empty_front(run: Run, finished: Any) -> None:
    out = ok(run("evaluate", "digits", "--where", "accuracy > 1", "--storage", finished.url))
    assert out == "no trial is on the front yet.\n"


def test_test_scores_of_a_study_by_rmse(run: Run, finished_by_rmse: Any, tmp_path: Path) -> None:
    shutil.copy(finished_by_rmse.database, tmp_path / "copy.db")
    url = f"sqlite:///{tmp_path}/copy.db"
    db = Database.open(url, create=False)
    rows = EvaluationRows(db, StudyHandle.open(db, "digits").study_id)
    for number, rmses in {2: [1.1, 1.3], 1: [0.55, 0.65], 0: [0.41, 0.41]}.items():
        for seed, rmse in enumerate(rmses):
            rows.add(TestScore(number, seed, "t", rmse, n_images=360, wall_s=1.5))
    db.close()
    lines = ok(run("pareto", "digits", "--storage", url)).splitlines()
    assert lines[0].split()[:6] == ["trial", "rmse", "test", "rmse", "±", "sd"]
    assert [line.split()[:5] for line in lines[1:4]] == [
        ["2", "1.000", "1.200", "±", "0.1414"],
        ["1", "0.5000", "0.6000", "±", "0.07071"],
        ["0", "0.4000", "0.4100", "±", "0.000"],
    ]
    assert lines[4] == "test rmse ± sd: mean and standard deviation over 2 fine-tunings, on the test split"
    records = json.loads(ok(run("pareto", "digits", "--format", "json", "--storage", url)))
    assert [record["test_rmse"] for record in records] == pytest.approx([1.2, 0.6, 0.41])
    assert "0.6000" in ok(run("show", "digits", 1, "--storage", url))
