"""What a report says of a study, by studies made so that it has to be said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoprune.report import Axis, Growth, StudyFacts, TestedScore, TrialFacts
from autoprune.report.health import findings, rank_correlation
from tests.report.conftest import make_study, make_trial


def said(study: StudyFacts) -> dict[str, str]:
    """Level by sentence."""
    return {finding.sentence: finding.level for finding in findings(study)}


def levels(study: StudyFacts, beginning: str) -> list[str]:
    return [level for sentence, level in said(study).items() if beginning in sentence]


def many(make: Callable[[int], TrialFacts], n: int = 20) -> dict[int, TrialFacts]:
    return {i: make(i) for i in range(n)}


def test_too_few_trials() -> None:
    study = make_study(trials={0: make_trial(0, 0.9, 0.5)}, front=(0,), uniform_front=(), growth=())
    assert levels(study, "Only 1 trial with a result") == ["warning"]


def test_better_than_uniform_and_by_how_much() -> None:
    # Of members 0, 1, 2 at no less cost than the uniform 3 (0.85) all are better: by 0.10, 0.08, 0.05.
    assert levels(make_study(), "3 of 3 members") == ["good"]
    assert any("in the median by 0.08 of accuracy" in sentence for sentence in said(make_study()))


def test_nothing_is_better_than_uniform() -> None:
    study = make_study()
    trials = {n: replace(t, searched={**t.searched, "width_rule": "uniform"}) for n, t in study.trials.items()}
    study = make_study(trials=trials, uniform_front=(4, 3, 2, 1, 0))
    assert levels(study, "Nothing on the front is better than uniform widths") == ["warning"]


def test_a_uniform_network_that_costs_more_than_all_others_is_no_baseline() -> None:
    study = make_study(front=(4, 2, 1), uniform_front=(7,))
    assert levels(study, "Every member with other than uniform widths costs less") == ["note"]
    assert not levels(study, "Nothing on the front is better")


def test_no_baseline() -> None:
    assert levels(make_study(uniform_front=()), "No trial has uniform widths") == ["note"]


def test_bounds_that_are_too_tight_are_told_with_their_end() -> None:
    trials = many(lambda i: make_trial(i, 0.5 + 0.02 * i, 0.1 + 0.04 * i, searched={"strength": 0.01, "bend": 0.5}))
    axes = {"strength": Axis(1e-4, 1e-2, is_log=True), "bend": Axis(0.0, 1.0)}
    study = make_study(trials=trials, front=tuple(range(5)), axes=axes)
    assert levels(study, "5 of 5 members have strength at its upper end, 0.01") == ["warning"]
    assert not levels(study, "bend")


@pytest.mark.parametrize(("slope", "level", "words"), [(1, "good", "foretells"), (-1, "warning", "can't be told")])
def test_how_well_rung_0_foretells(slope: int, level: str, words: str) -> None:
    trials = many(lambda i: make_trial(i, 0.5 + 0.01 * i, 0.5, rungs=(0.3 + slope * 0.01 * i, 0.5 + 0.01 * i)))
    study = make_study(trials=trials, front=(19,))
    assert levels(study, words) == [level]


def test_a_stalled_and_a_growing_hypervolume() -> None:
    stalled = tuple(Growth(i, i, min(0.5, 0.1 * i)) for i in range(1, 31))
    assert levels(make_study(growth=stalled), "will bring little") == ["note"]
    growing = tuple(Growth(i, i, 0.01 * i) for i in range(1, 31))
    assert levels(make_study(growth=growing), "may pay") == ["good"]


def test_members_that_the_test_split_does_not_tell_apart() -> None:
    study = make_study()
    trials = {**study.trials, 1: replace(study.trials[1], tested=TestedScore(0.92, 0.01, 3, True))}
    assert levels(make_study(trials=trials), "1 of 5 members can't be told apart") == ["note"]


def test_a_front_that_was_not_evaluated() -> None:
    study = make_study()
    trials = {n: replace(trial, tested=None) for n, trial in study.trials.items()}
    assert levels(make_study(trials=trials), "autoprune evaluate") == ["note"]


def test_constraints_that_are_broken() -> None:
    assert levels(make_study(), "1 of 8 trials with a result break a constraint (params ≤ 50000)") == ["note"]


def test_failures_of_one_reason_are_counted_together() -> None:
    def fail(i: int) -> TrialFacts:
        return TrialFacts(number=i, state="FAIL", values={}, searched={}, reason=f"out of memory at 0x{i:06x}\nmore")

    trials = {**make_study().trials, **{20 + i: fail(i) for i in range(3)}}
    study = make_study(trials=trials)
    assert levels(study, "4 trials failed: 3 × out of memory at …; 1 × the loss became nan.") == ["warning"]


def test_interrupted_trials_are_none_that_failed() -> None:
    lost = TrialFacts(number=20, state="FAIL", values={}, searched={}, reason="interrupted")
    again = TrialFacts(number=21, state="WAITING", values={}, searched={}, retry_of=20)
    study = make_study(trials={**make_study().trials, 20: lost, 21: again})
    assert levels(study, "1 trial failed: 1 × the loss became nan.")
    assert levels(study, "tried one again that was interrupted or lost its driver or worker") == ["note"]


def test_no_study_is_too_empty_for_it() -> None:
    study = make_study(trials={}, front=(), uniform_front=(), growth=(), groups=())
    assert [finding.level for finding in findings(study)] == ["warning"]


def test_rank_correlation_is_that_of_scipy() -> None:
    from scipy.stats import spearmanr

    one, other = [1.0, 2.0, 2.0, 5.0, 3.0, 8.0], [2.0, 2.0, 1.0, 9.0, 9.0, 4.0]
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) == 0.0
