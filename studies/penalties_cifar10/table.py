"""What is left of the scales, as a table and a plot: python ../table.py, in the folder that holds the study's database.

Writes ../scales.md and ../scales.png.
"""

import os
import runpy
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

import autoprune
from autoprune.engine.files import read_tensors
from autoprune.engine.training import accuracy
from autoprune.pipeline import open_workbench

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
NAMES = {
    "slimming": "ℓ1",
    "slimming_tl1": "TL1, a = 1",
    "slimming_lp": "ℓ½",
    "slimming_mcp": "MCP, κ = 0.5",
    "slimming_scad": "SCAD, κ = 0.5",
    "slimming_log_sum": "log-sum, ε = 0.1",
}
FORMS, STRENGTHS = ("subgradient", "prox"), (1e-3, 3e-3, 1e-2)

torch.set_num_threads(os.cpu_count() or 1)
study = autoprune.open_study("penalties_cifar10", "sqlite:///study.db")
setting = study.config.setting
workbench = open_workbench(setting)
prunable = {f"{scale}.weight": group.member(scale).index for group in workbench.traced.groups for scale in group.scales}


def scales_of(tensors):
    """|γ| of every prunable channel, once for each BatchNorm that it passes."""
    return np.concatenate([tensors[name].abs().double().numpy()[index].ravel() for name, index in prunable.items()])


def row_of(trial):
    """Figures of one trial; the sparse-trained network is scored here, before anything is cut."""
    file = Path(setting.artifacts) / "phases" / f"sparsify-{trial['phase']}.safetensors"
    weights = {name: t for name, t in read_tensors(file).items() if not name.startswith("method:")}
    gamma = scales_of(weights)
    before = accuracy(workbench.with_weights(weights), workbench.splits.validation, runtime=workbench.runtime)
    shares = [float((gamma < 1e-2).mean()), float((gamma < 1e-3).mean()), float((gamma == 0).mean())]
    return {"gamma": gamma, "shares": shares, "before": before, "after": trial["accuracy"], "phase": trial["phase"]}


rows = {}
for trial in study.trials().to_dict("records"):
    method = trial["method"]
    rows[method, trial[f"{method}.form"], trial[f"{method}.strength"]] = row_of(trial)
control = autoprune.open_study("penalties_cifar10_control", "sqlite:///study.db")
for trial in control.trials().to_dict("records"):
    rows["slimming", "subgradient", trial["slimming.strength"]] = row_of(trial)
by_damage = autoprune.open_study("penalties_cifar10_damage", "sqlite:///study.db").trials().to_dict("records")
damage = {trial["phase"]: trial["accuracy"] for trial in by_damage}

machine = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/machine.py"))
n_scales, n_images = len(next(iter(rows.values()))["gamma"]), len(workbench.splits.validation)
explanation = (
    f"{n_scales} prunable scales; accuracies on the {n_images:,} validation images. `before`: the network after sparse "
    "training; `after`: cut to half of the MACs by |γ|, BatchNorm statistics estimated anew, nothing trained; "
    "`by damage`: the same by damage at the next layer."
)
lines = [
    f"{machine['summary']()}\n",
    f"{explanation}\n",
    "| penalty | form | λ | below 1e-2 | below 1e-3 | exactly 0 | before | after | lost | by damage |",
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
]
for method, name in NAMES.items():
    for form in FORMS:
        for strength in sorted(strength for *what, strength in rows if what == [method, form]):
            row = rows[method, form, strength]
            shares = " | ".join(f"{100 * share:.1f} %" for share in row["shares"])
            figures = [row["before"], row["after"], row["before"] - row["after"], damage.get(row["phase"])]
            shown = " | ".join("–" if figure is None else f"{figure:.4f}" for figure in figures)
            lines.append(f"| {name} | {form} | {strength:g} | {shares} | {shown} |")
(HERE / "scales.md").write_text("\n".join(lines) + "\n")

figure, axes = plt.subplots(len(NAMES), len(FORMS), figsize=(9, 13), sharex=True, sharey=True, layout="constrained")
dense = scales_of(read_tensors(Path(setting.network.weights)))
for line, (method, name) in zip(axes, NAMES.items(), strict=True):
    for ax, form in zip(line, FORMS, strict=True):
        for gamma, label, style in [
            (dense, "dense network", {"color": "0.6", "linestyle": ":"}),
            *(
                (rows[method, form, strength]["gamma"], f"λ = {strength:g}", {"color": color})
                for strength, color in zip(STRENGTHS, ("#9ecae1", "#3182bd", "#08306b"), strict=True)
            ),
        ]:
            # Zeros have no logarithm: they stand at the left edge.
            ax.step(np.sort(np.maximum(gamma, 1e-7)), np.linspace(0, 1, len(gamma)), label=label, **style)
        ax.set(xscale="log", xlim=(1e-7, 2), ylim=(0, 1), title=f"{name}, {form}")
        ax.grid(alpha=0.3)
axes[0, 0].legend(fontsize=8)
figure.supxlabel("|γ| after sparse training; exact zeros at the left edge")
figure.supylabel("share of prunable scales that are smaller")
figure.savefig(HERE / "scales.png", dpi=90)
