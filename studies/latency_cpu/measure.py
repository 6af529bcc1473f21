"""Wall-clock of pruned CIFAR networks on a CPU, beside the dense ones: what half of the MACs buys.

Run: OMP_NUM_THREADS=1 python studies/latency_cpu/measure.py [--batch 64] [--runs 50]; prints the tables of README.md.
"""

import argparse
import os
import runpy
from pathlib import Path

import numpy as np
import torch

from autoprune.architectures import build
from autoprune.cost import Limits, fit
from autoprune.engine.measuring import measure
from autoprune.engine.surgery import cut
from autoprune.engine.tracing import trace

NETWORKS = ("resnet20", "vgg16")
RATIO = 0.5
# Times do not depend on which channels stay, so the first of each group do.
PLANS = {"uniform": 1, "uniform, multiples of 8": 8}


def keep_first(widths):
    return {name: np.arange(width) for name, width in widths.items()}


def pruned(name):
    torch.manual_seed(0)
    dense = build(name, n_classes=10, in_channels=3).eval()
    traced = trace(dense, torch.zeros(1, 3, 32, 32))
    cost, networks, ratios = traced.cost, {"dense": dense}, {"dense": 1.0}
    for plan, multiple in PLANS.items():
        widths = fit(cost, Limits(macs=RATIO * cost.dense_macs, multiple=multiple))
        networks[plan] = cut(dense, traced.groups, keep_first(widths))
        ratios[plan] = cost.macs_ratio(widths)
    return networks, ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cpu = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts/machine.py"))["cpu"]()
    before = os.getloadavg()[0]
    rows = []
    for name in NETWORKS:
        networks, ratios = pruned(name)
        found = measure(
            networks, (3, 32, 32), batch=args.batch, device=torch.device("cpu"), n_runs=args.runs, time_limit_s=120
        )
        for plan, timed in found.items():
            speed_up = found["dense"].median_ms / timed.median_ms
            rows.append(
                f"| {name} | {plan} | {ratios[plan]:.4f} | {timed.median_ms:.1f} | {timed.low_ms:.1f} – "
                f"{timed.high_ms:.1f} | {speed_up:.2f} | {1 / ratios[plan]:.2f} | {timed.n_runs} |"
            )
    print(
        f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), torch {torch.__version__}, float32, "
        f"channels-last, batch {args.batch}; load average {before:.1f} before, {os.getloadavg()[0]:.1f} after.\n"
    )
    print("| network | widths | macs_ratio | median ms | quartiles ms | speed-up | ideal | runs |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
