"""``autoprune status``: who runs what, and what failed."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_storage

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "status"
SUMMARY = "how far a study is, who runs what, failures with their reasons"
DESCRIPTION = """\
Tell how far a study is, which drivers work on it and on which trials, and why
trials failed. Reads only; works while the study runs.
"""
EPILOG = """\
example:
  autoprune status digits
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state of the study."""
    from autoprune import api
    from autoprune.config import AS_MANY_AS_FIT

    status = api.status(args.name, args.storage)
    counts = status.counts
    wanted = "" if status.n_trials == AS_MANY_AS_FIT else f" of {status.n_trials}"
    print(f"study {args.name!r}: {counts.finished}{wanted} trials finished, revision {status.revision}")
    print(
        f"complete {counts.complete}, stopped {counts.pruned}, running {counts.running}, "
        f"waiting for another try {counts.waiting}, failed {counts.failed}"
    )
    for driver in status.drivers:
        running = ", ".join(f"trial {number}" for number in driver.trials) or "nothing yet"
        print(
            f"{driver.state}: {driver.host}, process {driver.pid}, last seen {driver.seen_s_ago:.0f} s ago: {running}"
        )
    for number, reason in status.failures:
        first, *more = reason.splitlines() or [""]
        print(f"failed: trial {number}: {first}{' ...' if more else ''}")
    return 0
