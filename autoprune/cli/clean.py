"""``autoprune clean``: delete what nobody will come back for."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_storage

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "clean"
SUMMARY = "delete files of a study that nobody will come back for"
DESCRIPTION = """\
Delete networks that other trials beat, unless the study file asks to keep all
([retention] networks = "all"); files of trials that failed or that this database
does not know; scratch folders of drivers that ended; half-written files. With
--phases also the cached results of sparse training that no other study of this
database has used: a trial that needs one computes it anew.

The networks of the front stay, and so does whatever running trials write or
need. Nothing outside of the study's artifacts folder is touched.
"""
EPILOG = """\
examples:
  autoprune clean digits --dry-run           what would go, file by file
  autoprune clean digits --phases
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("--phases", action="store_true", help="also cached phases that only this study used")
    parser.add_argument("--dry-run", action="store_true", help="delete nothing; list what would go")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Clean up and say what went."""
    from autoprune import api

    removed = api.clean(args.name, phases=args.phases, dry_run=args.dry_run, storage=args.storage)
    for kind in removed:
        print(f"{kind.what}: {len(kind.paths):,}, {kind.size_bytes:,} bytes")
        if args.dry_run:
            for path in kind.paths:
                print(f"  {path}")
    total = sum(kind.size_bytes for kind in removed)
    done = "would be deleted; nothing was" if args.dry_run else "deleted"
    print(f"{total:,} bytes {done}." if removed else "there is nothing to delete.")
    return 0
