"""Serves the picture of a run to browsers on this machine."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Self

from lambdaml.cost.reporting.live import LIVE, POLL_S

HOST = "127.0.0.1"
"""Nobody but this machine can ask."""


class Web:
    """A server of a page that brings itself up to date, while it is entered. It asks nobody for anything itself.

    Args:
        page: A callable that returns the page.
        live: A callable that returns what changes, as JSON.

    Attributes:
        url: The address of the page.
    """

    def __init__(self, page: Callable[[], str], live: Callable[[], str]) -> None:
        self._page, self._live = page, live
        self._ended, self._told = Event(), Event()
        self._server = ThreadingHTTPServer((HOST, 0), _handler_of(self))
        self._server.daemon_threads = True
        self._place = f"{HOST}:{self._server.server_port}"
        self.url = f"http://{self._place}/"

    def answer(self, host: str | None, path: str) -> tuple[int, str, bytes]:
        """Return the status, the type and the content for a request."""
        if host != self._place:
            return 403, "text/plain", b"this page has another address\n"  # a name that was made to lead here
        if path == "/":
            return 200, "text/html; charset=utf-8", self._page().encode()
        if path == LIVE:
            ended, content = self._ended.is_set(), self._live().encode()
            if ended:
                self._told.set()
            return 200, "application/json", content
        return (204, "image/x-icon", b"") if path == "/favicon.ico" else (404, "text/plain", b"there is no such page\n")

    def end(self) -> None:
        """Wait until a browser has asked for the last picture, but not for long, since there may be none."""
        self._ended.set()
        self._told.wait(2 * POLL_S)

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, content = web.answer(self.headers.get("Host"), self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: object) -> None:
            """Say nothing about requests."""

    return Handler
