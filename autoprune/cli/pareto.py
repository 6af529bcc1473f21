"""``autoprune pareto``: the front."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.cli.files import ENDINGS, as_csv, as_json, write_table
from autoprune.cli.options import add_storage, one_of, positive
from autoprune.cli.wording import command
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from autoprune.api import FrontAnswer

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "pareto"
_FORMATS = ("table", "csv", "json", "parquet")
SUMMARY = "the Pareto front: the trials that no other trial beats in both score and cost"
DESCRIPTION = """\
Print the Pareto front of a study, also while it runs, or that of several studies
together. Trials are scored on the validation split, by top-1 accuracy where the
study names no other metric; macs_ratio is the pruned network's MACs over the dense
one's. Only trials that keep their study's [constraints] count.

--under chooses one network: of those that satisfy the condition, the best by the
metric. --best chooses by any column, --knee where the front bends most: the largest
distance below the chord between its ends, every objective scaled to its range.
--top K leaves the K points that together keep most of the hypervolume.

~ marks what can't be told apart from the next costlier one: by the deviations on
the test split after `autoprune evaluate`, which then stand beside the scores, else
by the standard error of an accuracy on the validation split.
"""
EPILOG = """\
examples:
  autoprune pareto digits
  autoprune pareto digits --where "macs_ratio <= 0.5 and method == 'slimming'"
  autoprune pareto digits --under "latency_ms <= 5"     the network to take, and how to export it
  autoprune pareto digits --knee
  autoprune pareto digits --top 5
  autoprune pareto digits --sort accuracy --format csv
  autoprune pareto digits --dominated --to trials.parquet
  autoprune pareto digits digits_nsga2     two studies on one front
  autoprune pareto digits --spacing 0.05     a few well-spread points of a crowded front
  autoprune pareto digits --plot front.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", metavar="NAME", nargs="+", help="the study's name, or several")
    parser.add_argument("--where", metavar="EXPR", help="only among trials that satisfy this, e.g. 'macs_ratio <= 0.5'")
    parser.add_argument("--sort", metavar="COLUMN", help="order by this column (default: the first cost)")
    parser.add_argument(
        "--spacing", type=float, metavar="GAP", help="leave out points nearer than this in the first cost"
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--under", metavar="EXPR", help="only the network with the best metric that satisfies this")
    choice.add_argument("--best", metavar="COLUMN", help="only the point that is best by this column")
    choice.add_argument("--knee", action="store_true", help="only the point at the knee of the front")
    choice.add_argument("--top", type=positive, metavar="K", help="only K points that keep most of the hypervolume")
    choice.add_argument("--dominated", action="store_true", help="all trials; * marks those on the front")
    parser.add_argument(
        "--format", type=one_of("format", _FORMATS), metavar="F", help="table (default), csv, json or parquet"
    )
    parser.add_argument("--to", metavar="FILE", help="write .csv, .json or .parquet instead of printing")
    parser.add_argument("--plot", metavar="FILE", help="draw the front and all trials: .png, .svg or .pdf")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print the front."""
    from autoprune import api

    form = _format(args)
    if args.plot and len(args.names) > 1:
        raise ConfigError(f"`--plot` must be given with one study, but got {', '.join(args.names)}. Name one of them.")
    metric = api.open_study(args.names[0], args.storage).metric.name if args.under else None
    answer = api.ask_front(
        args.names,
        where=[condition for condition in (args.where, args.under) if condition is not None],
        sort=args.sort,
        spacing=args.spacing,
        dominated=args.dominated,
        best=args.best or metric,
        knee=args.knee,
        top=args.top,
        storage=args.storage,
    )
    if args.under and answer.rows.empty:
        raise ConfigError(f"a network must satisfy {args.under!r}, but no finished one does. Loosen the condition.")
    if args.plot:
        from autoprune.cli.plot import plot_front

        plot_front(api.open_study(args.names[0], args.storage), answer.rows, args.plot)
    if args.to:
        write_table(answer.rows, args.to, form=form)
        print(f"wrote {args.to} ({len(answer.rows):,} rows)")
    elif form == "table":
        _print_for_people(answer, args)
    else:
        print(as_json(answer.rows) if form == "json" else as_csv(answer.rows), end="\n" if form == "json" else "")
    return 0


def _format(args: argparse.Namespace) -> str:
    """The format that is meant; that of the file where only a file is named."""
    if args.to is None:
        if args.format == "parquet":
            raise ConfigError(
                "`--format parquet` must be written to a file, but none is named. Add --to front.parquet."
            )
        return str(args.format or "table")
    ending = Path(args.to).suffix
    if args.format == "table" or (args.format is None and ending not in ENDINGS):
        raise ConfigError(f"`--to` must end in {', '.join(ENDINGS)}, but got {args.to!r}. Or name a --format of those.")
    return str(args.format or ENDINGS[ending])


def _print_for_people(answer: FrontAnswer, args: argparse.Namespace) -> None:
    from autoprune.cli.tables import front_table, score_notes

    print(front_table(answer.rows, answer.metric))
    for line in score_notes(answer.rows, answer.metric):
        print(line)
    if answer.unlike:
        print(f"scores of these studies may not be comparable: {answer.unlike}")
    if answer.hypervolume is not None:
        point = ", ".join(f"{key} {value:g}" for key, value in answer.reference_point.items())
        print(f"hypervolume {answer.hypervolume:.4f} of the box up to the reference point ({point})")
    if (args.under or args.best or args.knee) and len(answer.rows):
        print(_export_command(answer.rows, args))


def _export_command(rows: pd.DataFrame, args: argparse.Namespace) -> str:
    """The command that takes the chosen network away."""
    row = rows.iloc[0]
    name, number = str(row.get("study", args.names[0])), int(row["number"])
    return command("export", name, number, "--to", f"{name}-{number}.onnx", storage=args.storage)
