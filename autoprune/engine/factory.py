"""A user's own network or data, named as ``package.module:function``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError

__all__ = ["call_factory"]


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
    if not colon or not module_name or not function_name:
        raise ConfigError(f"`{key}` must look like package.module:function, but got {name!r}.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        target: Any = importlib.import_module(module_name)
        for part in function_name.split("."):
            target = getattr(target, part)
    except Exception as error:  # A user's module may raise anything while it is imported.
        searched = ", ".join(path or "." for path in sys.path[:4])
        raise ConfigError(
            f"`{key}` = {name!r} can't be imported: {type(error).__name__}: {error}. "
            f"Searched {searched} and the installed packages; start autoprune where {module_name!r} lies, "
            "or put its folder on PYTHONPATH."
        ) from error
    if not callable(target):
        raise ConfigError(f"`{key}` = {name!r} must be a function, but it is a {type(target).__name__}.")
    try:
        return target()
    except Exception as error:  # Told to its author as one sentence; the traceback stays chained.
        raise ConfigError(f"`{key}` = {name!r} raised {type(error).__name__}: {error}. Fix the function.") from error
