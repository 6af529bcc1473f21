"""``autoprune doctor``: whether a study's rows and files are as they must be, and mending."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.cli.options import add_storage, one_of

if TYPE_CHECKING:
    from autoprune.api import Complaint

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "doctor"
_FORMATS = ("text", "json")
SUMMARY = "check a study's rows and files against all that must hold; mend what can be mended"
DESCRIPTION = """\
Hold a study's rows and files against all that must hold of them: each trial has
one result and one lease, parents and their networks are there, every member of
the front has its network, whole by its hash, and so has every shared phase; no
more trials have finished than were asked for; the tables are of this version.

What can be mended is told, and mended once you agree: leases that have run out,
rows of what is not there, phases that are gone or damaged, files that nobody
will come back for. Drivers may be at work meanwhile. Exit code 0: nothing is
amiss, or no longer; 1: something is.
"""
EPILOG = """\
examples:
  autoprune doctor digits                    look, and ask before mending
  autoprune doctor digits --yes              look and mend
  autoprune doctor digits --format json      look, for programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("--yes", action="store_true", help="mend what can be mended without asking")
    parser.add_argument(
        "--format", type=one_of("format", _FORMATS), default="text", metavar="F", help="text (default) or json"
    )
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Look, ask, mend."""
    from autoprune import api

    found = api.doctor(args.name, mend=args.yes, storage=args.storage)
    if args.format == "json":
        print(json.dumps({"study": args.name, "complaints": [dataclasses.asdict(one) for one in found]}, indent=1))
        return _code(found)
    _print(found)
    n_mendable = sum(one.can_mend and not one.mended for one in found)
    if n_mendable and _agreed(n_mendable):
        found = api.doctor(args.name, mend=True, storage=args.storage)
        print(f"{sum(one.mended for one in found)} mended.")
    return _code(found)


def _print(found: Sequence[Complaint]) -> None:
    for one in found:
        print(f"{one.kind}: {one.text}")
        print(f"  {'mended' if one.mended else 'can be mended' if one.can_mend else 'to do'}: {one.remedy}")
    print(f"{len(found)} amiss." if found else "nothing is amiss.")


def _agreed(n: int) -> bool:
    """Whether the person at the terminal wants it; without a terminal, nobody does."""
    if not sys.stdin.isatty():
        print("nothing was mended; `--yes` mends.")
        return False
    try:
        return input(f"mend {n} of them? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _code(found: Sequence[Complaint]) -> int:
    return 0 if all(one.mended for one in found) else 1
