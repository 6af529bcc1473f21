"""``autoprune diff``: two studies held against each other."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from autoprune.cli.options import add_storage, one_of

if TYPE_CHECKING:
    from autoprune.api import Difference

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "diff"
_FORMATS = ("table", "json")
SUMMARY = "two studies compared: hypervolume, who is ahead where, settings that differ"
DESCRIPTION = """\
Compare two studies of the same objectives: the hypervolumes at one reference point
(the worse one of both for each objective), how many members of each front the other
one beats, which study has the better network at which cost, and what differs in
their settings. Each trial keeps the constraints of its own study.
"""
EPILOG = """\
examples:
  autoprune diff digits digits_nsga2
  autoprune diff digits digits_nsga2 --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("one", metavar="A", help="a study's name")
    parser.add_argument("other", metavar="B", help="another one's")
    parser.add_argument(
        "--format", type=one_of("format", _FORMATS), default="table", metavar="F", help="table (default) or json"
    )
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Print the difference."""
    from autoprune import api

    found = api.diff(args.one, args.other, storage=args.storage)
    if args.format == "json":
        print(json.dumps(found.to_dict(), indent=1))
        return 0
    width = max(len(name) for name in (*found.names, "study", "both"))
    print(f"{'study':<{width}}  {'hypervolume':>11}  {'front':>5}  {'beaten by the other':>19}")
    for name in found.names:
        volume = f"{found.hypervolumes[name]:.4f}" if found.hypervolumes else ""
        print(f"{name:<{width}}  {volume:>11}  {found.n_members[name]:>5}  {found.n_beaten[name]:>19}")
    if found.hypervolumes:
        point = ", ".join(f"{key} {value:g}" for key, value in found.reference_point.items())
        print(f"{'both':<{width}}  {found.hypervolumes['both']:>11.4f}")
        print(f"hypervolume: of the box up to the reference point ({point})")
    print()
    for line in _leads(found):
        print(line)
    print()
    print("settings that differ:" if found.settings else "no setting differs.")
    for key, (one, other) in found.settings.items():
        print(f"  {key}: {_short(one)} -> {_short(other)}")
    return 0


def _leads(found: Difference) -> list[str]:
    """Who is ahead where, a line for each stretch."""
    if not found.leads:
        return ["no study has a finished trial yet."]
    lines = [f"best {found.metric.name} of networks up to a {found.cost}:"]
    for lead in found.leads:
        span = f"{lead.low:.4g} to {lead.high:.4g}" if lead.high is not None else f"{lead.low:.4g} and above"
        if lead.ahead is None:
            lines.append(f"  {span}: level")
            continue
        texts = [f"{found.metric.text(score)} of {name}" for name, score in lead.scores.items() if score is not None]
        if len(texts) == 1:
            lines.append(f"  {span}: only {lead.ahead} has a network, {texts[0].split(' of ')[0]} at {lead.at:.4g}")
            continue
        noise = ", within two standard errors" if lead.within_noise else ""
        lines.append(f"  {span}: {lead.ahead} ahead, at most {' to '.join(texts)} at {lead.at:.4g}{noise}")
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
