"""Score all networks of the study on the test split: python ../table.py [more databases], in raw/; writes methods.md.

"Better" than uniform: in all three seeds, and by more than two standard errors of the paired differences.
"""

import contextlib
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

import autoprune
from autoprune.engine.training import accuracy
from autoprune.errors import StorageError
from autoprune.methods import METHODS
from autoprune.pipeline import open_test, open_workbench

SEEDS = (0, 1, 2)
FILES = ("damage", "penalties", "size", "resrep", "aofp", "bwcp")
NAMES = ("methods_cifar10", *(f"methods_cifar10_{file}" for file in FILES))
SCORED = Path("scored.json")  # Test accuracy by the hash of the weights, so that a network is scored once.

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


def studies():
    """Every study of the given databases, with its seed."""
    for storage in ("sqlite:///study.db", *sys.argv[1:]):
        for name in NAMES:
            for seed in SEEDS:
                with contextlib.suppress(StorageError):  # Not run yet.
                    yield seed, autoprune.open_study(f"{name}_{seed}", storage)


scored = json.loads(SCORED.read_text()) if SCORED.exists() else {}
rows = {}
for seed, study in studies():
    setting = study.config.setting
    workbench = open_workbench(setting)
    test, _ = open_test(setting, workbench)
    for trial in study.trials().to_dict("records"):
        if trial["state"] != "COMPLETE":
            continue
        if trial["sha256"] not in scored:
            network = autoprune.load_model(trial["weights"])
            scored[trial["sha256"]] = accuracy(network, test, runtime=workbench.runtime)
            SCORED.write_text(json.dumps(scored))
        method = trial["method"]
        images = [setting.sparsify.epochs if METHODS[method].trains else 0, setting.finetune.epochs]
        ranked = trial.get(f"{method}.scored_by")
        if not isinstance(ranked, str):
            ranked = getattr(METHODS[method].recipe, "scored_by", None)
        name = f"{method}, by {ranked}" if ranked else method
        row = rows.setdefault((name, trial["width_rule"]), {"images": images, "seeds": {}})
        row["seeds"][seed] = (scored[trial["sha256"]], trial["macs_ratio"])

uniform = rows["magnitude", "uniform"]["seeds"]


def test(differences):
    """The verdict on paired differences to uniform."""
    if not differences.any():
        return "–", "–"
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    clear = abs(mean) > 2 * error and (np.sign(differences) == np.sign(mean)).all()
    verdict = ("better" if mean > 0 else "behind") if clear else "level"
    return f"{100 * mean:+.2f} ({100 * error:.2f})", verdict


machine = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/machine.py"))
what = (
    "Accuracy on the 10,000 test images in per cent, seeds 0, 1, 2; s.d. over seeds; difference to `magnitude` with "
    "uniform widths, paired by seed, with its standard error in brackets.\n"
)
lines = [
    f"{machine['summary']()}\n",
    what,
    "| method | width rule | images sparse + fine-tuning | MACs ratio | seeds | mean | s.d. | to uniform | |",
    "|---|---|---:|---:|---|---:|---:|---:|---|",
]
for (method, rule), row in sorted(rows.items(), key=lambda item: -np.mean([s[0] for s in item[1]["seeds"].values()])):
    seeds = sorted(set(row["seeds"]) & set(uniform))
    found = np.array([row["seeds"][seed][0] for seed in seeds])
    difference, verdict = test(found - np.array([uniform[seed][0] for seed in seeds])) if len(seeds) > 1 else ("", "")
    ratios = [row["seeds"][seed][1] for seed in seeds]
    images = " + ".join(f"{128 * round(epochs * 45_000 / 128):,}" for epochs in row["images"])
    lines.append(
        f"| {method} | {rule} | {images} | {min(ratios):.4f} … {max(ratios):.4f} | "
        f"{' '.join(f'{100 * one:.2f}' for one in found)} | {100 * found.mean():.2f} | "
        f"{100 * found.std(ddof=1) if len(found) > 1 else 0:.2f} | {difference} | {verdict} |"
    )
(Path(__file__).parent / "methods.md").write_text("\n".join(lines) + "\n")
