"""Imports by name: a user's own code, ``package.module:function``, and names of ours once they are used."""

from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprune.errors import ConfigError, unknown_name

__all__ = [
    "allow_own_code",
    "call_factory",
    "called_as",
    "given_name",
    "import_named",
    "is_given",
    "is_own",
    "lazy_names",
    "told",
]

_GIVEN = "pickle:"
_FORBIDDEN = "AUTOPRUNE_NO_FACTORIES"  # In the environment, which the workers of a local cluster inherit.
_RAISED = (Exception, SystemExit)  # A user's module may raise anything, and may be a script that exits.


def is_own(name: str) -> bool:
    """Whether a name stands for somebody's own code rather than for something of ours."""
    return ":" in name


def allow_own_code(is_allowed: bool) -> None:
    """Whether names in files and databases may be imported, by this process and those that it starts."""
    if is_allowed:
        os.environ.pop(_FORBIDDEN, None)
    else:
        os.environ[_FORBIDDEN] = "1"


def _check_allowed(name: str, key: str) -> None:
    if os.environ.get(_FORBIDDEN):
        raise ConfigError(
            f"`{key}` = {told(name)!r} must not be imported, since code of users was ruled out by `--no-factories` or "
            f"{_FORBIDDEN}. Leave that away if you trust where the name comes from."
        )


def is_given(name: str) -> bool:
    """Whether a name stands for an object that was given in Python."""
    return name.startswith(_GIVEN)


def import_named(name: str, *, key: str, what: str) -> Any:
    """Import what ``package.module:name`` says.

    The current folder is searched too, as ``python -m`` does.

    Args:
        name: Where it is.
        key: The key of the study file that named it, for the message.
        what: ``"function"`` or ``"class"``, for the message.

    Raises:
        ConfigError: It can't be imported, or must not be; see `allow_own_code`.
    """
    module_name, colon, attribute_name = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *attribute_name.split("."))):
        shape = "package.module:Class" if what == "class" else f"package.module:{what}"
        raise ConfigError(f"`{key}` must look like {shape}, but got {name!r}.")
    _check_allowed(name, key)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    target: Any = _import(module_name, named=f"`{key}` = {name!r}")
    for part in attribute_name.split("."):
        if not hasattr(target, part):
            own = [(attribute, getattr(target, attribute, None)) for attribute in dir(target)]
            valid = [n for n, v in own if callable(v) and getattr(v, "__module__", None) == module_name]
            raise ConfigError(f"`{key}` = {name!r}: in {module_name} {unknown_name(what, part, valid)}")
        target = getattr(target, part)
    return target


def call_factory(name: str, *, key: str) -> Any:
    """Import ``package.module:function`` and call it without arguments.

    Args:
        name: Where the function is; or the file of an object that was given in Python, see `given_name`.
        key: The key of the study file that named it, for the message.

    Returns:
        What the function returned, or the object anew.

    Raises:
        ConfigError: It can't be imported, is not callable, or raises.
    """
    if is_given(name):
        return _read_given(name, key=key)
    target = import_named(name, key=key, what="function")
    if not callable(target):
        raise ConfigError(f"`{key}` = {name!r} must be a function, but it is a {type(target).__name__}.")
    try:
        return target()
    except _RAISED as error:  # Told to its author as one sentence; the traceback stays chained.
        raise ConfigError(f"`{key}` = {name!r} raised {_in_words(error)}. Fix the function.") from error


def given_name(path: Path, sha256: str) -> str:
    """What stands in a configuration for an object that was given in Python.

    Args:
        path: The file that it was pickled to.
        sha256: Its hash. What is read back must have it, so that no other file can be put in its place.
    """
    return f"{_GIVEN}{path}#{sha256}"


def told(name: str | None) -> str | None:
    """A factory's name, for people and for identities: where an object was kept says nothing of it."""
    return "given in Python" if name is not None and is_given(name) else name


def _read_given(name: str, *, key: str) -> Any:
    _check_allowed(name, key)
    path, _, sha256 = name.removeprefix(_GIVEN).rpartition("#")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"`{key}` was given in Python and kept in {path}, but that can't be read ({error.strerror}). Put the "
            "study's artifacts folder back."
        ) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"`{key}`: {path} must be what the study was started with, but its hash is another.")
    try:
        return pickle.loads(content)
    except _RAISED as error:
        raise ConfigError(
            f"`{key}` was given in Python and can't be read back: {_in_words(error)}. Let its modules be importable, "
            "or name a function, package.module:function."
        ) from error


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package whose names are imported when they are first used.

    Args:
        package: Its dotted name.
        homes: The module that each name lives in.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


def called_as(package: str, home: str) -> None:
    """Let a package be called like the function of the same name that people know.

    Importing ``autoprune.search``, the room, puts it in the place of ``autoprune.search``, the function.

    Args:
        package: Its dotted name.
        home: The module that the function lives in; imported with the first call.
    """

    class Called(types.ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(home), package.rpartition(".")[2])(*args, **kwargs)

    sys.modules[package].__class__ = Called


def _import(module_name: str, *, named: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except _RAISED as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is None or not f"{module_name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{named} can't be imported: its module raised {_in_words(error)}. Fix it, or install what it needs."
            ) from error
        searched = ", ".join(filter(None, [str(Path.cwd()), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]))
        raise ConfigError(
            f"{named} can't be imported: there is no module {missing!r}. "
            f"Searched {searched} and the installed packages; start autoprune where {missing!r} lies, "
            "or put its folder on PYTHONPATH."
        ) from error


def _in_words(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "").rstrip(".")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
