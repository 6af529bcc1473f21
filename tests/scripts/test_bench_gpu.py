"""`scripts/bench gpu` in its short form on the CPU: every part says something, and none stops the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import bench_gpu
import pytest
from bench_gpu import ALL, Part, environment, installed, run, table
from bench_gpu_parts import PARTS
from bench_widths import AtWidth, beside_multiples, macs_of, network

from autoprune.engine.tracing import trace

SCRIPT = Path(bench_gpu.__file__)


def bench(folder: Path, *options: str, timeout_s: float) -> tuple[int, dict, str]:
    command = [sys.executable, str(SCRIPT), "gpu", "--short", "--to", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert (folder / "gpu.md").exists(), done.stderr
    return done.returncode, json.loads((folder / "gpu.json").read_text()), (folder / "gpu.md").read_text()


def test_parts_are_what_is_run() -> None:
    assert [part.name for part in ALL] == list(PARTS)
    assert sum(part.seconds for part in ALL) <= 8 * 60 - 120  # The front has two minutes at least.


@pytest.mark.slow
def test_the_short_form_of_the_parts_that_take_seconds(tmp_path: Path) -> None:
    code, found, text = bench(tmp_path, "--parts", "device", "networks", "widths", timeout_s=500)
    assert (code, list(found["parts"])) == (0, ["device", "networks", "widths"])
    assert all(part["why"] is None for part in found["parts"].values())
    assert "| networks | resnet20 | cut in " in text
    (training, scoring) = found["parts"]["widths"]["rows"]
    assert training["16"] == scoring["16"] == 1.0


def test_a_part_that_fails_or_takes_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "GRACE_S", 0.0)
    broken = run(Part("nothing", "what is not there", 1), 60.0, arguments=[], env=environment(None))
    assert "invalid choice: 'nothing'" in broken["why"]
    slow = run(Part("front", "a front", 1), 0.5, arguments=["--short"], env=environment(None))
    assert (slow["why"], slow["rows"]) == ("it took too long", [])
    lines = table({"parts": {"nothing": broken, "front": slow}}).splitlines()
    assert lines[0] == "| part | what | figure |"
    assert [line.count(" | ") for line in lines[2:]] == [2, 2]
    assert "**ended**: it took too long" in lines[3]


def test_wheels_are_installed_without_what_they_need(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="must name a folder of wheels"):
        installed(tmp_path, tmp_path / "site")
    own = environment(tmp_path)["PYTHONPATH"].split(":")
    assert own[:3] == [str(SCRIPT.parents[1]), str(SCRIPT.parent), str(tmp_path)]
    (tmp_path / "autoprune").mkdir()
    assert environment(tmp_path)["PYTHONPATH"].split(":")[0] == str(tmp_path)


def test_macs_of_a_width() -> None:
    import torch

    assert trace(network(9).eval(), torch.zeros(1, 3, 16, 16)).cost.dense_macs == macs_of(9)
    found = [AtWidth(16, 100, 1.0, 1.0), AtWidth(17, 110, 2.2, 1.1), AtWidth(32, 400, 2.0, 4.0)]
    assert beside_multiples(found) == [(16, 2.0, 1.0), (17, pytest.approx(4.0), 1.0), (32, 1.0, 1.0)]


@pytest.mark.slow
@pytest.mark.ray
def test_the_whole_short_form(tmp_path: Path) -> None:
    code, found, text = bench(tmp_path, timeout_s=570)
    assert code == 0, text
    assert list(found["parts"]) == list(PARTS)
    assert {"launch to the first trial", "complete trials"} <= {row["what"] for row in found["parts"]["study"]["rows"]}
