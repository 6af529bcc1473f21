"""The fronts of this folder's card as the picture of the README: `python studies/bench_search/picture.py`."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
# Name, colour and marker of each row; those above the line were run in one session, network by network.
ROWS = {
    "ours": ("autoprune", "#0b5fa5", "o"),
    "chain": ("no search: each cut from the one before, with a teacher", "#c44e00", "s"),
    "fastnas": ("FastNAS of NVIDIA Model Optimizer", "#5a5a5a", "^"),
    "ladder_global": ("Torch-Pruning, ranked globally", "#5a5a5a", "v"),
    "ladder_uniform": ("Torch-Pruning, uniform widths", "#5a5a5a", "x"),
    "diy": ("Optuna's TPE and Torch-Pruning", "#5a5a5a", "+"),
}


def points(path: Path) -> dict[tuple[str, int], list[tuple[float, float]]]:
    """MACs ratio and accuracy of each network, by row and seed, the cheapest first."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            key = line["row"], int(line["seed"])
            found.setdefault(key, []).append((float(line["macs_ratio"]), float(line["accuracy"])))
    return {key: sorted(values) for key, values in found.items()}


def draw(fronts: dict[tuple[str, int], list[tuple[float, float]]], path: Path) -> None:
    """One panel: test accuracy against the MACs ratio."""
    mpl.rcParams.update({"svg.hashsalt": "autoprune", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure = Figure(figsize=(7.2, 4), layout="constrained")
    axes = figure.subplots()
    for (row, seed), values in fronts.items():
        name, colour, marker = ROWS[row]
        is_front = row in ("ours", "chain")
        axes.plot(
            *zip(*values, strict=True), color=colour, marker=marker, markersize=5 if is_front else 6,
            linewidth=2 if row == "ours" else 1.2 if is_front else 0, label=name if seed == 0 else None,
        )  # fmt: skip
    axes.axhline(0.8726, color="#999999", linestyle=":", linewidth=1)
    axes.annotate("the dense network", (0.015, 0.8726), xytext=(0, 3), textcoords="offset points", color="#5a5a5a")
    axes.set(xlabel="MACs, pruned / dense", ylabel="test accuracy", xlim=(0, 1), ylim=(0.74, 0.885))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    figure.savefig(path, metadata={"Date": None, "Title": "ResNet-20 on CIFAR-10: accuracy against MACs"})


if __name__ == "__main__":
    draw(points(HERE / "fronts.csv"), HERE / "front.svg")
