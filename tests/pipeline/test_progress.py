"""What a running trial tells of its pace."""

from __future__ import annotations

import pytest

from autoprune.config import Progressed
from autoprune.pipeline.progress import Pulse


class Run:
    """Ten steps of 64 images, of which the first takes five seconds and all others one."""

    def __init__(self, images: float) -> None:
        self.now, self.told = 0.0, list[Progressed]()
        self.pulse = Pulse(self.told.append, "finetune", images=images, clock=lambda: self.now)

    def go(self, *, until: int, start: int = 0) -> None:
        for step in range(start, until):
            self.now += 5.0 if step == 0 else 1.0
            self.pulse((step + 1) / 10)


def test_pace_and_time_left_follow_from_all_steps_but_the_first() -> None:
    run = Run(images=64)
    run.go(until=10)
    assert [(word.phase, word.progress) for word in run.told] == [("finetune", k / 10) for k in (1, 3, 5, 7, 9)]
    assert (run.told[0].images_per_s, run.told[0].seconds_left) == (None, None)
    assert [word.images_per_s for word in run.told[1:]] == pytest.approx([64.0] * 4)
    assert [word.seconds_left for word in run.told[1:]] == pytest.approx([7.0, 5.0, 3.0, 1.0])


def test_a_step_that_is_told_otherwise_counts() -> None:
    run = Run(images=64)
    run.go(until=3)
    run.now += 1.0
    run.pulse.count(0.4)
    assert run.pulse.pace(0.4) == pytest.approx((64.0, 6.0))
    assert len(run.told) == 2


def test_without_a_number_of_images_there_is_a_time_all_the_same() -> None:
    run = Run(images=0)
    run.go(until=5)
    rate, left_s = run.pulse.pace(0.5)
    assert rate is None
    assert left_s == pytest.approx(5.0)
