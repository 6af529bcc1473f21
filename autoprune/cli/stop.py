"""``autoprune stop``: wind a running study down from another terminal."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_storage

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "stop"
SUMMARY = "wind a running study down, from another terminal"
DESCRIPTION = """\
Ask every driver of a study to start no new trials and to let the running ones
go, as the first Ctrl-C does. Drivers look for this every few seconds. The study
stays resumable.
"""
EPILOG = """\
example:
  autoprune stop digits
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Ask."""
    from autoprune import api

    drivers = api.stop(args.name, args.storage)
    if not drivers:
        print(f"no driver works on study {args.name!r}.")
    for driver in drivers:
        print(f"asked the driver on {driver} to stop.")
    return 0
