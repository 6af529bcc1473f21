"""Every exception that autoprune raises on purpose.

::

    AutopruneError                     root; the CLI prints it as one sentence, without a traceback
    ├── ConfigError(ValueError)        a file, flag or argument holds what it must not
    ├── DataError(ValueError)          data that can't be read or doesn't fit the network
    ├── NetworkError(ValueError)       a network that can't be traced, pruned or loaded
    ├── WeightsError(ValueError)       weights that don't fit, or are no safetensors file
    ├── InfeasibleError(ValueError)    limits that no widths can meet
    ├── StorageError(RuntimeError)     a database that can't be opened, is not ours or is too new
    │   └── OutageError                its server is away; it may come back
    ├── IdentityError(ValueError)      a study of this name exists and is another study
    ├── LeaseLostError(RuntimeError)   another driver took this trial over; its late result is dropped
    ├── SpaceExhaustedError(LookupError)  every proposal of the space has been tried
    ├── TrialError(RuntimeError)       a trial broke a promise (attach is the identity, a finite score, ...)
    ├── TrialStoppedError(RuntimeError)  a trial ended itself early, its network can't keep a limit
    └── StudyFailedError(RuntimeError) the study ended early: too many trials failed
        └── WorkerDiedError            a worker died twice in what has to be done before or after trials
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

__all__ = [
    "AutopruneError",
    "ConfigError",
    "DataError",
    "IdentityError",
    "InfeasibleError",
    "LeaseLostError",
    "NetworkError",
    "OutageError",
    "SpaceExhaustedError",
    "StorageError",
    "StudyFailedError",
    "TrialError",
    "TrialStoppedError",
    "WeightsError",
    "WorkerDiedError",
    "first_line",
    "in_one_line",
    "unknown_name",
]

_SHOWN_LETTERS = 200  # Of a name that there is none of.


class AutopruneError(Exception):
    """Root of all errors that are told to a person in one sentence."""


class ConfigError(AutopruneError, ValueError):
    """A file, flag or argument holds what it must not."""


class DataError(AutopruneError, ValueError):
    """Data that can't be read or doesn't fit the network."""


class NetworkError(AutopruneError, ValueError):
    """A network that can't be traced, pruned or loaded."""


class WeightsError(AutopruneError, ValueError):
    """Weights that don't fit the network or are not a plain tensor file."""


class InfeasibleError(AutopruneError, ValueError):
    """Limits that no widths can meet; the message names the reachable minimum."""


class StorageError(AutopruneError, RuntimeError):
    """A database that can't be opened, is not ours, or is of a newer schema."""


class OutageError(StorageError):
    """The database's server does not answer, or has cut the connection; the same call may succeed later."""


class IdentityError(AutopruneError, ValueError):
    """A study of this name exists with another identity."""


class LeaseLostError(AutopruneError, RuntimeError):
    """The trial was taken over by another driver; the late result is dropped."""


class SpaceExhaustedError(AutopruneError, LookupError):
    """Every proposal that the search space allows has been tried."""


class TrialError(AutopruneError, RuntimeError):
    """A trial broke a promise that the engine makes."""


class TrialStoppedError(AutopruneError, RuntimeError):
    """A trial ended itself early, because its network can't keep a limit.

    Args:
        reason: Why, for people.
        found: What it had found beyond its rungs, JSON-serialisable.
    """

    def __init__(self, reason: str, found: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.found = dict(found)


class StudyFailedError(AutopruneError, RuntimeError):
    """The study ended early because too many of its trials failed."""


class WorkerDiedError(StudyFailedError):
    """A worker died twice in a task that is no trial: out of memory, killed, or its machine was lost."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> str:
    """Say that ``name`` is unknown, suggest the nearest valid one and list them all.

    Args:
        kind: What the name is meant to be, in the user's words, such as ``"method"``.
        name: What the user wrote.
        valid: The names that exist.

    Returns:
        Two sentences for an error message.

    Example:
        >>> unknown_name("method", "sliming", ["slimming", "resrep"])
        "there is no method 'sliming'; did you mean 'slimming'? Valid: resrep, slimming."
    """
    names = sorted(valid)
    near = _nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else "."
    shown = repr(name) if len(name) <= _SHOWN_LETTERS else f"{name[:_SHOWN_LETTERS]!r}..."
    return f"there is no {kind} {shown}{hint} Valid: {', '.join(names) or 'none'}."


def first_line(error: BaseException) -> str:
    """What an exception says, as a clause of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def in_one_line(text: str) -> str:
    r"""What is said, in one line that a terminal can show.

    Names out of files and databases stand in messages, and may hold line ends, or what moves the cursor or changes
    colours.

    Example:
        >>> in_one_line("there is no \x1b[31m file\n")
        'there is no \\x1b[31m file'
    """
    line = " ".join(text.split())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def _nearest(name: str, names: list[str]) -> str | None:
    if not 0 < len(name) <= _SHOWN_LETTERS:
        return None
    wanted = name.lower()

    def likeness(valid: str) -> tuple[float, int]:
        # Of equally similar names, people mean the one that begins as they did.
        letters = valid.lower()
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, letters, strict=False)))
        return difflib.SequenceMatcher(None, wanted, letters).ratio(), alike

    best = max(names, key=likeness, default=None)
    if best is not None and likeness(best)[0] >= 0.6:
        return best
    return next((valid for valid in names if valid.lower().startswith(wanted)), None)
