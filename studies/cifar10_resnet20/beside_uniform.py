"""Put each point of the front beside uniform widths of the same cost that were cut but not trained.

Run in the folder that holds the study's database: python ../beside_uniform.py > ../front.md
"""

import copy
import runpy
from pathlib import Path

import numpy as np

import autoprune
from autoprune.cost import Limits, fit
from autoprune.engine.files import PhaseStore
from autoprune.engine.surgery import cut
from autoprune.engine.training import accuracy, recalibrate
from autoprune.methods import build
from autoprune.pipeline import open_workbench
from autoprune.widths import keep_best

study = autoprune.open_study("cifar10_resnet20", "sqlite:///study.db")
setting = study.config.setting
workbench = open_workbench(setting)
cost, groups = workbench.traced.cost, workbench.traced.groups
dense = workbench.with_weights(workbench.dense(PhaseStore(Path(setting.artifacts) / "phases")).tensors)
scores = build("magnitude", {}).rank(dense, workbench.traced, state={}, batches=())

machine = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/machine.py"))
print(machine["summary"](), end="\n\n")
print("| trial | macs_ratio | accuracy | uniform, untrained | method | widths | strengths |")
print("|---:|---:|---:|---:|---|---|---|")
better = []
for row in study.front().to_dict("records"):
    widths = fit(cost, Limits(macs=row["macs_ratio"] * cost.dense_macs))
    plain = cut(copy.deepcopy(dense), groups, keep_best(cost, scores, widths))
    if row["macs_ratio"] < 1:
        recalibrate(
            plain, workbench.splits.train, runtime=workbench.runtime, n_images=setting.recalibration_images, seed=0
        )
    beside = accuracy(plain, workbench.splits.validation, runtime=workbench.runtime)
    better.append(row["accuracy"] > beside or row["macs_ratio"] == 1)
    figures = [f"{row['number']:.0f}", f"{row['macs_ratio']:.4f}", f"{row['accuracy']:.4f}", f"{beside:.4f}"]
    print(f"| {' | '.join([*figures, row['method'], row['width_rule'], row['hyper']])} |")
print(f"\nHypervolume {study.hypervolume():.4f} up to {study.reference_point}.")
print(
    f"Better than untrained uniform widths at {int(np.sum(better))} of {len(better)} points (the dense one is itself)."
)
