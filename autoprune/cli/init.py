"""``autoprune init``: a study file for a network, data and a time."""

from __future__ import annotations

import argparse

from autoprune.cli.options import duration

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "init"
SUMMARY = "write a commented study file for a network, data and a time"
DESCRIPTION = """\
Write a study file in which everything is filled in that can be found out: where
the parts of the data are, which columns or sizes they have, how the network is
trained, whether there is a GPU. Network and data are opened and tried, so that
what is wrong with them is told now. An existing file is never overwritten.
"""
EPILOG = """\
examples:
  autoprune init study.toml --network resnet20 --data cifar10/ --time 15m
  autoprune init study.toml --network mine:network --data photos/ --weights dense.safetensors
  autoprune init study.toml --network mine:network --task mine:task --time 1h
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study_file", metavar="STUDY.toml", help="the file to write")
    parser.add_argument(
        "--network", required=True, metavar="NET", help="a built-in name, torchvision/NAME or package.module:function"
    )
    parser.add_argument("--data", metavar="PATH", help="a folder of images, Parquet files, or digits")
    parser.add_argument("--task", metavar="TASK", help="package.module:function that returns an autoprune.Task")
    parser.add_argument("--weights", metavar="FILE", help="the network's trained weights (else it is trained first)")
    parser.add_argument("--time", type=_told, metavar="T", help="how long the search may take, such as 20m or 1h30m")
    parser.add_argument("--name", metavar="NAME", help="the study's name (default: that of the file)")


def _told(text: str) -> str:
    """A length of time, as it was written."""
    duration(text)
    return text


def run(args: argparse.Namespace) -> int:
    """Write the file and say what comes next."""
    from autoprune import api

    written = api.init(
        args.study_file,
        network=args.network,
        data=args.data,
        task=args.task,
        weights=args.weights,
        time_limit=args.time,
        name=args.name,
    )
    found = written.inspection
    print(
        f"wrote {written.path}: {found.network} on {found.inputs}, {len(found.groups)} channel groups, "
        f"reachable macs_ratio {found.least_macs_ratio:.4f} to 1"
    )
    for note in written.notes:
        print(f"note: {note}")
    print(f"next: {written.command}")
    return 0
