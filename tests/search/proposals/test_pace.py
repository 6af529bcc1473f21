"""Seconds of training, told from trials."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from autoprune.search.proposals import Pace

MEASURED = Pace(base_s=0.001, macs_s=0.003, overhead_s=2.0)


def ran(macs_ratio: float, images: int, finetune_s: float, **more: Any) -> FrozenTrial:
    wall_s = {"dense": 9.0, "finetune": finetune_s, "surgery": 1.0, "scoring": 3.0}
    attrs = {"macs_ratio": macs_ratio, "images": images, "wall_s": wall_s, **more}
    return create_trial(state=TrialState.COMPLETE, values=[0.9, macs_ratio], user_attrs=attrs)


def test_seconds_and_images_are_each_other_s_inverse() -> None:
    assert MEASURED.seconds(1000, 0.5) == pytest.approx(2 + 1000 * 0.0025)
    assert MEASURED.n_images(4.5, 0.5) == pytest.approx(1000)
    assert MEASURED.n_images(1.0, 0.5) == 0


def test_without_trials_it_stays() -> None:
    assert MEASURED.after([]).seconds(1000, 0.3) == pytest.approx(MEASURED.seconds(1000, 0.3))


@given(st.floats(1e-4, 1e-2), st.floats(1e-4, 1e-2))
def test_many_trials_of_a_slower_machine_are_believed(base_s: float, macs_s: float) -> None:
    history = [ran(r / 20, 10_000, 10_000 * (base_s + macs_s * r / 20)) for r in range(1, 21)] * 20
    found = MEASURED.after(history)
    assert found.seconds(1e6, 0.3) == pytest.approx(1e6 * (base_s + 0.3 * macs_s), rel=0.15)
    assert found.overhead_s == pytest.approx(4.0)


def test_no_term_is_negative() -> None:
    history = [ran(0.1, 1000, 9.0), ran(0.9, 1000, 1.0)] * 30  # Slower where it is cheaper: noise.
    found = MEASURED.after(history)
    assert found.base_s >= 0
    assert found.macs_s >= 0
    assert found.n_images(10, 0.5) > 0


def test_results_that_were_taken_over_or_not_trained_say_nothing() -> None:
    others = [ran(0.5, 1000, 900.0, taken_over_from=0), ran(1.0, 0, 900.0)]
    assert MEASURED.after(others) == MEASURED.after([])
