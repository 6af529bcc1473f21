"""Phases that must end in time: their schedules go on faster, and they do end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoprune.config import TrainSpec
from autoprune.engine.training import ImageFeed, Pacer, Training, loop
from tests.engine.training.test_loop import RUNTIME, Images, make

torch.set_num_threads(1)


def test_a_shortened_schedule_goes_on_in_longer_steps_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    rate_of = loop.learning_rate

    def remembered(spec: TrainSpec, step: float, n_steps: int) -> float:
        asked.append(step)
        assert n_steps == 10
        return rate_of(spec, step, n_steps)

    monkeypatch.setattr(loop, "learning_rate", remembered)
    recipe = TrainSpec(epochs=5, batch=10, learning_rate=0.01)  # Ten steps over twenty images.
    training, shares = Training(make(), ImageFeed(Images(20)), recipe, runtime=RUNTIME, seed=0), list[float]()

    def on_step(share: float) -> None:
        shares.append(share)
        if training.step == 4:
            training.shorten(7)  # Six planned steps in three.
            training.shorten(9)  # Longer again: no.

    training.run(on_step)
    assert asked == [0, 1, 2, 3, 4, 6, 8]
    assert training.step == training.n_steps == 7
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0])


def test_a_shortened_training_can_be_taken_up_in_the_middle() -> None:
    recipe = TrainSpec(epochs=5, batch=10, learning_rate=0.05)

    def training(model: Any) -> Training:
        return Training(model, ImageFeed(Images(20)), recipe, runtime=RUNTIME, seed=0)

    whole, first, second = make(), make(), make()
    one = training(whole)
    one.run(until=4)
    one.shorten(7)
    one.run()
    begun = training(first)
    begun.run(until=4)
    begun.shorten(7)
    begun.run(until=6)
    resumed = training(second)
    resumed.load_state_dict(begun.state_dict())
    resumed.run()
    assert resumed.step == 7
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items())


class Clocked:
    """A training of made-up steps on a made-up clock."""

    def __init__(self, n_steps: int) -> None:
        self.step, self.n_steps, self.now = 0, n_steps, 0.0

    def shorten(self, n_steps: int) -> None:
        if self.step < n_steps < self.n_steps:
            self.n_steps = n_steps

    def run(self, pacer: Pacer, step_s: float, first_s: float) -> float:
        while self.step < self.n_steps:
            self.now += first_s if self.step == 0 else step_s
            self.step += 1
            pacer.look()
        return self.now


@given(st.integers(30, 3_000), st.floats(0.01, 1.0), st.floats(0.5, 20.0))
def test_a_phase_ends_in_time_and_uses_it(n_steps: int, step_s: float, first_s: float) -> None:
    limit = 30 * step_s + first_s + 40 * step_s
    training = Clocked(n_steps)
    pacer = Pacer(training, lambda: limit - training.now, clock=lambda: training.now)
    ended = training.run(pacer, step_s, first_s)
    assert ended <= limit + 1e-9
    whole = first_s + (n_steps - 1) * step_s
    assert ended >= min(whole, 0.93 * limit - step_s) - 1e-9


def test_a_phase_with_time_enough_is_left_alone() -> None:
    training = Clocked(500)
    Pacer(training, lambda: 1e9, clock=lambda: training.now)
    pacer = Pacer(training, lambda: 600.0 - training.now, clock=lambda: training.now)
    training.run(pacer, 1.0, 1.0)
    assert training.step == 500


def test_without_time_it_ends_at_the_first_look() -> None:
    training = Clocked(500)
    pacer = Pacer(training, lambda: -1.0, clock=lambda: training.now)
    training.run(pacer, 1.0, 1.0)
    assert training.step == 12  # Looked at after ten steps behind the first one; the step under way is taken.
