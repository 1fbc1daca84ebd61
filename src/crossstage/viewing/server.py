"""The page of a dataset, for browsers of this machine: a server that hands out images by number and nothing by path."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from crossstage.errors import ConfigError, DataError, first_line
from crossstage.loopback import HOST, OWN_NAMES, host_of, port_error
from crossstage.machine import StopRequests
from crossstage.reading.text import visible
from crossstage.viewing.gallery import ORDERS, Gallery, Wish
from crossstage.viewing.rendering import Renderings

MOST_TILES = 200  # of a page
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""The parts of the page by their paths: file and type."""
_NUMBERED = re.compile(r"/(small|whole|masks|found|told)/([0-9]{1,9})")
_NUMBER = re.compile(r"[0-9]{1,9}")
_LOOK = 0.1  # seconds between looks for a signal
_HEADERS = {
    "Cache-Control": "no-store",  # another dataset may be at the same address next
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_JSON = "application/json"


class DataView:
    """A port of this machine, at which the page of a dataset is shown.

    Args:
        port: The port; 0 takes a free one.

    Attributes:
        address: Where the page is.

    Raises:
        ConfigError: The port is in use, not allowed or out of range.
    """

    def __init__(self, port: int) -> None:
        try:
            self._server = _Server((HOST, port), ViewHandler)
        except (OSError, OverflowError) as error:
            raise port_error(HOST, port, error) from None
        self.port = self._server.server_address[1]
        self.address = f"http://{HOST}:{self.port}/"

    def __enter__(self) -> DataView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server.renderings:  # else nobody serves, and nobody would end it
            self._server.shutdown()
        self._server.server_close()

    def show(self, gallery: Gallery) -> None:
        """Begin to answer, in threads of their own."""
        self._server.gallery, self._server.renderings = gallery, Renderings(gallery)
        threading.Thread(target=self._server.serve_forever, args=[_LOOK], daemon=True, name="data view").start()


def view_until_stopped(view: DataView, gallery: Gallery, on_ready: Callable[[str], object]) -> None:
    """Show a dataset until Ctrl-C or a signal that asks to end.

    Args:
        view: Where.
        gallery: The dataset.
        on_ready: Called with the page's address.
    """
    with StopRequests() as stop:
        view.show(gallery)
        on_ready(view.address)
        while not stop.received:
            time.sleep(_LOOK)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name == "posix"  # elsewhere it lets two servers share a port
    allow_reuse_port = False
    gallery: Gallery
    renderings: Renderings | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (socketserver's signature)
        """Tell what went wrong in a line; a browser that went away is nothing."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            print(f"error: {type(error).__name__}: {visible(first_line(error))}", file=sys.stderr)


class ViewHandler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "CrossStage", ""
    timeout: ClassVar[float | None] = 30.0  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Answer a request."""
        if host_of(self.headers.get("Host", "")) not in OWN_NAMES:
            self._send(421, _JSON, _detail("this server answers to its own name alone, such as localhost"))
            return
        try:
            status, kind, body = self._answer()
        except ConfigError as error:
            status, kind, body = 400, _JSON, _detail(str(error))
        except DataError as error:
            status, kind, body = 404, _JSON, _detail(str(error))
        except Exception as error:  # nobody is left to handle it, and a server goes on
            print(f"error: {visible(self.path)}: {type(error).__name__}: {visible(first_line(error))}", file=sys.stderr)
            status, kind, body = 500, _JSON, _detail("the server failed; its output says why")
        self._send(status, kind, body)

    def _answer(self) -> tuple[int, str, bytes]:
        """Return status, type and body.

        Raises:
            CrossStageError: There is no such thing, or it was asked for in a wrong way.
        """
        server = self.server
        assert isinstance(server, _Server) and server.renderings
        try:
            asked = urlsplit(self.path)
        except ValueError:
            raise DataError("no such page") from None
        if asked.path in FILES:
            name, kind = FILES[asked.path]
            return 200, kind, files("crossstage.viewing").joinpath("html", name).read_bytes()
        if asked.path == "/about":
            return 200, _JSON, _packed(server.gallery.about())
        if asked.path == "/images":
            return 200, _JSON, _packed(_page(server.gallery, asked.query))
        found = _NUMBERED.fullmatch(asked.path)
        if not found:
            raise DataError("no such page")
        what, number = found[1], int(found[2])
        if what == "told":
            return 200, _JSON, _packed(server.gallery.told(number))
        if what in ("masks", "found"):
            return 200, "image/png", server.renderings.masks(number, found=what == "found")
        return 200, "image/jpeg", (server.renderings.small if what == "small" else server.renderings.whole)(number)

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep requests out of the terminal."""


def _packed(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False).encode()


def _detail(text: str) -> bytes:
    return _packed({"detail": visible(text)})


def _page(gallery: Gallery, query: str) -> dict[str, Any]:
    """Return the images that a query asks for: how many there are, and those from ``from`` on, ``count`` of them.

    Raises:
        ConfigError: A word or number of the query is out of range.
    """
    try:
        given = {name: values[-1] for name, values in parse_qs(query, max_num_fields=20).items()}
    except ValueError as error:
        raise ConfigError(f"a query that is not understood: {error}") from None
    wish = Wish(
        given.get("part", ""),
        _number(given, "class") if "class" in given else None,
        given.get("size", ""),
        given.get("fault", ""),
        given.get("error", ""),
        given.get("order", ORDERS[0]),
    )
    first, count = _number(given, "from", 0), min(MOST_TILES, _number(given, "count", 60))
    numbers = gallery.chosen(wish)
    return {"total": len(numbers), "images": [gallery.told(n) for n in numbers[first : first + count].tolist()]}


def _number(given: dict[str, str], name: str, otherwise: int = 0) -> int:
    word = given.get(name, str(otherwise))
    if not _NUMBER.fullmatch(word):
        raise ConfigError(f"{name}={word[:40]!r}; expected a whole number")
    return int(word)
