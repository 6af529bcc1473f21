"""``autoprune status``: how far a study is, who runs what, and what failed."""

from __future__ import annotations

import argparse
import dataclasses
import json

from autoprune.cli.options import add_storage, one_of

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "status"
_FORMATS = ("page", "json")
SUMMARY = "how far a study is, who runs what, failures with their reasons"
DESCRIPTION = """\
Tell how far a study is and when it will be done at its present pace, which
drivers work on it and how far their trials are, what waits for another try, why
trials failed, and what is best so far. Reads only; works while the study runs.
"""
EPILOG = """\
examples:
  autoprune status digits
  autoprune status digits --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument(
        "--format", type=one_of("format", _FORMATS), default="page", metavar="F", help="page (default) or json"
    )
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state of the study."""
    from autoprune import api

    status = api.status(args.name, args.storage)
    if args.format == "json":
        facts = dataclasses.asdict(status)
        print(json.dumps({"study": args.name, **facts, "retried": sorted(status.retried)}, indent=1))
        return 0
    from autoprune.cli.pages import print_page
    from autoprune.cli.status_page import heading, sections

    with api.open_study(args.name, args.storage) as study:
        rows = sections(status, study=study.name, metric=study.metric, cost=study.cost, storage=args.storage)
    print_page(heading(status, args.name), rows)
    return 0
