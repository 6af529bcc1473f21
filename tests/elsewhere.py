"""Answers of exported files in a fresh process in which autoprune can't be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_SCRIPT = """
import json, sys

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "autoprune":
            raise ImportError("autoprune must not be needed")

sys.meta_path.insert(0, Wall())
try:
    import autoprune
except ImportError as error:
    assert "must not be needed" in str(error)
else:
    raise SystemExit("the wall has a hole")

import numpy as np
import torch

for model, images, logits in json.loads(sys.argv[1]):
    x = np.load(images)
    if model.endswith(".pt2"):
        with torch.no_grad():
            y = torch.export.load(model).module()(torch.from_numpy(x)).numpy()
    elif model.endswith(".py"):
        import runpy
        with torch.no_grad():
            y = runpy.run_path(model)["load"]()(torch.from_numpy(x)).numpy()
    else:
        import onnxruntime
        (y,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"images": x})
    np.save(logits, y)
assert not any(name.split(".")[0] == "autoprune" for name in sys.modules)
"""


def answers(jobs: Mapping[tuple[Path, int], Tensor], folder: Path) -> dict[tuple[Path, int], Tensor]:
    """Logits of files on images.

    Args:
        jobs: Images, shape (N, C, H, W), by file and any number.
        folder: For what passes between the processes.
    """
    table, places = [], {}
    for index, ((path, number), images) in enumerate(jobs.items()):
        np.save(folder / f"x{index}.npy", images.numpy())
        places[path, number] = folder / f"y{index}.npy"
        table.append([str(path), str(folder / f"x{index}.npy"), str(folder / f"y{index}.npy")])
    # Started elsewhere, so that the checkout is not on its path either.
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(table)], capture_output=True, text=True, timeout=300, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return {job: torch.from_numpy(np.load(place)) for job, place in places.items()}
