"""Networks that people bring, from the launch to a file that runs without autoprune: a CNN of timm's, a transformer,
and one with group normalisations, on colour images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import autoprune

pytestmark = pytest.mark.ray

MINE = """
import numpy as np
import timm
import torch
from torch import nn


def images():
    # Ten colours with noise, so that something can be learnt in seconds.
    generator = np.random.default_rng(0)
    labels = np.arange(600) % 10
    colours = generator.integers(0, 255, (10, 1, 1, 3))
    pixels = np.clip(colours[labels] + generator.normal(0, 20, (600, 32, 32, 3)), 0, 255).astype(np.uint8)
    pixels = pixels.transpose(0, 3, 1, 2)
    return {"train": (pixels[:500], labels[:500]), "test": (pixels[500:], labels[500:])}


def cnn():
    return timm.create_model("mobilenetv3_small_050", num_classes=10)


def transformer():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=4, num_classes=10
    )


def groups():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )
"""

STUDY = """
[study]
name = "{name}"
n_trials = 6
lease_s = 30

[space]
methods = ["*"]
width_rules = ["uniform", "global"]
macs_target = {{ low = 0.2, high = 0.8 }}

[network]
factory = "mine:{name}"

[data]
source = "factory"
factory = "mine:images"
mean = [0.5, 0.5, 0.5]
std = [0.3, 0.3, 0.3]

[train.dense]
epochs = 1
learning_rate = 0.02

[train.finetune]
epochs = 0.5
learning_rate = 0.01

[engine]
precision = "float32"
recalibration_images = 200
threads = 1
"""


@pytest.mark.parametrize(
    "name", ["cnn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("transformer", "groups"))]
)
def test_from_launch_to_onnx(sandbox: Any, name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    (sandbox.folder / "mine.py").write_text(MINE)
    (sandbox.folder / "study.toml").write_text(STUDY.format(name=name))
    assert "can't be pruned" not in sandbox.run("inspect", "study.toml")
    sandbox.run("launch", "study.toml", "--concurrency", "2")
    with autoprune.open_study(name, sandbox.url) as study:
        trials = study.trials().query("state == 'COMPLETE'").sort_values("macs_ratio")
    assert len(trials) == 6
    smallest = trials.iloc[0]
    assert smallest["macs_ratio"] <= 0.25
    number = str(smallest["number"])
    sandbox.run("export", name, number, "--to", "net.onnx")
    sandbox.run("export", name, number, "--to", "net.safetensors")
    session = onnxruntime.InferenceSession(sandbox.folder / "net.onnx")
    pixels = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    (answer,) = session.run(None, {session.get_inputs()[0].name: pixels})
    assert answer.shape == (3, 10)
    theirs: dict[str, Any] = {}
    exec(MINE, theirs)
    model = autoprune.load_model(sandbox.folder / "net.safetensors", theirs[name])
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels)).numpy()
    assert np.abs(answer - expected).max() <= 1e-3 * np.abs(expected).max()
