"""``autoprune latency``: a trial's network timed beside the dense one."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_storage, add_trust, natural, positive

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "latency"
SUMMARY = "how fast a trial's network is here, beside the dense one"
DESCRIPTION = """\
Time the pruned network of one trial beside the dense one: batches of random
images, in turn, in float32. MACs are not time: on this device, at this batch
size, the command says what they bought, and warns where they bought nothing.
Nothing else should run on the device meanwhile.
"""
EPILOG = """\
examples:
  autoprune latency digits 17
  autoprune latency digits 17 --batch 1 8 256 --device cuda
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("trial", type=natural, metavar="TRIAL", help="the trial's number")
    parser.add_argument(
        "--batch", type=positive, nargs="+", default=[1, 64], metavar="N", help="images at once (default: 1 and 64)"
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, ...")
    add_trust(parser)
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from autoprune import api

    measured = api.measure_latency(args.name, args.trial, batches=args.batch, device=args.device, storage=args.storage)
    runs = ", ".join(str(row.dense.n_runs) for row in measured)
    print(f"macs_ratio {measured[0].macs_ratio:.4f}; milliseconds, median and quartiles of {runs} runs in turn")
    print(f"{'batch':>5}  {'dense':>26}  {'pruned':>26}  {'ratio':>6}")
    for row in measured:
        cells = [f"{t.median_ms:.2f} ({t.low_ms:.2f} - {t.high_ms:.2f})" for t in (row.dense, row.pruned)]
        print(f"{row.dense.batch:>5}  {cells[0]:>26}  {cells[1]:>26}  {row.ratio:>6.3f}")
    for row in measured:
        if row.warning is not None:
            print(f"warning: {row.warning}")
    return 0
