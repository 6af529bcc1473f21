"""``autoprune pareto``: the front."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_storage, one_of

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "pareto"
_FORMATS = ("table", "csv", "json")
SUMMARY = "the Pareto front: the trials that no other trial beats in both score and cost"
DESCRIPTION = """\
Print the Pareto front of a study, also while it runs. Trials are scored on the
validation split, by top-1 accuracy where the study names no other metric;
macs_ratio is the pruned network's MACs over the dense one's. Only trials that keep
the study's [constraints] count.

After `autoprune evaluate`, mean and standard deviation on the test split stand
beside it, and ~ marks what can't be told apart from the next costlier one.
"""
EPILOG = """\
examples:
  autoprune pareto digits
  autoprune pareto digits --where "macs_ratio <= 0.5 and method == 'slimming'"
  autoprune pareto digits --sort accuracy --format csv
  autoprune pareto digits --spacing 0.05     a few well-spread points of a crowded front
  autoprune pareto digits --plot front.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("--where", metavar="EXPR", help="only among trials that satisfy this, e.g. 'macs_ratio <= 0.5'")
    parser.add_argument("--sort", metavar="COLUMN", help="order by this column (default: the first cost)")
    parser.add_argument(
        "--spacing", type=float, metavar="GAP", help="leave out points nearer than this in the first cost"
    )
    parser.add_argument(
        "--format", type=one_of("format", _FORMATS), default="table", metavar="F", help="table (default), csv or json"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the front and all trials: .png, .svg or .pdf")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print the front."""
    from autoprune import api
    from autoprune.cli.tables import front_table, score_notes

    study = api.open_study(args.name, args.storage)
    front = study.front(where=args.where, sort=args.sort, spacing=args.spacing)
    if args.plot:
        from autoprune.cli.plot import plot_front

        plot_front(study, front, args.plot)
    if args.format == "json":
        print(front.to_json(orient="records", indent=1))
    elif args.format == "csv":
        print(front.to_csv(index=False), end="")
    else:
        print(front_table(front, study.metric))
        for line in score_notes(front, study.metric):
            print(line)
        point = ", ".join(f"{key} {value:g}" for key, value in study.reference_point.items())
        print(f"hypervolume {study.hypervolume():.4f} of the box up to the reference point ({point})")
    return 0
