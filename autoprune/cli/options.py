"""Flags that several commands share."""

from __future__ import annotations

import argparse
import re

__all__ = ["add_run_options", "add_storage", "duration", "positive"]


def positive(text: str) -> int:
    """A whole number >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, but got {text!r}")
    return value


def duration(text: str) -> float:
    """Seconds of a length of time such as ``90``, ``45s``, ``20m`` or ``1h30m``."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    seconds = 0.0
    if match:
        seconds = sum(float(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True))
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"must be a length of time such as 45s, 20m or 1h30m, but got {text!r}")
    return seconds


def add_storage(parser: argparse.ArgumentParser) -> None:
    """``--storage``."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="the database: sqlite:///FILE or postgresql://... (default: $AUTOPRUNE_STORAGE, else autoprune.db here)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The flags of commands that run trials."""
    parser.add_argument("--trials", type=positive, metavar="N", help="how many trials must finish (over the file)")
    parser.add_argument("--time-limit", type=duration, metavar="T", help="wind down after T, such as 45s, 20m or 1h30m")
    parser.add_argument("--concurrency", type=positive, metavar="K", help="trials at once (default: as many as fit)")
    parser.add_argument(
        "--address", metavar="ADDR", help="a running Ray cluster, auto or HOST:PORT (default: one on this machine)"
    )
    add_storage(parser)
