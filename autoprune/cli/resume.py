"""``autoprune resume``: go on with a study."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_run_options, run_options

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "resume"
SUMMARY = "go on with a study, or raise its number of trials"
DESCRIPTION = """\
Go on with a study from what its database knows; no file is needed. Trials whose
driver has died are found by their expired leases and tried again. With --trials
the study gets a new, usually larger, number of trials.
"""
EPILOG = """\
examples:
  autoprune resume digits
  autoprune resume digits --trials 200 --time-limit 8h
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name; `autoprune list studies` shows them")
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Resume."""
    from autoprune import api
    from autoprune.cli.progress import finish, make_progress

    with make_progress() as progress:
        outcome = api.resume(args.name, progress=progress, **run_options(args))
    return finish(outcome, args.storage)
