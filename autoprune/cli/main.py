"""The ``autoprune`` command: finds the subcommand, runs it, turns errors into one sentence and an exit code."""

from __future__ import annotations

import argparse
import atexit
import errno
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from autoprune.cli import (
    clean,
    dashboard,
    diff,
    doctor,
    evaluate,
    export,
    init,
    inspect,
    latency,
    launch,
    list_,
    pareto,
    report,
    resume,
    show,
    status,
    stop,
)
from autoprune.cli.secrecy import hide_passwords
from autoprune.errors import AutopruneError, StudyFailedError, in_one_line, unknown_name
from autoprune.importing import allow_own_code

__all__ = ["main"]

_INTERRUPTED = 130
_COMMANDS = (
    init,
    inspect,
    launch,
    resume,
    status,
    stop,
    pareto,
    diff,
    report,
    dashboard,
    show,
    evaluate,
    export,
    latency,
    clean,
    doctor,
    list_,
)

_DESCRIPTION = """\
Find the best widths for a convolutional network.

Give autoprune a network, data and limits. It searches over pruning methods,
their strengths and the widths of every layer, runs the trials in parallel, and
returns the Pareto front of slimmer networks: accuracy against MACs, each point
a network on disk that runs. Everything is remembered in one database, so a
search that was stopped, killed or finished can always go on.
"""

_EPILOG = """\
a first run:
  autoprune init    study.toml --network resnet20 --data FOLDER
  autoprune inspect study.toml             what can be pruned, and how far
  autoprune launch  study.toml             search
  autoprune pareto  NAME                   the front so far, also from another terminal
  autoprune resume  NAME --trials 100      go on

The database is --storage, else $AUTOPRUNE_STORAGE, else autoprune.db in the
current folder. Exit codes: 0 done, 1 study failed or incomplete, 2 bad input,
130 interrupted.
"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as the rest of autoprune does: in a sentence, without the usage of every flag."""

    def error(self, message: str) -> NoReturn:
        said = in_one_line(message).rstrip(".")
        self.exit(2, f"autoprune: {said}. `{self.prog} --help` tells more.\n")

    def refuse_flags(self, found: Sequence[str]) -> NoReturn:
        """Say which of the arguments that nobody took is wrong."""
        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        first = found[0]
        if first.startswith("-"):
            self.error(unknown_name("flag", first.split("=")[0], flags))
        self.error(f"there is one argument too many: {first!r}")


def build_parser() -> _Parser:
    """The whole command line."""
    parser = _Parser(
        prog="autoprune",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for module in _COMMANDS:
        sub = subparsers.add_parser(
            module.NAME,
            help=module.SUMMARY,
            description=module.DESCRIPTION,
            epilog=module.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run, refuse_flags=sub.refuse_flags)
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser, names = build_parser(), [module.NAME for module in _COMMANDS]
    for argument in arguments:
        if not argument.isascii() and argument.encode(errors="ignore").decode() != argument:
            parser.error(f"arguments must be text in UTF-8, but {argument!r} is not")
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command is None and not arguments:
        parser.error(f"a command must be given, one of {', '.join(names)}")
    if command is not None and command not in names:
        parser.error(unknown_name("command", command, names))
    args, left = parser.parse_known_args(arguments)
    if left:
        args.refuse_flags(left)
    return args


def _end_by_signals() -> None:
    """Take SIGTERM and SIGHUP for Ctrl-C, unless they are ignored, as by ``nohup``."""
    if threading.current_thread() is not threading.main_thread():
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def interrupt(signum: int, frame: object) -> None:
        for number in numbers:  # `timeout` sends them twice.
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    if arguments is None:
        hide_passwords(sys.argv[1:])
    args = _parse(sys.argv[1:] if arguments is None else arguments)
    _end_by_signals()
    atexit.register(gc.freeze)  # Else the last look for garbage goes through all of torch and Ray: a second of exit.
    logging.basicConfig(format="autoprune: %(message)s", level=logging.ERROR, stream=sys.stderr)
    if getattr(args, "no_factories", False):
        allow_own_code(False)
    code = _outcome(args)
    if code == _INTERRUPTED and arguments is None:
        _hear_no_more()
    return code


def _hear_no_more() -> None:
    """Let no second signal change the exit code: Python forgets our handlers while it shuts down."""
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


# What disks say that are full, read-only, broken or not ours, which is nobody's fault here: what they refuse, and what
# to do.
_OF_DISKS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ("written", "Make room")),
    errno.EROFS: ("written", "Make the file system writable"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), ("opened", "Give yourself the right to")),
    errno.EIO: ("read and written", "Check the disk"),
}


def _outcome(args: argparse.Namespace) -> int:
    """The exit code of a command, what went wrong told in one line."""
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except StudyFailedError as error:
        print(f"autoprune: {in_one_line(str(error))}", file=sys.stderr)
        return 1
    except AutopruneError as error:
        print(f"autoprune: {in_one_line(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough; the rest must not raise while Python shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _OF_DISKS:
            raise
        refused, advice = _OF_DISKS[error.errno]
        what = "a file" if error.filename is None else str(error.filename)
        told = f"{what} must be {refused}, but can't be: {error.strerror}. {advice}"
        print(f"autoprune: {in_one_line(told)}; what is stored stays, and the same command goes on.", file=sys.stderr)
        return 2
    except MemoryError:
        told = "this needs more memory than there is. Make some free, or give a smaller input"
        print(f"autoprune: {told}; what is stored stays.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
