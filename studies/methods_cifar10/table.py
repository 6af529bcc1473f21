"""Score all networks of the study on the test split: python ../table.py [more databases], in raw/; writes methods.md.

"Better" than uniform: in all three seeds, and by more than two standard errors of the paired differences.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import autoprune
from autoprune.engine.training import accuracy
from autoprune.errors import StorageError
from autoprune.evaluation import open_test
from autoprune.workbench import open_workbench

SEEDS = (0, 1, 2)
FILES = ("baselines", "penalties", "resrep", "aofp", "bwcp")
SCORED = Path("scored.json")  # Test accuracy by the hash of the weights, so that a network is scored once.

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))


def studies():
    """Every study of the given databases: which file, which seed, the study."""
    for storage in ("sqlite:///study.db", *sys.argv[1:]):
        for file in FILES:
            for seed in SEEDS:
                with contextlib.suppress(StorageError):  # Not run yet.
                    yield seed, autoprune.open_study(f"methods_cifar10_{file}_{seed}", storage)


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
            scored[trial["sha256"]] = accuracy(network, test, bench=workbench.bench)
            SCORED.write_text(json.dumps(scored))
        images = [0 if trial["method"] == "magnitude" else setting.sparsify.epochs, setting.finetune.epochs]
        row = rows.setdefault((trial["method"], trial["width_rule"]), {"images": images, "seeds": {}})
        row["seeds"][seed] = (scored[trial["sha256"]], trial["macs_ratio"], trial["accuracy"])

uniform = rows["magnitude", "uniform"]["seeds"]


def told(differences):
    """The verdict on paired differences to uniform."""
    if not differences.any():
        return "–", "–"
    mean, error = differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))
    clear = abs(mean) > 2 * error and (np.sign(differences) == np.sign(mean)).all()
    verdict = ("better" if mean > 0 else "behind") if clear else "level"
    return f"{100 * mean:+.2f} ({100 * error:.2f})", verdict


commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
models = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
cpu = models[0] if models else platform.machine()
hardware = f"Hardware: {os.cpu_count()} cores, {cpu}. torch {torch.__version__}. Commit {commit.strip()}.\n"
what = (
    "Accuracy on the 10,000 test images in per cent, seeds 0, 1, 2; s.d. over seeds; difference to `magnitude` with "
    "uniform widths, paired by seed, with its standard error in brackets.\n"
)
lines = [
    hardware,
    what,
    "| method | width rule | images sparse + fine-tuning | MACs ratio | seeds | mean | s.d. | to uniform | |",
    "|---|---|---:|---:|---|---:|---:|---:|---|",
]
for (method, rule), row in sorted(rows.items(), key=lambda item: -np.mean([s[0] for s in item[1]["seeds"].values()])):
    seeds = sorted(set(row["seeds"]) & set(uniform))
    found = np.array([row["seeds"][seed][0] for seed in seeds])
    difference, verdict = told(found - np.array([uniform[seed][0] for seed in seeds])) if len(seeds) > 1 else ("", "")
    ratios = [row["seeds"][seed][1] for seed in seeds]
    images = " + ".join(f"{128 * round(epochs * 45_000 / 128):,}" for epochs in row["images"])
    lines.append(
        f"| {method} | {rule} | {images} | {min(ratios):.4f} … {max(ratios):.4f} | "
        f"{' '.join(f'{100 * one:.2f}' for one in found)} | {100 * found.mean():.2f} | "
        f"{100 * found.std(ddof=1) if len(found) > 1 else 0:.2f} | {difference} | {verdict} |"
    )
(Path(__file__).parent / "methods.md").write_text("\n".join(lines) + "\n")
