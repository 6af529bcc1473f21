"""What workers print and log, on demand."""

from __future__ import annotations

import re

import pytest

from tests.system.conftest import Sandbox

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_workers_logs_come_to_the_terminal(sandbox: Sandbox) -> None:
    sandbox.write(n_trials=1, epochs=0.25)
    told = sandbox.run("launch", "study.toml", "--verbose")
    assert re.search(r"pid=\d+\) INFO autoprune\.pipeline\.trial: answers moved by ", told), told
    assert "1 of 1 trials finished" in told
    quiet = sandbox.run("resume", "tiny", "--trials", "2")
    assert "pid=" not in quiet
