"""Reports: what is read from the database for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from autoprune import api
from autoprune.api import _reporting
from autoprune.api._importances import importances
from autoprune.config import load_study
from autoprune.errors import ConfigError, StorageError
from autoprune.methods import catalogue
from autoprune.report import Group, StudyFacts, TrialFacts
from autoprune.search.front import EvaluationRows, TestScore
from autoprune.search.storage import Database, StudyHandle
from autoprune.search.trials import Claim, Lifecycle, Proposal


def facts_of(study: Any) -> StudyFacts:
    return _reporting._facts_of(api.open_study("digits", study.url), None)


def test_facts_are_those_of_the_study(finished: Any) -> None:
    facts, study = facts_of(finished), api.open_study("digits", finished.url)
    assert list(facts.front) == study.front()["number"].tolist()
    assert facts.growth[-1].hypervolume == pytest.approx(study.hypervolume(), rel=1e-12)
    assert [growth.number for growth in facts.growth] == [0, 1, 2, 3]
    assert [trial.state for trial in facts.trials.values()] == [*["COMPLETE"] * 4, "PRUNED", "FAIL", "RUNNING"]
    assert facts.trials[4].values == {"accuracy": 0.4}
    assert facts.trials[5].reason == "the loss became nan"
    assert facts.trials[6].ended_s is None
    config = study.config
    assert facts.axes["macs_target"].low == config.space.macs_target.low
    assert facts.groups[0].name == "conv1"
    assert facts.trials[0].searched["method"] in config.space.methods


def test_a_minimised_metric(finished_by_rmse: Any) -> None:
    facts, study = facts_of(finished_by_rmse), api.open_study("digits", finished_by_rmse.url)
    assert not facts.metric_is_maximised
    assert facts.growth[-1].hypervolume == pytest.approx(study.hypervolume(), rel=1e-12)
    assert "rmse" in api.report_page("digits", storage=finished_by_rmse.url)


def test_test_scores_come_with_their_deviation(finished: Any) -> None:
    db = Database.open(finished.url, create=False)
    rows = EvaluationRows(db, StudyHandle.open(db, "digits").study_id)
    for seed, score in enumerate([0.9, 0.92, 0.94]):
        rows.add(TestScore(1, seed, "f", score, 100, 1.0))
    rows.add(TestScore(2, 0, "f", 0.8, 100, 1.0))
    db.close()
    facts = facts_of(finished)
    several, single = facts.trials[1].tested, facts.trials[2].tested
    assert several is not None
    assert single is not None
    assert (several.mean, several.sd, several.n_seeds) == (pytest.approx(0.92), pytest.approx(0.02), 3)
    assert (single.mean, single.sd, single.n_seeds, single.like_next) == (0.8, None, 1, None)
    assert facts.trials[0].tested is None


def test_the_dense_network_is_no_baseline_of_uniform_widths() -> None:
    def trial(number: int, rule: str, width: int) -> TrialFacts:
        searched, widths = {"width_rule": rule}, {"conv1": width}
        return TrialFacts(number=number, state="COMPLETE", values={}, searched=searched, widths=widths)

    trials = [trial(0, "uniform", 16), trial(1, "uniform", 8), trial(2, "global", 8)]
    assert [t.number for t in _reporting._cut_uniformly(trials, [Group("conv1", 16, "stem")])] == [1]
    assert [t.number for t in _reporting._cut_uniformly(trials, [])] == [0, 1], "a study without a network"


def test_there_is_news_where_the_database_has_changed(finished: Any) -> None:
    live = api.LiveReport("digits", storage=finished.url)
    first = live.version()
    assert live.version() == first
    db = Database.open(finished.url, create=False)
    study = StudyHandle.open(db, "digits")
    running = study.trials()[6]
    lifecycle = Lifecycle(study, owner="here:1:abc", n_trials=10)
    lifecycle.complete(running._trial_id, (0.99, 0.9), {"accuracy": 0.99, "macs_ratio": 0.9})
    second = live.version()
    assert second != first
    assert "0.9900" in live.render(second)
    EvaluationRows(db, study.study_id).add(TestScore(1, 0, "f", 0.9, 100, 1.0))
    third = live.version()
    assert third != second
    config = {**study.config["config"], "constraints": {"macs_ratio": 0.5, "params": None, "latency_ms": None}}
    StudyHandle.create_or_join(
        db, name="digits", identity=study.identity, config={**study.config, "config": config},
        directions=study.directions, objectives=study.objectives,
    )  # fmt: skip
    db.close()
    assert live.version() != third
    assert "macs_ratio ≤ 0.5" in live.render()


def test_what_can_t_be_shown_is_refused(finished: Any, finished_by_params: Any) -> None:
    with pytest.raises(ConfigError, match="both are 'digits'"):
        api.report_page("digits", "digits", storage=finished.url)
    with pytest.raises(StorageError, match="there is no study 'digit'; did you mean 'digits'"):
        api.report_page("digits", "digit", storage=finished.url)
    db = Database.open(finished.url, create=False)
    other = api.open_study("digits", finished_by_params.url).handle
    StudyHandle.create_or_join(
        db, name="by params", identity=other.identity, config=other.config, directions=other.directions,
        objectives=other.objectives,
    )  # fmt: skip
    db.close()
    with pytest.raises(ConfigError, match="must have the same objectives to be compared, but 'digits' has accuracy "):
        api.report_page("digits", "by params", storage=finished.url)


def test_trials_of_another_tool_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    """Without a proposal of ours, without widths, without a cost model; the growth of many random trials is right."""
    url, draw = f"sqlite:///{tmp_path}/study.db", random.Random(0)
    config = load_study(Path(__file__).parents[2] / "studies" / "digits" / "study.toml", catalogue())
    db = Database.open(url, create=True)
    study = StudyHandle.create_or_join(
        db, name="digits", identity={}, config={"config": config.to_dict()}, directions=["maximize", "minimize"]
    )
    lifecycle = Lifecycle(study, owner="x", n_trials=60)
    for i in range(60):
        claim = lifecycle.claim(Proposal(params={}, distributions={}, key=str(i), attrs={"method": "m"}))
        assert isinstance(claim, Claim)
        lifecycle.complete(claim.trial_id, (draw.randrange(5, 10) / 10, draw.randrange(1, 20) / 20), {})
    db.close()
    facts = _reporting._facts_of(api.open_study("digits", url), None)
    hypervolumes = [growth.hypervolume for growth in facts.growth]
    assert hypervolumes == sorted(hypervolumes)
    assert hypervolumes[-1] == pytest.approx(api.open_study("digits", url).hypervolume(), rel=1e-12)
    assert "<h1>digits</h1>" in api.report_page("digits", storage=url)


def test_device_time_counts_what_ran_at_once_twice() -> None:
    def ran(number: int, begin: float, end: float) -> TrialFacts:
        return TrialFacts(number=number, state="COMPLETE", values={}, searched={}, started_s=begin, ended_s=end)

    spent = _reporting._device_seconds([ran(0, 100, 110), ran(1, 105, 115), ran(2, 200, 201)])
    assert spent == {0: 15.0, 1: 20.0, 2: 21.0}


def test_importances_find_what_matters_and_say_where_they_can_t() -> None:
    draw = random.Random(0)

    def trial(number: int) -> TrialFacts:
        target, method = draw.random(), draw.choice(["a", "b"])
        searched = {"macs_target": target, "method": method, "noise": draw.random()}
        if number % 2:
            searched["strength"] = 0.1  # not of all trials, so not compared
        values = {"accuracy": 0.5 + 0.4 * target + (0.02 if method == "a" else 0), "macs_ratio": 0.5}
        return TrialFacts(number=number, state="COMPLETE", values=values, searched=searched)

    trials = [trial(i) for i in range(60)]
    score, cost = importances(trials, ["accuracy", "macs_ratio"])
    assert score.rows[0].parameter == "macs_target"
    assert score.rows[0].share > 0.5
    assert {row.parameter for row in score.rows} == {"macs_target", "method", "noise"}
    assert sum(row.share for row in score.rows) == pytest.approx(1)
    assert (cost.rows, cost.note) == ((), "All trials have the same macs_ratio.")
    (few,) = importances(trials[:11], ["accuracy"])
    assert few.note == "Too few trials to tell: 11 with a result, 12 are needed."
