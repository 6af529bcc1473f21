"""``autoprune show``: everything about one trial."""

from __future__ import annotations

import argparse
import json

from autoprune.cli.options import add_storage, natural, one_of

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "show"
_FORMATS = ("page", "json")
SUMMARY = "everything about one trial, or why it failed"
DESCRIPTION = """\
Show one trial: its method, strengths and target, which networks it comes from,
its scores at every rung and, where it was evaluated, on the test split, what is
left of each layer, what it took, where its network lies and how to export it,
or why it failed. As JSON, all that is known under the names of the database.
"""
EPILOG = """\
examples:
  autoprune show digits 17
  autoprune show digits 17 --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("trial", type=natural, metavar="TRIAL", help="the trial's number")
    parser.add_argument(
        "--format", type=one_of("format", _FORMATS), default="page", metavar="F", help="page (default) or json"
    )
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print the trial."""
    from autoprune import api
    from autoprune.cli.pages import print_page
    from autoprune.cli.trial_page import heading, sections

    study = api.open_study(args.name, args.storage)
    facts = study.trial(args.trial)
    if args.format == "json":
        print(json.dumps(facts, indent=1))
    else:
        rows = sections(facts, study=study.name, metric=study.metric, storage=args.storage)
        print_page(heading(facts, study.name), rows)
    return 0
