"""``autoprune report``: a study as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from autoprune.cli.options import add_storage
from autoprune.errors import ConfigError

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "report"
SUMMARY = "a study, or two side by side, as one self-contained HTML page"
DESCRIPTION = """\
Write a study as one HTML page that needs no network: the front with deviations
and baselines, the widths of its members, where they came from, the hypervolume
over trials and over device time, what was searched and what of it matters,
rungs, a timeline, and what to look at before the front is believed. Picking a
point shows its widths and the command that exports it. With OTHER, a study of
the same objectives in the same database, both are on the page.
"""
EPILOG = """\
examples:
  autoprune report digits --to digits.html
  autoprune report before after --to compared.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="another study to compare it with")
    parser.add_argument("--to", metavar="FILE", required=True, help="the page: a file that ends in .html")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    path = Path(args.to)
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"`--to` must end in .html, but got {args.to!r}.")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"`--to` must lead to a folder that exists, but got {args.to!r}. Make the folder first.")
    from autoprune import api

    text = api.report_page(args.name, args.other, storage=args.storage)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"`--to` must be a file that can be written, but {args.to!r}: {error.strerror}.") from error
    print(f"wrote {path}, {len(text.encode()) / 1000:.0f} kB; open it in a browser")
    return 0
