"""A user's own network or data, named as ``package.module:function``."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError, unknown_name

__all__ = ["call_factory"]

_RAISED = (Exception, SystemExit)  # A user's module may raise anything, and may be a script that exits.


def call_factory(name: str, *, key: str) -> Any:
    """Import ``package.module:function`` and call it without arguments.

    The current folder is searched too, as ``python -m`` does.

    Args:
        name: Where the function is.
        key: The key of the study file that named it, for the message.

    Returns:
        What the function returned.

    Raises:
        ConfigError: It can't be imported, is not callable, or raises.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *function_name.split("."))):
        raise ConfigError(f"`{key}` must look like package.module:function, but got {name!r}.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    target: Any = _import(module_name, named=f"`{key}` = {name!r}")
    for part in function_name.split("."):
        if not hasattr(target, part):
            own = [(attribute, getattr(target, attribute, None)) for attribute in dir(target)]
            valid = [n for n, v in own if callable(v) and getattr(v, "__module__", None) == module_name]
            raise ConfigError(f"`{key}` = {name!r}: in {module_name} {unknown_name('function', part, valid)}")
        target = getattr(target, part)
    if not callable(target):
        raise ConfigError(f"`{key}` = {name!r} must be a function, but it is a {type(target).__name__}.")
    try:
        return target()
    except _RAISED as error:  # Told to its author as one sentence; the traceback stays chained.
        raise ConfigError(f"`{key}` = {name!r} raised {_told(error)}. Fix the function.") from error


def _import(module_name: str, *, named: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except _RAISED as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{named} can't be imported: its module raised {_told(error)}. Fix it, or install what it needs."
            ) from error
        searched = ", ".join(filter(None, [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        raise ConfigError(
            f"{named} can't be imported: there is no module {missing!r}. "
            f"Searched {searched} and the installed packages; start autoprune where {missing!r} lies, "
            "or put its folder on PYTHONPATH."
        ) from error


def _told(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
