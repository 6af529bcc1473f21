"""The front as a table, and how often each method and width rule is on it: python ../table.py > ../front.md."""

import runpy
from pathlib import Path

import autoprune

study = autoprune.open_study("cifar10_joint", "sqlite:///study.db")
front, trials = study.front(), study.trials()
machine = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/machine.py"))
print(machine["summary"](), end="\n\n")
print("| trial | macs_ratio | accuracy | params | method | widths | hyper-parameters |")
print("|---:|---:|---:|---:|---|---|---|")
for row in front.to_dict("records"):
    figures = [f"{row['number']:.0f}", f"{row['macs_ratio']:.4f}", f"{row['accuracy']:.4f}", f"{row['params']:,.0f}"]
    print(f"| {' | '.join([*figures, row['method'], row['width_rule'], row['hyper']])} |")
print(f"\nHypervolume {study.hypervolume():.4f} up to {study.reference_point}.")
finished = trials[trials["state"].isin(["COMPLETE", "PRUNED"])]
for column in ("method", "width_rule"):
    print(f"\n| {column} | trials | on the front |\n|---|---:|---:|")
    on_front = front[column].value_counts()
    for name, n_trials in finished[column].value_counts().sort_index().items():
        print(f"| {name} | {n_trials} | {on_front.get(name, 0)} |")
