"""``autoprune inspect``: what of a network can be pruned."""

from __future__ import annotations

import argparse

from autoprune.cli.options import add_trust

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "inspect"
SUMMARY = "the network's channel groups, what they cost, what is refused and why"
DESCRIPTION = """\
Trace the network of a study file and print its channel groups: which channels
must be kept or removed together, their dense width, and how much of the MACs
hangs on them. Layers that can't be pruned are listed with the reason. The last
line tells how far down the MACs can go. Nothing is trained, and no database is
touched.

With --write-space, also write a search space for the network: the methods that
can prune it with their ranges, the width rules, and the MACs targets that it
can reach, all with comments and ready to be edited.
"""
EPILOG = """\
examples:
  autoprune inspect studies/digits/study.toml
  autoprune inspect study.toml --write-space space.toml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study_file", metavar="STUDY.toml", help="the study file; its search space may be missing")
    parser.add_argument("--write-space", metavar="FILE", help="write a search space for the network, a new .toml file")
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Print what tracing found."""
    from autoprune import api

    written = None if args.write_space is None else api.write_space(args.study_file, args.write_space)
    found = api.inspect(args.study_file)
    print(
        f"{found.network} on {found.inputs}: "
        f"{found.macs:,} MACs ({2 * found.macs:,} FLOPs), {found.params:,} parameters"
    )
    print(f"peak activation memory of one input, float32: {found.peak_activation_bytes:,} bytes")
    print()
    if found.groups:
        width = max(len(group.name) for group in found.groups)
        print(f"{'channel group':<{width}}  width  layers  share of MACs")
        for group in found.groups:
            line = f"{group.name:<{width}}  {group.width:>5}  {group.layers:>6}"
            print(f"{line}  {group.macs_share:>12.1%}")
        print()
        print("A layer between two groups counts in the share of both.")
    else:
        print("No channel group can be pruned.")
    for refusal in found.refused:
        print(f"not prunable: {refusal}")
    for note in found.notes:
        print(f"note: {note}")
    print(f"computed in: {found.computed_in}")
    print(f"reachable: macs_ratio {found.least_macs_ratio:.4f} to 1")
    if written is not None:
        print(f'wrote {args.write_space}; name it in [study] of {args.study_file}: space = "{written}"')
    return 0
