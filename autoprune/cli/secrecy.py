"""Passwords in database addresses: kept out of what is printed, and of what other users of this machine can list."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from urllib.parse import unquote, unquote_plus

__all__ = ["hide_passwords", "parted", "without_password"]

_IN_PLACE = re.compile(r"(?<=://)(?P<user>[^:/@]*):(?P<password>[^@]*)@")
_IN_QUERY = re.compile(r"(?P<before>[?&])password=(?P<password>[^&]*)")
_FLAG = "--storage"


def parted(url: str) -> tuple[str, str | None]:
    """A database address without its password, and the password, decoded; None where it has none.

    Example:
        >>> parted("postgresql://me:s%2Fx@host/db")
        ('postgresql://me@host/db', 's/x')
    """
    if found := _IN_PLACE.search(url):
        return _IN_PLACE.sub(r"\g<user>@", url, count=1), unquote(found["password"])
    if found := _IN_QUERY.search(url):
        bare = _IN_QUERY.sub(r"\g<before>", url, count=1).replace("?&", "?").replace("&&", "&").rstrip("?&")
        return bare, unquote_plus(found["password"])
    return url, None


def without_password(url: str) -> str:
    """A database address as it may be printed; libpq then takes the password from PGPASSWORD or ~/.pgpass."""
    return parted(url)[0]


def hide_passwords(arguments: Sequence[str]) -> None:
    """Start this command over, without the password of ``--storage``, where there is one.

    Anybody on the machine can list the arguments of a process, and Ray stores those of a driver. The environment is its
    owner's alone: libpq takes the password from there.
    """
    hidden, password = [], None
    for place, argument in enumerate(arguments):
        is_value = place > 0 and arguments[place - 1] == _FLAG
        if is_value or argument.startswith(f"{_FLAG}="):
            argument, found = parted(argument)
            password = found if found is not None else password
        hidden.append(argument)
    if password is None or not hasattr(os, "execve") or sys.platform == "win32":
        return
    start = sys.orig_argv[1 : len(sys.orig_argv) - len(arguments)]
    os.execve(sys.executable, [sys.executable, *start, *hidden], {**os.environ, "PGPASSWORD": password})
