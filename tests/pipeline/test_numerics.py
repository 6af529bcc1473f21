"""Timing a network in several precisions and layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.api import load_study
from autoprune.config import Numerics, SettingSpec
from autoprune.engine.files import PhaseStore
from autoprune.pipeline import numerics_here, open_workbench, time_numerics
from autoprune.pipeline.numerics import _pruned, race
from tests.digits_task import TABLES

FULL, PLAIN, HALF, FAILS = Numerics(), Numerics("float32", "contiguous"), Numerics("bfloat16"), Numerics("float16")


class Clock:
    """A machine on which steps take as long as is said, and every third round is a busy moment."""

    def __init__(self) -> None:
        self.now, self.taken = 0.0, dict[Numerics, int]()

    def __call__(self) -> float:
        return self.now

    def steps(self, numerics: Numerics, step_s: float) -> Iterator[None]:
        for turn in range(100):
            self.taken[numerics] = turn + 1
            self.now += step_s * (5.0 if turn == 0 else 3.0 if turn % 3 == 0 else 1.0)
            yield


def broken() -> Iterator[None]:
    yield
    raise RuntimeError("this operator is not there in half precision")


def test_a_race_is_told_by_medians_and_slow_ones_leave_early() -> None:
    clock = Clock()
    speeds = {FULL: 0.1, PLAIN: 0.12, HALF: 0.3}
    steps = {each: clock.steps(each, step_s) for each, step_s in speeds.items()}
    assert race({**steps, FAILS: broken()}, clock=clock, timed_s=2.5) == pytest.approx(speeds)
    assert clock.taken[HALF] == 2  # To warm up, and timed once.
    assert clock.taken[FULL] == clock.taken[PLAIN] > 5


def test_a_race_ends_in_time_and_times_everything_once() -> None:
    clock = Clock()
    steps = {each: clock.steps(each, 30.0) for each in (FULL, PLAIN)}
    assert race(steps, clock=clock, timed_s=2.5) == pytest.approx({FULL: 30.0, PLAIN: 30.0})
    assert clock.taken == {FULL: 2, PLAIN: 2}
    assert race({FAILS: broken()}, clock=clock) == {}


@pytest.fixture
def setting_of(write_study: Callable[..., Path], tmp_path: Path, artifacts: Path) -> Callable[..., SettingSpec]:
    def make(engine: str = "", **tables: Any) -> SettingSpec:
        table = f'artifacts = "{artifacts}"\nthreads = 1\n{engine}'
        return load_study(write_study(tmp_path, engine=table, **tables)).setting

    return make


def test_the_digits_network_is_timed_for_real(setting_of: Callable[..., SettingSpec]) -> None:
    setting = setting_of()
    candidates = numerics_here(setting)
    assert candidates[:2] == [FULL, PLAIN]
    assert (FAILS in candidates) == torch.accelerator.is_available()
    before = torch.random.get_rng_state()
    seconds = time_numerics(setting, candidates)
    assert list(seconds) == candidates
    assert all(1e-6 < example_s < 0.1 for example_s in seconds.values())
    assert torch.equal(torch.random.get_rng_state(), before)
    (group, *_) = open_workbench(setting).traced.groups
    assert dict(_pruned(open_workbench(setting), 1)[0].named_parameters())[f"{group.name}.weight"].shape[0] % 2 == 1
    layouts = {each.layout for each in numerics_here(setting_of('layout = "contiguous"'))}
    assert layouts == {"contiguous"}


def test_a_task_of_one_s_own_is_timed(setting_of: Callable[..., SettingSpec]) -> None:
    study = 'name = "own"\nreference_point = { rmse = 2.0, macs_ratio = 1.0 }'
    seconds = time_numerics(setting_of(study=study, **TABLES), [FULL, HALF])
    assert list(seconds) == [FULL, HALF]
    assert all(1e-6 < example_s < 0.1 for example_s in seconds.values())


def test_float32_by_name_trains_bit_by_bit_as_before_there_was_a_choice(
    setting_of: Callable[..., SettingSpec], tmp_path: Path
) -> None:
    train = 'dense = { epochs = 0.5, augmentation = "shift" }'
    named, open_ = (setting_of(engine, train=train) for engine in ('precision = "float32"', ""))
    runtime = open_workbench(named).runtime
    assert (runtime.precision, runtime.memory_format) == ("float32", torch.channels_last)
    chosen = open_.computed_in(FULL)
    phases = [open_workbench(each).dense(PhaseStore(tmp_path / str(i))) for i, each in enumerate((named, chosen))]
    assert phases[0].sha256 == phases[1].sha256
    assert open_workbench(named).identity == open_workbench(chosen).identity == open_workbench(open_).identity
    assert open_workbench(open_.computed_in(PLAIN)).runtime.memory_format is torch.contiguous_format
