"""A study file that names no precision, from its launch to a resume, in processes of their own."""

from __future__ import annotations

import re
from typing import Any

import pytest

import autoprune
from autoprune.config import PRECISIONS
from tests.system.conftest import STUDY


@pytest.mark.slow
def test_what_a_launch_measures_a_resume_keeps(sandbox: Any) -> None:
    text = STUDY.replace('precision = "float32"\n', "")
    sandbox.write(n_trials=2, text=text, epochs=0.1)
    told = sandbox.run("launch", "study.toml")
    found = re.search(r"computed in (\w+) ([\w-]+), as measured; images trained a second by each trial: ", told)
    assert found is not None, told
    precision, layout = found[1], found[2].replace("-", "_")
    assert precision in PRECISIONS
    with autoprune.open_study("tiny", sandbox.url) as study:
        setting, identity = study.config.setting, study.handle.identity
    assert (setting.precision, setting.layout, identity["precision"]) == (precision, layout, precision)
    told = sandbox.run("resume", "tiny", "--trials", "3")
    assert "computed in" not in told
    with autoprune.open_study("tiny", sandbox.url) as study:
        assert study.config.setting == setting
        assert study.counts().finished == 3
