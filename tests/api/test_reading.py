"""Studies opened for reading, from Python."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autoprune
from autoprune import api, errors
from autoprune.api import FrontTrial
from autoprune.config import Metric
from autoprune.errors import AutopruneError, ConfigError, StorageError
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Lifecycle


def test_the_front(finished: Any) -> None:
    study = autoprune.open_study("digits", finished.url)
    front = study.front()
    assert front["number"].tolist() == [2, 1, 0]
    assert front["accuracy"].tolist() == [0.9, 0.97, 0.98]
    assert front["macs_ratio"].tolist() == [0.2, 0.5, 1.0]
    assert front["macs"].dtype.kind == "i"
    assert study.front(where="macs_ratio < 0.4", sort="accuracy")["number"].tolist() == [2]
    assert study.front(spacing=0.4)["number"].tolist() == [2, 0]
    assert study.hypervolume() == pytest.approx(0.71, rel=1e-12)
    assert study.reference_point == {"accuracy": 0.5, "macs_ratio": 1.0}


def revised(finished: Any, **tables: Any) -> autoprune.Study:
    """The study under a new revision, some tables of its configuration replaced."""
    db = Database.open(finished.url, create=False)
    record = StudyHandle.open(db, "digits")
    StudyHandle.create_or_join(
        db, name="digits", identity=record.identity, directions=record.directions, objectives=record.objectives,
        config={**record.config, "config": {**record.config["config"], **tables}},
    )  # fmt: skip
    db.close()
    return autoprune.open_study("digits", finished.url)


@pytest.mark.parametrize(
    ("limits", "numbers", "hypervolume"),
    [
        # Trial 3 is beaten by trial 2, which has fewer parameters; shares of the box of 0.5.
        ({"macs_ratio": 0.5}, [2, 1], 0.71),
        ({"macs_ratio": 0.49}, [2], 0.64),
        ({"macs_ratio": 0.3, "params": 15_270}, [2], 0.64),
        ({"params": 15_269}, [], 0.0),
        ({"latency_ms": 1e9}, [], 0.0),  # never measured
    ],
)
def test_the_front_keeps_the_constraints_of_the_newest_revision(
    limits: dict[str, float], numbers: list[int], hypervolume: float, finished: Any
) -> None:
    config = autoprune.open_study("digits", finished.url).config
    setting = {**dataclasses.asdict(config.setting), "latency_batch": 8}
    study = revised(finished, constraints=limits, setting=setting)
    assert study.front()["number"].tolist() == numbers
    assert study.hypervolume() == pytest.approx(hypervolume, rel=1e-12)
    assert study.trials()["state"].tolist().count("COMPLETE") == 4
    assert [config.constraints.limits for config in study.configs().values()] == [{}, limits]
    assert study.front(where="accuracy > 0.9")["number"].tolist() == [n for n in numbers if n == 1]


def test_there_are_no_test_scores_before_an_evaluation(finished: Any) -> None:
    study = autoprune.open_study("digits", finished.url)
    assert len(study.evaluations()) == 0
    assert not {"test_accuracy", "test_sd", "test_seeds", "like_next"} & set(study.front().columns)
    assert not {"test_accuracy", "test_scores"} & set(study.trial(0))


def test_all_trials(finished: Any) -> None:
    trials = autoprune.open_study("digits", finished.url).trials()
    assert trials["number"].tolist() == list(range(7))
    assert trials["state"].tolist() == ["COMPLETE"] * 4 + ["PRUNED", "FAIL", "RUNNING"]
    assert trials["accuracy"].isna().tolist() == [False] * 4 + [True] * 3


def test_where_the_trials_stand(finished: Any) -> None:
    study = autoprune.open_study("digits", finished.url)
    trials, front = study.trials(), study.front()
    assert trials["is_pareto"].tolist() == [True, True, True, False, False, False, False]
    assert trials["rank"].tolist()[:4] == [0, 0, 0, 1]
    assert trials[["rank", "crowding", "hv_contribution"]].iloc[4:].isna().all(axis=None)
    np.testing.assert_allclose(trials["hv_contribution"].iloc[:4], [0.0, 0.07, 0.24, 0.0], atol=1e-12)
    np.testing.assert_allclose(trials["crowding"].iloc[:4], [math.inf, 2.0, math.inf, 0.0])
    columns = ["number", "is_pareto", "rank", "crowding", "hv_contribution"]
    assert front[columns].to_numpy().tolist() == trials[columns].iloc[[2, 1, 0]].to_numpy().tolist()
    limited = revised(finished, constraints={"macs_ratio": 0.4}).trials()
    assert limited["is_pareto"].tolist() == [False, False, True, False, False, False, False]
    np.testing.assert_array_equal(limited["rank"].iloc[:4], [math.nan, math.nan, 0, 1])


def test_all_that_satisfies_is_shown_on_demand(finished: Any) -> None:
    study = autoprune.open_study("digits", finished.url)
    found = study.front(where=["accuracy < 0.98", "macs_ratio > 0.2"], dominated=True)
    assert found[["number", "is_pareto"]].to_numpy().tolist() == [[3, True], [1, True]]
    assert study.front(dominated=True)["number"].tolist() == [2, 3, 1, 0]


def test_accuracies_of_a_small_split_are_not_told_apart(finished: Any) -> None:
    db = Database.open(finished.url, create=False)
    record = StudyHandle.open(db, "digits")
    assert autoprune.Study(db, record).source.n_validation is None  # an older study, which held out a share
    names = {"name": "digits", "identity": record.identity, "directions": record.directions}
    StudyHandle.create_or_join(db, config={**record.config, "n_validation": 359}, objectives=record.objectives, **names)
    front = autoprune.Study(db, StudyHandle.open(db, "digits")).front()
    # 0.97 and 0.98 of 359 differ by less than two of 0.0118; 0.90 and 0.97 by more than two of 0.0184.
    assert front["like_next"].tolist() == [False, True, None]
    assert front["like_next_by"].tolist() == ["validation", "validation", None]
    assert front["score_se"].iloc[0] == pytest.approx(0.3 / math.sqrt(359))
    db.close()


def test_a_split_that_is_counted_out_is_known(finished: Any) -> None:
    setting = dataclasses.asdict(autoprune.open_study("digits", finished.url).config.setting)
    study = revised(finished, setting={**setting, "data": {**setting["data"], "validation": "last:300"}})
    assert study.source.n_validation == 300
    assert "score_se" in study.front().columns


def test_an_rmse_is_no_share(finished_by_rmse: Any) -> None:
    assert autoprune.open_study("digits", finished_by_rmse.url).source.n_validation is None


def test_one_trial(finished: Any) -> None:
    study = autoprune.open_study("digits", finished.url)
    first = study.trial(0)
    assert (first["trial"], first["state"], first["accuracy"], first["macs_ratio"]) == (0, "COMPLETE", 0.98, 1.0)
    dense = {"method": "magnitude", "width_rule": "uniform", "macs_target": 1.0, "hyper": {}, "shape": {}}
    assert first["point"] == dense
    assert first["started"] <= first["ended"]
    assert (first["dense_macs"], first["dense_params"]) == (763_520, 77_754)
    assert first["dense_widths"]["conv1"] == 16
    assert first["device_hours"] == pytest.approx(first["duration_s"] / 3600)  # One CPU, from its start to its end.
    assert first["device"] == "CPU"
    assert study.trial(5)["reason"] == "the loss became nan"
    assert "duration_s" not in study.trial(6)  # It still runs.
    with pytest.raises(ConfigError, match=r"^study 'digits' has no trial 7; it has trials 0 to 6\.$"):
        study.trial(7)
    with pytest.raises(ConfigError, match=r"^study 'digits' has no trial -1; it has trials 0 to 6\.$"):
        study.trial(-1)


def test_the_configuration_is_the_file_s(finished: Any) -> None:
    from autoprune.api._planning import load_config

    study = autoprune.open_study("digits", finished.url)
    assert study.name == "digits"
    assert study.config == load_config(finished.file)


def test_status(finished: Any) -> None:
    status = autoprune.status("digits", finished.url)
    counts = status.counts
    assert (status.n_trials, status.revision) == (10, 1)
    assert (counts.complete, counts.pruned, counts.failed, counts.running, counts.waiting) == (4, 1, 1, 1, 0)
    assert status.failures == ((5, "the loss became nan"),)
    (driver,) = status.drivers
    assert (driver.state, driver.trials) == ("at work", (6,))
    assert (status.n_front, status.best, status.cheapest) == (3, FrontTrial(0, 0.98, 1.0), FrontTrial(2, 0.9, 0.2))
    assert status.hypervolume == pytest.approx(0.71)
    assert status.last_result_s_ago is not None
    assert status.last_result_s_ago < 3600


def test_pace(finished: Any) -> None:
    def aged(trial: int, seconds: float) -> None:
        with contextlib.closing(sqlite3.connect(finished.database)) as connection, connection:
            connection.execute(
                "UPDATE trial_user_attributes SET value_json = value_json - ? WHERE key = 'claimed_at' AND trial_id = "
                "(SELECT trial_id FROM trials WHERE number = ?)", (seconds, trial),
            )  # fmt: skip

    aged(0, 7200)  # Five trials in two hours, and five are left.
    status = autoprune.status("digits", finished.url)
    assert status.per_hour == pytest.approx(2.5, rel=0.3)
    assert status.seconds_left == pytest.approx(7200, rel=0.3)
    with contextlib.closing(sqlite3.connect(finished.database)) as connection, connection:
        connection.execute("UPDATE autoprune_drivers SET left_at = seen_at")
    status = autoprune.status("digits", finished.url)
    assert (status.per_hour, status.seconds_left, status.drivers) == (None, None, ())
    assert [trial.number for trial in status.running] == [6]


def test_waiting_retries_and_failures_that_were_tried_again(finished: Any) -> None:
    db = Database.open(finished.url, create=False)
    study = StudyHandle.open(db, "digits")
    (running,) = (trial for trial in study.trials() if trial.number == 6)
    Lifecycle(study, owner="here:1:abc", n_trials=10).failed(running._trial_id, "the worker died", retry=True)
    db.close()
    status = autoprune.status("digits", finished.url)
    assert status.waiting == ((7, 6),)
    assert status.retried == {6}
    assert (status.counts.failed, status.counts.retried, status.counts.failed_for_good) == (2, 1, 1)
    assert api.list_names("studies", finished.url) == [("digits", "5 finished, 0 running, 1 failed")]
    assert autoprune.open_study("digits", finished.url).trial(6)["tried again as"] == [7]


def test_a_driver_that_was_not_seen_for_long_is_lost(finished: Any) -> None:
    connection = sqlite3.connect(finished.database)
    with connection:
        connection.execute("UPDATE autoprune_drivers SET seen_at = seen_at - 10000")
    connection.close()
    (driver,) = autoprune.status("digits", finished.url).drivers
    assert (driver.state, driver.trials) == ("lost", (6,))
    assert 10_000 <= driver.seen_s_ago < 20_000


def test_stop_is_heard(finished: Any) -> None:
    study = autoprune.open_study("digits", finished.url)
    before = study.handle.db.now()
    assert not study.handle.stop_requested_since(before - 100)
    assert len(autoprune.stop("digits", finished.url)) == 1
    assert study.handle.stop_requested_since(before)


def test_lists(finished: Any) -> None:
    assert api.list_names("studies", finished.url) == [("digits", "5 finished, 1 running, 1 failed")]
    assert dict(api.list_names("methods"))["magnitude"].endswith("ranks the dense network as it is.")
    assert "resnet_digits" in dict(api.list_names("architectures"))
    with pytest.raises(
        ConfigError, match=r"^there is no list 'method'; did you mean 'methods'\? Valid: architectures, "
    ):
        api.list_names("method")


@pytest.mark.parametrize("spacing", [-0.1, 1.5, float("nan")])
def test_spacings_that_are_none(spacing: float, finished: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"^`spacing` must be in \[0, 1\], a distance in macs_ratio, but got spacing="
    ):
        autoprune.open_study("digits", finished.url).front(spacing=spacing)


def test_what_is_not_there(tmp_path: Path, finished: Any) -> None:
    for call in (autoprune.open_study, autoprune.status, autoprune.stop, autoprune.resume):
        with pytest.raises(
            StorageError, match=r"^the database must exist, but there is no .*/gone\.db\. `autoprune launch`"
        ):
            call("digits", storage=f"sqlite:///{tmp_path}/gone.db")
        told = f"in {finished.url} there is no study 'digit'; did you mean 'digits'? Valid: digits."
        with pytest.raises(StorageError, match=f"^{re.escape(told)}$"):
            call("digit", storage=finished.url)
    assert not (tmp_path / "gone.db").exists()


def test_where_the_database_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOPRUNE_STORAGE", raising=False)
    assert api.storage_url() == "sqlite:///autoprune.db"
    monkeypatch.setenv("AUTOPRUNE_STORAGE", "sqlite:///env.db")
    assert api.storage_url() == "sqlite:///env.db"
    assert api.storage_url("sqlite:///given.db") == "sqlite:///given.db"
    assert api.storage_url("") == ""  # a slip, refused where it is opened
    with pytest.raises(AutopruneError, match=r"^`storage` must be a database URL, but it can't be read as one\."):
        autoprune.open_study("digits", "")


def test_the_public_names() -> None:
    for package in (autoprune, api):
        assert set(package.__all__) <= set(dir(package))
        assert all(hasattr(package, name) for name in package.__all__)
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'lanch'"):
            _ = package.lanch
    exceptions = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert exceptions <= set(autoprune.__all__)


def test_a_study_closes_its_connections_and_opens_them_again(finished: Any) -> None:
    with autoprune.open_study("digits", finished.url) as study:
        first = study.front()
    assert study.front().equals(first)
    study.close()


def test_a_study_that_minimises_rmse(finished_by_rmse: Any) -> None:
    study = autoprune.open_study("digits", finished_by_rmse.url)
    assert study.metric == Metric("rmse", "minimize", 2.0)
    assert (study.cost, study.reference_point) == ("macs_ratio", {"rmse": 2.0, "macs_ratio": 1.0})
    front = study.front()
    assert front["number"].tolist() == [2, 1, 0]
    assert front["rmse"].tolist() == [1.0, 0.5, 0.4]
    assert study.front(sort="rmse")["number"].tolist() == [0, 1, 2]
    assert study.front(where="rmse > 1.1")["number"].tolist() == [3]
    assert study.hypervolume() == pytest.approx(0.525, rel=1e-12)
    assert study.trials()["partial_rmse"].dropna().tolist() == [0.4]
    assert list(study.evaluations().columns) == ["number", "seed", "fingerprint", "rmse", "n_images", "wall_s"]
    assert (study.trial(1)["rmse"], "accuracy" in study.trial(1)) == (0.5, False)


def test_the_metric_of_a_study_that_names_none(finished: Any) -> None:
    assert autoprune.open_study("digits", finished.url).metric == Metric("accuracy", "maximize", 0.5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"knee": True, "top": 3}, "only one of `dominated`, `best`, `knee` and `top` must be given, but several are"),
        ({"top": 0}, "`top` must be at least 1, but got top=0"),
        ({"spacing": 2.0}, r"`spacing` must be in \[0, 1\], a distance in macs_ratio, but got spacing=2.0"),
    ],
)
def test_questions_that_are_none(options: dict[str, Any], told: str, finished: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{told}"):
        api.ask_front(["digits"], storage=finished.url, **options)


def test_a_study_that_is_named_twice_is_asked_once(finished: Any) -> None:
    answer = api.ask_front(["digits", "digits"], storage=finished.url)
    assert answer.rows["number"].tolist() == [2, 1, 0]
    assert "study" not in answer.rows.columns
