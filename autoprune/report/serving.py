"""The same page live: a small server on this machine, which makes the page anew when there is news."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autoprune.errors import AutopruneError, ConfigError
from autoprune.report.markup import escaped

__all__ = ["serve"]

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_NAMES = (_HOST, "localhost", "[::1]")


class _Source:
    """The newest page; made when it is asked for and something has changed since the last one."""

    def __init__(self, version: Callable[[], str], render: Callable[[str], str]) -> None:
        self._version, self._render = version, render
        self._guard = threading.Lock()
        self._made: tuple[str, bytes] | None = None

    def version(self) -> str:
        with self._guard:
            return self._version()

    def page(self) -> bytes:
        with self._guard:
            version = self._version()
            if self._made is None or self._made[0] != version:
                self._made = version, self._render(version).encode()
            return self._made[1]


class _Handler(BaseHTTPRequestHandler):
    source: _Source
    port: int

    def do_GET(self) -> None:
        """The page at ``/``, the version of what it shows at ``/version``; nothing else."""
        # A page of another site can bring a browser here under a name of its own.
        if self.headers.get("Host", "") not in {f"{name}:{self.port}" for name in _NAMES}:
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"Ask for localhost.", "text/plain")
            return
        path = self.path.split("?")[0]
        try:
            if path == "/":
                self._answer(HTTPStatus.OK, self.source.page(), "text/html")
            elif path == "/version":
                self._answer(HTTPStatus.OK, self.source.version().encode(), "text/plain")
            else:
                self._answer(HTTPStatus.NOT_FOUND, b"There is only / here.", "text/plain")
        except AutopruneError as error:
            body = f"<!DOCTYPE html><title>autoprune</title><p>{escaped(error)}</p>"
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, body.encode(), "text/html")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # Whoever asked has gone.

    def _answer(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nothing on the terminal for each request."""
        _log.debug(format, *args)


@contextmanager
def serve(version: Callable[[], str], render: Callable[[str], str], *, port: int) -> Iterator[str]:
    """Serve a page on this machine alone until the block is left.

    Args:
        version: Tells cheaply what the page would show: another text, another page. Called from several threads, one at
            a time.
        render: The page of a version.
        port: To listen on; 0 takes any that is free.

    Yields:
        The page's address.

    Raises:
        ConfigError: The port can't be listened on.
    """
    handler = type("Handler", (_Handler,), {"source": _Source(version, render)})
    try:
        server = ThreadingHTTPServer((_HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"`--port` must be a port that is free here, but {port} is not: "
            f"{getattr(error, 'strerror', None) or error}. Give another one, or 0 for any."
        ) from error
    server.daemon_threads = True
    handler.port = server.server_port  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, name="autoprune-dashboard", daemon=True)
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
