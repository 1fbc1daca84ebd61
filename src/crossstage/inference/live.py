"""A page that shows what is found while it is found, for machines without a display: MJPEG over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from types import TracebackType
from typing import ClassVar

from PIL import Image

from crossstage.inference.images import Pixels
from crossstage.loopback import HOST, OWN_NAMES, host_of, port_error

MOST_VIEWERS = 8
LARGEST_SIDE = 1280  # pixels of a frame as it is shown
WAIT = 5.0  # seconds after which a frame is sent again, so that a viewer that is gone is noticed
_BOUNDARY = "frame"
_PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>CrossStage</title>
<style>body{margin:0;background:#111}img{display:block;margin:auto;max-width:100vw;max-height:100vh}</style>
<img src="stream" alt="What the model finds, live"></html>"""


class LiveView:
    """Frames on a page of this machine.

    Args:
        port: The port; 0 takes a free one.

    Attributes:
        address: Where the page is.

    Raises:
        ConfigError: The port is not free.
    """

    def __init__(self, port: int) -> None:
        self._changed = threading.Condition()
        self._pixels: Pixels | None = None
        self._number = 0
        self._closed = False
        try:
            self._server = _Server((HOST, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise port_error(HOST, port, error) from None
        self.address = f"http://{HOST}:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True, name="live view").start()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def show(self, pixels: Callable[[], Pixels]) -> None:
        """Show a frame; it is drawn only if somebody looks.

        Args:
            pixels: Draws it: ``(H, W, 3)`` RGB uint8.
        """
        if self._server.viewers:
            drawn = pixels()
            with self._changed:
                self._pixels, self._number = drawn, self._number + 1
                self._changed.notify_all()

    def stream_to(self, send: Callable[[bytes], object]) -> None:
        """Send frames as they come, until the view is closed or the viewer is gone."""
        seen = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda last=seen: self._closed or self._number != last, WAIT)
                if self._closed:
                    return
                pixels, seen = self._pixels, self._number
            if pixels is not None:
                jpeg = _jpeg(pixels)
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                send(head.encode() + jpeg + b"\r\n")


def _jpeg(pixels: Pixels) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    into = BytesIO()
    image.save(into, "JPEG", quality=80)
    return into.getvalue()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False  # two runs must not share a port
    viewers = 0


def _handler(view: LiveView) -> type[BaseHTTPRequestHandler]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout: ClassVar[float | None] = 30.0  # pyright: ignore[reportIncompatibleVariableOverride]

        def do_GET(self) -> None:
            server = self.server
            assert isinstance(server, _Server)
            if host_of(self.headers.get("Host", "")) not in OWN_NAMES:
                self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            elif self.path == "/":
                self._answer("text/html; charset=utf-8")
                self.wfile.write(_PAGE)
            elif self.path != "/stream":
                self.send_error(HTTPStatus.NOT_FOUND)
            elif server.viewers >= MOST_VIEWERS:
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            else:
                with lock:
                    server.viewers += 1
                try:
                    self._answer(f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
                    view.stream_to(self.wfile.write)
                except OSError:
                    pass  # the viewer is gone
                finally:
                    with lock:
                        server.viewers -= 1

        def _answer(self, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep requests out of the terminal."""

    return Handler
