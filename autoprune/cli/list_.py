"""``autoprune list``: what there is to choose from."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_storage, one_of

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "list"
_WHAT = ("methods", "architectures", "spaces", "studies")
SUMMARY = "the methods, architectures, search spaces or studies there are"
DESCRIPTION = """\
List names to use in a study file (methods, architectures, spaces) or the
studies of a database.
"""
EPILOG = """\
examples:
  autoprune list methods
  autoprune list studies --storage sqlite:///runs.db
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", type=one_of("list", _WHAT), metavar="WHAT", help=", ".join(_WHAT))
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print one name a line."""
    from autoprune import api

    rows = api.list_names(args.what, args.storage)
    width = max((len(name) for name, _ in rows), default=0)
    for name, word in rows:
        print(f"{name:<{width}}  {word}".rstrip())
    if not rows:
        print(f"there are no {args.what} here.")
    return 0
