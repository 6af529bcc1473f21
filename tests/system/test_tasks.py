"""Tasks of one's own, each kind from the launch to a file and a test score; one driver is killed on the way."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoprune
from autoprune.engine.asking import answers, drawn_like, repeated
from autoprune.pipeline import example_of, forward_of, read_record

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]


def short(kind: str, *, n_trials: int) -> str:
    """The study file of that name with little training."""
    text = (ROOT / "studies" / "tasks" / f"{kind}.toml").read_text()
    text = re.sub(r'name = "\w+"\nn_trials = \d+', f'name = "tiny"\nn_trials = {n_trials}\nlease_s = 20', text)
    text = re.sub(r"(\[train\.dense\]\nepochs = )[\d.]+", r"\g<1>2", text)
    return re.sub(r"(\[train\.(?:sparsify|finetune)\]\nepochs = )[\d.]+", r"\g<1>0.5", text)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow) for kind in ("two_inputs", "segmentation", "detection", "regression")],
)
def test_from_launch_to_test_score(kind: str, sandbox: Any) -> None:
    (sandbox.folder / "studies").symlink_to(ROOT / "studies")
    (sandbox.folder / "study.toml").write_text(short(kind, n_trials=5))
    assert "channel group" in sandbox.run("inspect", "study.toml")
    first = sandbox.start("launch", "study.toml", "--concurrency", "2")
    if kind == "two_inputs":
        sandbox.wait_for(lambda states: states.count("COMPLETE") >= 2)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert "5 of 5 trials finished" in sandbox.run("resume", "tiny")
    assert first.wait(timeout=300) in (0, -signal.SIGKILL), sandbox.output(first)
    with autoprune.open_study("tiny", sandbox.url) as study:
        metric, trials = study.config.study.metric, study.trials().query("state == 'COMPLETE'")
        front = study.front()
        assert len(trials) == 5
        assert study.hypervolume() >= 0
    best = trials[metric].min() if study.config.study.direction == "minimize" else trials[metric].max()
    assert best in set(front[metric])
    assert metric in sandbox.run("pareto", "tiny")
    number = str(trials.sort_values("macs_ratio").iloc[0]["number"])
    assert metric in sandbox.run("show", "tiny", number)
    sandbox.run("export", "tiny", number, "--to", "net.safetensors")
    sandbox.run("export", "tiny", number, "--to", "net.pt2")
    module = importlib.import_module(f"studies.tasks.{kind}")
    model = autoprune.load_model(sandbox.folder / "net.safetensors", module.network)
    record = read_record(sandbox.folder / "net.safetensors")
    inputs = drawn_like(repeated(example_of(record), 2), torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert all(bool(answer.isfinite().all()) for answer in answers(forward_of(record)(model, inputs)))
    told = sandbox.run("evaluate", "tiny", "--seeds", "1", "--where", f"number == {number}")
    assert f"trial {number}, seed 0" in told
    with autoprune.open_study("tiny", sandbox.url) as study:
        scored = study.evaluations()
    assert (scored["number"].tolist(), scored["seed"].tolist()) == ([int(number)], [0])
    assert metric in scored.columns


SEARCHED = """
import torch
from torch import nn

import autoprune

torch.manual_seed(0)
x = torch.randn(256, 6)
data = torch.utils.data.TensorDataset(x, x[:, :3].sum(1, keepdim=True).tanh())
loader = torch.utils.data.DataLoader(data, batch_size=32)
model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
with torch.no_grad():
    print(float((model(x) - data.tensors[1]).square().mean().sqrt()))
task = autoprune.Task(kind="regression", train=loader, validation=loader, test=loader)
recipe = autoprune.TrainSpec(epochs=2, learning_rate=0.02)
tables = {"engine": {"threads": 1, "precision": "float32"}}
study = autoprune.search(model, task, name="tiny", n_trials=4, finetune=recipe, tables=tables)
assert study.front()["rmse"].is_monotonic_decreasing
"""


def test_a_search_in_python_goes_on_without_the_process_that_began_it(sandbox: Any) -> None:
    (sandbox.folder / "searched.py").write_text(SEARCHED)
    done = subprocess.run(
        [sys.executable, "searched.py"], cwd=sandbox.folder, env={**os.environ, **sandbox.environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (sandbox.folder / "searched.py").unlink()
    assert "5 of 5 trials finished" in sandbox.run("resume", "tiny", "--trials", "5")
    with autoprune.open_study("tiny", sandbox.url) as study:
        trials = study.trials().query("state == 'COMPLETE'")
    assert len(trials) == 5
    # The dense network is the one that was given: nothing was trained before it was scored.
    (dense,) = trials.query("number == 0")["rmse"]
    assert dense == pytest.approx(float(done.stdout.splitlines()[0]), rel=1e-5)


def test_a_search_must_know_its_end() -> None:
    with pytest.raises(autoprune.ConfigError, match="there is no table 'enigne'; did you mean 'engine'"):
        autoprune.search(nn.Linear(1, 1), "mine:task", n_trials=1, tables={"enigne": {}})
    with pytest.raises(autoprune.ConfigError, match="a search must know when to end"):
        autoprune.search(nn.Linear(1, 1), "mine:task")
