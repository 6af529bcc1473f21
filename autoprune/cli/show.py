"""``autoprune show``: everything about one trial."""

from __future__ import annotations

import argparse
import json

from autoprune.cli.options import add_storage, natural

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "show"
SUMMARY = "everything about one trial, or why it failed"
DESCRIPTION = """\
Print all that is known about one trial: its method, strengths and widths, its
scores at every rung and, where it was evaluated, on the test split, what it
cost, where its network lies, which trial it is a second try of, or why it
failed.
"""
EPILOG = """\
example:
  autoprune show digits 17
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("trial", type=natural, metavar="TRIAL", help="the trial's number")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print the trial."""
    from autoprune import api

    facts = api.open_study(args.name, args.storage).trial(args.trial)
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        print(f"{key:<{width}}  {text}".replace("\n", f"\n{'':<{width}}  "))
    return 0
