"""Which of several precisions and layouts is chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from autoprune.api import load_study
from autoprune.config import (
    LAYOUTS,
    PRECISIONS,
    Numerics,
    paying_from,
    preferred,
    preferred_multiple,
    read_stored,
)
from autoprune.errors import ConfigError

FULL, FULL_PLAIN = Numerics(), Numerics("float32", "contiguous")
HALF, HALF_PLAIN = Numerics("bfloat16"), Numerics("bfloat16", "contiguous")
FLOAT16 = Numerics("float16")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({FULL: 1.0, HALF: 2.8}, FULL),  # A CPU without bfloat16,
        ({FULL: 1.0, HALF: 0.4}, HALF),  # and one with it.
        ({FULL: 1.0, HALF: 0.92}, FULL),  # Nine per cent may be noise,
        ({FULL: 1.0, HALF: 0.9}, HALF),  # eleven are not.
        ({FULL: 1.0, FULL_PLAIN: 0.95, HALF: 0.98, HALF_PLAIN: 0.96}, FULL),
        ({FULL: 1.0, FULL_PLAIN: 0.8, HALF: 0.95, HALF_PLAIN: 0.95}, FULL_PLAIN),
        # bfloat16 is held against the best of float32, not against the usual layout.
        ({FULL: 1.0, FULL_PLAIN: 0.8, HALF: 0.75, HALF_PLAIN: 0.74}, FULL_PLAIN),
        ({FULL: 1.0, FULL_PLAIN: 0.8, HALF: 0.75, HALF_PLAIN: 0.5}, HALF_PLAIN),
        ({FULL: 1.0, HALF: 0.5, FLOAT16: 0.48}, HALF),
        ({FULL: 1.0, HALF: 0.5, FLOAT16: 0.4}, FLOAT16),
        ({FULL_PLAIN: 1.0}, FULL_PLAIN),
        ({HALF: 1.0}, HALF),
    ],
)
def test_float32_unless_another_is_clearly_faster(seconds: dict[Numerics, float], chosen: Numerics) -> None:
    assert preferred(seconds) == chosen
    assert preferred(dict(reversed(seconds.items()))) == chosen


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({1: 1.0, 4: 0.95, 8: 0.92, 16: 0.91}, 1),
        ({1: 1.0, 4: 0.8, 8: 0.79, 16: 0.78}, 4),
        ({1: 1.0, 4: 0.8, 8: 0.7, 16: 0.69}, 8),
        ({1: 1.0, 8: 1.2, 16: 0.8}, 16),
        ({1: 1.0}, 1),
    ],
)
def test_the_least_multiple_that_none_is_clearly_faster_than(seconds: dict[int, float], chosen: int) -> None:
    assert preferred_multiple(seconds) == chosen


def test_compiling_pays_for_long_phases_of_much_faster_steps() -> None:
    assert paying_from(30.0, 0.05, 0.03) == 1500
    assert paying_from(30.0, 0.05, 0.046) is None


def test_noise_below_the_margin_never_decides() -> None:
    for slower in (0.955, 1.0, 1.045):
        seconds = {Numerics(p, x): 1.0 for p in PRECISIONS for x in LAYOUTS} | {FULL: slower}
        assert preferred(seconds) == FULL


def test_a_stored_study_is_as_it_was_before_there_was_a_choice(write_study: Any, tmp_path: Path) -> None:
    """Neither may a key appear, which would be a revision, nor may the default of today be read into it."""
    for precision in ("float32", "bfloat16"):
        config = load_study(write_study(tmp_path, engine=f'precision = "{precision}"\nartifacts = "x"'))
        stored = config.to_dict()
        assert "layout" not in stored["setting"]
        assert read_stored(stored) == config
        assert read_stored(stored).to_dict() == stored
        assert (config.setting.is_measured, config.setting.numerics) == (False, Numerics(precision))
    del stored["setting"]["precision"]
    assert read_stored(stored).setting.precision == "float32"


def test_a_new_study_file_leaves_it_to_be_measured(write_study: Any, tmp_path: Path) -> None:
    config = load_study(write_study(tmp_path, engine='artifacts = "x"'))
    assert config.setting.is_measured
    chosen = dataclasses.replace(config, setting=config.setting.computed_in(HALF_PLAIN))
    assert not chosen.setting.is_measured
    assert read_stored(chosen.to_dict()).setting.numerics == HALF_PLAIN
    laid = load_study(write_study(tmp_path, engine='layout = "contiguous"\nartifacts = "x"'))
    assert (laid.setting.is_measured, laid.setting.numerics) == (True, FULL_PLAIN)


def test_multiples_and_compiling_are_left_open_by_auto_alone(write_study: Any, tmp_path: Path) -> None:
    network = 'architecture = "resnet_digits"\nmultiple = "auto"'
    asked = load_study(write_study(tmp_path, network=network, engine='precision = "float32"\ncompile = "auto"'))
    assert (asked.setting.is_open, asked.setting.is_measured) == (True, False)
    assert (asked.setting.network.width_multiple, asked.setting.compiled_from) == (1, None)
    settled = dataclasses.replace(asked.setting.with_multiple(8), compile=400)
    assert (settled.is_open, settled.network.width_multiple, settled.compiled_from) == (False, 8, 400)
    for asked_for, least in ((True, 1), (False, None), (1, 1)):
        assert dataclasses.replace(settled, compile=asked_for).compiled_from == least
    with pytest.raises(ConfigError, match="`compile` must be true, false or a number of steps, but got -1"):
        dataclasses.replace(settled, compile=-1)
    with pytest.raises(ConfigError, match=r"there is no choice 'some'\. Valid: auto"):
        load_study(write_study(tmp_path, network='architecture = "resnet_digits"\nmultiple = "some"'))
