"""Flags that several commands share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any

from autoprune.errors import ConfigError, unknown_name

__all__ = [
    "add_cluster",
    "add_run_options",
    "add_storage",
    "add_trust",
    "address",
    "duration",
    "loggers_of",
    "natural",
    "one_of",
    "positive",
    "run_options",
]


def positive(text: str) -> int:
    """A whole number >= 1."""
    return _whole(text, least=1)


def natural(text: str) -> int:
    """A whole number >= 0."""
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip(), flags=re.ASCII) or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, but got {text!r}")
    return int(text)


def duration(text: str) -> float:
    """Seconds of a length of time such as ``90``, ``45s``, ``20m`` or ``1h30m``."""
    from autoprune.config import seconds_of  # Not before it is needed: help is quick.

    try:
        return seconds_of(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def logger(text: str) -> str:
    """The name of an experiment tracker, or ``none``."""
    from autoprune.config import LOGGERS  # Not before it is needed: help is quick.

    return one_of("logger", (*LOGGERS, "none"))(text)


def address(text: str) -> str:
    """Where a Ray cluster is: ``auto`` or ``HOST:PORT``."""
    if not re.fullmatch(r"auto|[^\s/]+:\d{1,5}", text, flags=re.ASCII):
        raise argparse.ArgumentTypeError(f"must be auto or HOST:PORT of a running Ray cluster, but got {text!r}")
    return text


def one_of(kind: str, valid: Sequence[str]) -> Callable[[str], str]:
    """A reader of an argument that takes one of a few names; a wrong one is told with the nearest."""

    def read(text: str) -> str:
        if text not in valid:
            raise argparse.ArgumentTypeError(unknown_name(kind, text, valid).removesuffix("."))
        return text

    return read


def add_storage(parser: argparse.ArgumentParser) -> None:
    """``--storage``."""
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="the database: sqlite:///FILE or postgresql://... (default: $AUTOPRUNE_STORAGE, else autoprune.db here)",
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """``--no-factories``, which `cli.main` obeys."""
    parser.add_argument(
        "--no-factories",
        action="store_true",
        help="import no code that the study names (factories, own classes): for files and databases of others",
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """``--concurrency`` and ``--address``."""
    parser.add_argument("--concurrency", type=positive, metavar="K", help="runs at once (default: as many as fit)")
    parser.add_argument(
        "--address",
        type=address,
        metavar="ADDR",
        help="a running Ray cluster, auto or HOST:PORT (default: $RAY_ADDRESS, else one made here)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The flags of commands that run trials."""
    parser.add_argument("--trials", type=positive, metavar="N", help="how many trials must finish (over the file)")
    parser.add_argument("--time-limit", type=duration, metavar="T", help="end after T, such as 45s, 20m or 1h30m")
    add_cluster(parser)
    parser.add_argument(
        "--logger",
        type=logger,
        action="append",
        metavar="L",
        help="tell tensorboard, mlflow or wandb of trials (over the file); again for another one, none for none",
    )
    parser.add_argument("--log", metavar="FILE", help="append a line of JSON to this file for each event")
    parser.add_argument("--verbose", action="store_true", help="print what the workers print and log as well")
    add_trust(parser)
    add_storage(parser)


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_run_options` read, by the names that `api.launch` and `api.resume` know it by."""
    return {
        "storage": args.storage,
        "n_trials": args.trials,
        "time_limit_s": args.time_limit,
        "concurrency": args.concurrency,
        "address": args.address,
        "loggers": loggers_of(args),
        "log": args.log,
        "verbose": args.verbose,
    }


def loggers_of(args: argparse.Namespace) -> tuple[str, ...] | None:
    """What ``--logger`` named; None where it was not given."""
    return None if args.logger is None else tuple(name for name in dict.fromkeys(args.logger) if name != "none")
