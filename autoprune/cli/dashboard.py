"""``autoprune dashboard``: the report, live."""

from __future__ import annotations

import argparse
import importlib.util
import threading
from typing import TYPE_CHECKING

from autoprune.cli.options import add_storage, natural
from autoprune.errors import ConfigError

if TYPE_CHECKING:
    from autoprune.api import LiveReport

__all__ = ["DESCRIPTION", "EPILOG", "NAME", "SUMMARY", "add_arguments", "run"]

NAME = "dashboard"
SUMMARY = "the report as a live page in your browser"
DESCRIPTION = """\
Serve the page of `autoprune report` on this machine, for this machine alone. It
is made anew when trials have ended, and shows them by itself. Ctrl-C ends it.
With --optuna Optuna's own dashboard is served instead, where it is installed.
"""
EPILOG = """\
examples:
  autoprune dashboard digits
  autoprune dashboard before after --port 9000
  autoprune dashboard digits --optuna
"""
_PORT = 8008
_UNKNOWN_TO_OPTUNA = (
    "Optuna's dashboard knows nothing of a study's [constraints]: trials that break them may be on its front, and "
    "trials that were interrupted are failed ones there. `autoprune pareto NAME` keeps the limits."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the study's name")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="another study to compare it with")
    parser.add_argument(
        "--port", type=natural, default=_PORT, metavar="P", help=f"default {_PORT}; 0: any that is free"
    )
    parser.add_argument("--optuna", action="store_true", help="serve Optuna's dashboard of the whole database")
    add_storage(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted, which is how it ends well."""
    if args.optuna and importlib.util.find_spec("optuna_dashboard") is None:
        raise ConfigError(
            "`--optuna` needs Optuna's dashboard, but it is not installed. Run: pip install optuna-dashboard"
        )
    from autoprune import api

    live = api.LiveReport(args.name, args.other, storage=args.storage)
    try:
        if args.optuna:
            _serve_optuna(args.storage, port=args.port)
        else:
            _serve(live, port=args.port)
    except KeyboardInterrupt:
        print()
    return 0


def _serve(live: LiveReport, *, port: int) -> None:
    from autoprune.report import serve

    with serve(live.version, live.render, port=port) as address:
        print(f"{address} shows it; Ctrl-C ends it", flush=True)
        threading.Event().wait()


def _serve_optuna(storage: str | None, *, port: int) -> None:
    import optuna_dashboard

    from autoprune import api

    if not port:
        raise ConfigError("`--port` must be a port with `--optuna`, but got 0. Leave it out, or name one that is free.")
    try:
        print(f"http://127.0.0.1:{port}/ shows it; Ctrl-C ends it", flush=True)
        print(_UNKNOWN_TO_OPTUNA, flush=True)
        optuna_dashboard.run_server(api.optuna_storage(storage), host="127.0.0.1", port=port)
    except OSError as error:
        raise ConfigError(f"`--port` must be a port that is free here, but {port} is not: {error.strerror}.") from error
