"""A machine that runs out of memory, for real: Ray then ends workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_EATER = """
import sys, time
held = bytearray(int(sys.argv[1]))
for i in range(0, len(held), 4096):
    held[i] = 1
time.sleep(float(sys.argv[2]))
"""


def _memory() -> tuple[float, float]:
    """Bytes of this machine, and those of them that are taken."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, left = (float(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total, total - left


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_trials_whose_machine_runs_out_of_memory_are_tried_again(lone_sandbox):
    lone_sandbox.write(n_trials=1, epochs=300)
    lone_sandbox.run("launch", "study.toml")
    total, taken = _memory()
    spare = 4 * 2**30  # What workers may take; what comes on top of it is too much.
    lone_sandbox.environment |= {
        "RAY_memory_usage_threshold": str((taken + spare) / total), "RAY_memory_monitor_refresh_ms": "100",
    }  # fmt: skip
    driver = lone_sandbox.start("resume", "tiny", "--trials", "3")
    lone_sandbox.wait_for(lambda states: "running 2" in lone_sandbox.output(driver))
    subprocess.run([sys.executable, "-c", _EATER, str(spare), "1"], check=True, timeout=120)
    assert driver.wait(240) == 0, lone_sandbox.output(driver)
    assert "Traceback" not in lone_sandbox.output(driver)
    reasons = [trial.user_attrs.get("reason", "") for trial in lone_sandbox.trials()]
    assert any("the worker died: out of memory" in reason for reason in reasons)
