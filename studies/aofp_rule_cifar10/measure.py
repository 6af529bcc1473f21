"""Cut a network to ladders of MACs targets by width rule and ranking, recalibrate, and score: nothing is trained.

python ../measure.py ../study.toml > ../resnet20.md; python ../measure.py ../vgg16.toml > ../vgg16.md, in raw/.
"""

import os
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

from autoprune import methods
from autoprune.config import load_study
from autoprune.engine.files import PhaseStore
from autoprune.engine.measuring import measure_damages
from autoprune.engine.surgery import cut
from autoprune.engine.training import Samples, accuracy, recalibrate
from autoprune.pipeline import open_workbench
from autoprune.widths import WIDTH_RULES, Evidence, keep_best, largest_damage

TARGETS, SEEDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0, 1, 2)

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
setting = load_study(Path(sys.argv[1]), methods.catalogue()).setting
workbench = open_workbench(setting)
splits, runtime, traced = workbench.splits, workbench.runtime, workbench.traced
cost = traced.cost
phase = workbench.dense(PhaseStore(Path(setting.artifacts) / "phases"))
dense = workbench.with_weights(phase.tensors)

# What the damage and the rankings are measured on, and the passes over it that each way takes.
samples = Samples(splits.train, runtime, setting.recalibration_images, seed=0)
passes = []
handle = dense.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
damages = measure_damages(dense, traced, batches=samples)
handle.remove()
rankings = {
    name: methods.build(name, {}).rank(dense, traced, state={}, batches=samples) for name in ("magnitude", "damage")
}


def scored(ranking, rule, target):
    """Accuracy for each recalibration seed, the network's share of the MACs, and the largest damage done to a group."""
    limits = workbench.limits(macs_target=target)
    scores = rankings[ranking]
    kept = keep_best(cost, scores, WIDTH_RULES[rule].widths(Evidence(cost, scores, measure=lambda: damages), limits))
    found = []
    for seed in SEEDS:
        pruned = cut(dense, traced.groups, kept)
        recalibrate(pruned, splits.train, runtime=runtime, n_images=setting.recalibration_images, seed=seed)
        found.append(accuracy(pruned, splits.validation, runtime=runtime))
    ratio = cost.macs_ratio({name: len(indices) for name, indices in kept.items()})
    return np.array(found), ratio, largest_damage(damages, kept)


machine = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/machine.py"))
print(
    f"{machine['summary']()} Dense network: {cost.dense_macs:,} MACs, "
    f"validation accuracy {phase.record['accuracy']:.4f}.\n"
)
print("| ranking | macs_ratio | uniform | aofp | ahead by | θ |\n|---|---:|---:|---:|---:|---:|")
for ranking in rankings:
    ahead = []
    for target in TARGETS:
        (uniform, _, _), (aofp, ratio, theta) = (scored(ranking, rule, target) for rule in ("uniform", "aofp"))
        ahead.append(aofp - uniform)
        shown = [f"{values.mean():.4f} ± {values.std(ddof=1):.4f}" for values in (uniform, aofp)]
        print(f"| {ranking} | {ratio:.4f} | {' | '.join(shown)} | {ahead[-1].mean():+.4f} | {theta:.4f} |", flush=True)
    by_target, by_seed = (np.array(ahead).mean(axis) for axis in (1, 0))
    errors = [each.std(ddof=1) / len(each) ** 0.5 for each in (by_target, by_seed)]
    mean = f"{by_target.mean():+.4f}, standard error {errors[0]:.4f} over targets, {errors[1]:.4f} over seeds"
    print(f"| {ranking} | mean | | | {mean} | |", flush=True)
n_channels, n_images = sum(cost.dense), passes[-1]
n_passes = sum(size == n_images for size in passes)  # One more, of a single input, sees where the BatchNorms are.
print(
    f"\nForward passes: aofp made {n_passes}, of {n_images} images each, for all groups, θ and targets together. To "
    f"ablate each of the {n_channels} channels in turn takes {n_channels * n_passes:,} on the same images, and says "
    "nothing of sets."
)
