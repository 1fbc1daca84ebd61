"""Streams from the net to RGB frames: always the newest one, and on again after the connection was lost.

A thread of its own reads as fast as frames come and keeps one, so that whoever looks slowly sees what is there now, not
what was there when the last frame was asked for. A video file on a server is not live: it is read frame by frame.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from crossstage.errors import DataError
from crossstage.inference.videos import CONTAINERS, Frame, NoVideoError, frames_of, reason_of

if TYPE_CHECKING:
    from av.container import InputContainer

SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https")
PATIENCE = 60.0  # seconds without a frame after which a stream is given up
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds before the first new attempt, doubled each time, and at most
OPENING, READING = 10.0, 10.0  # seconds that a server may take to answer, and between two frames
# No protocol that reads files: what a server sends, such as a playlist, must not name one.
_OPTIONS = {
    "format_whitelist": f"{CONTAINERS},rtsp,rtp,sdp,hls,mpjpeg",
    "protocol_whitelist": "rtsp,rtsps,rtmp,rtp,srtp,http,https,httpproxy,tcp,udp,tls,crypto",
}
# Of UDP's packets some are lost, and firewalls drop all. What was looked at to find the format is old by then.
_RTSP = {"rtsp_transport": "tcp", "fflags": "nobuffer"}


def is_stream(text: str) -> bool:
    """Return whether a text is the address of a stream, or of a video on a server."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def shown(address: str) -> str:
    """Return an address without the user and the password that it may hold, for messages and results."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return address.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def read_stream(address: str, dropped: Callable[[], None] = lambda: None) -> Iterator[Frame]:
    """Yield the frames of a stream, until it is over or silent for :data:`PATIENCE` seconds.

    Args:
        address: Such as ``rtsp://camera/stream`` or ``http://camera/video.mjpg``.
        dropped: Called for each frame of a live stream that came while others were looked at, in a thread of its own.

    Yields:
        Of a live stream the newest frame, never the same twice; its time is by this machine's clock, from the first
        frame that came. Of a video file on a server every frame, in the file's time.

    Raises:
        DataError: It cannot be opened at all.
        NoVideoError: It was lost and did not come back.
    """
    try:
        container = _opened(address)
    except NoVideoError as error:
        raise DataError(f"{shown(address)} cannot be opened: {error}") from None
    if container.duration or container.size > 0:  # what is live has neither
        with container:
            yield from frames_of(container)
        return
    newest = _Newest(address, container, dropped)
    try:
        yield from newest
    finally:
        newest.close()


def _opened(address: str) -> InputContainer:
    import av

    try:
        options = {**_OPTIONS, **(_RTSP if address.lower().startswith("rtsp") else {})}
        return av.open(address, options=options, timeout=(OPENING, READING))
    except Exception as error:  # servers and FFmpeg raise anything
        raise NoVideoError(reason_of(error)) from None


class _Newest:
    """The newest frame of a live stream, read by a thread.

    Args:
        address: The stream.
        container: It, opened; closed by the thread.
        dropped: Called for each frame that nobody took.
    """

    def __init__(self, address: str, container: InputContainer, dropped: Callable[[], None]) -> None:
        self._address, self._dropped = address, dropped
        self._frame: Frame | None = None
        self._lost = ""
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._began: float | None = None
        threading.Thread(target=self._read, args=(container,), daemon=True, name="stream").start()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                while self._frame is None and not self._lost:
                    self._changed.wait(0.5)  # not for ever, so that Ctrl-C is heard on every system
                frame, self._frame = self._frame, None
            if frame is None:
                raise NoVideoError(self._lost)
            yield frame

    def close(self) -> None:
        """Let the thread end after the frame that it waits for."""
        self._closed.set()

    def _read(self, container: InputContainer | None) -> None:
        last, pause, why = time.monotonic(), FIRST_PAUSE, ""
        while not self._closed.is_set():
            try:
                with container or _opened(self._address) as opened:
                    for frame in frames_of(opened):
                        if self._closed.is_set():
                            return
                        self._put(frame)
                        last, pause = time.monotonic(), FIRST_PAUSE
                why = "the server ended it"
            except NoVideoError as error:
                why = str(error)
            except Exception as error:  # whatever else happens, who waits for a frame must hear of it
                why = reason_of(error)
            if container:  # told once, not at each attempt
                warnings.warn(f"{shown(self._address)}: lost ({why}); connecting again", stacklevel=2)
            container = None
            if time.monotonic() - last > PATIENCE:
                break
            self._closed.wait(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        with self._changed:
            self._lost = f"no frame for {PATIENCE:g} seconds: {why}"
            self._changed.notify()

    def _put(self, frame: Frame) -> None:
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        with self._changed:
            if self._frame is not None:
                self._dropped()
            self._frame = frame._replace(time_s=now - self._began)
            self._changed.notify()
