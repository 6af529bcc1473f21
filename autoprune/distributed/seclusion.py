"""A cluster that is started on this machine is nobody else's: where its servers listen, and who may read its token."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["heard_here_alone", "keep_token"]


@contextmanager
def heard_here_alone() -> Iterator[None]:
    """Let the servers of a cluster that is started inside listen on 127.0.0.1, and ask for a token.

    Ray turns the address 127.0.0.1 of a node into one that other machines reach, and its servers then listen on all of
    them; only where it takes itself for unable to form clusters, as on Windows, it stays at home. Whoever reaches a
    server without a token can run code.
    """
    from ray._private import ray_constants

    keep_token()
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def keep_token() -> None:
    """See to it that there is a token for local clusters and that only its owner can read it.

    Ray, which turns tokens on for local clusters, would write one that everybody on this machine can read. What the
    user has set is left alone: a token of the environment, or ``RAY_AUTH_MODE=disabled``.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        status = path.stat()
        if status.st_uid == os.getuid() and status.st_mode & 0o077:
            path.chmod(0o600)
    except OSError:  # A home that can't be written: Ray tells of it in its own words.
        return
