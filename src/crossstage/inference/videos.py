"""Videos and cameras to RGB frames: upright, each with its time, and safe to open.

What is opened is a single file in a container that holds video: no playlist, which names other files or addresses.
Nothing beyond the limits of an image is decoded.
"""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossstage.errors import DataError
from crossstage.inference.decoders import MAX_PIXELS
from crossstage.inference.images import Pixels
from crossstage.reading.text import visible

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .3gpp .amv .asf .av1 .avi .divx .dv .f4v .flv .gxf .h264 .h265 .hevc .ivf .m1v .m2t .m2ts "
    ".m2v .m4v .mj2 .mjpeg .mjpg .mk3d .mkv .mod .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut .obu .ogm .ogv .qt .rm "
    ".rmvb .tod .trp .ts .vob .webm .wmv .wtv .y4m".split()
)
# FFmpeg's names of what reads those: neither playlists, nor scripts, nor images.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,kux,mpeg,mpegts,mpegvideo,asf,ogg,mxf,nut,rm,wtv,dv,gxf,"
    "h264,hevc,m4v,mjpeg,mjpeg_2000,yuv4mpegpipe,ivf,obu,av1,vvc,vc1,h263,h261,cavsvideo,nsv,flic,pva,ipmovie"
)
_OPTIONS = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
_MAX_THREADED = 16_000_000  # pixels of a frame above which frames are not decoded side by side, each with its memory


class NoVideoError(Exception):
    """A video that cannot be read, or not on; the message says why."""


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        pixels: ``(H, W, 3)`` RGB uint8, upright.
        time_s: Seconds since the first frame.
        rate: Frames per second of the video, on average.
    """

    pixels: Pixels
    time_s: float
    rate: float


def is_video(path: Path) -> bool:
    """Return whether a file, whose ending says nothing, holds video that can be decoded."""
    try:
        with _opened(path) as container:
            return bool(container.streams.video) and container.streams.video[0].codec_context is not None
    except NoVideoError:
        return False


def read_video(path: Path) -> Iterator[Frame]:
    """Yield the frames of a video file.

    Args:
        path: The file.

    Raises:
        NoVideoError: It is no video or a damaged one; what comes before the damage has been yielded.
    """
    with _opened(path) as container:
        yield from frames_of(container)


def read_camera(number: int) -> Iterator[Frame]:
    """Yield the frames of a camera.

    Args:
        number: The camera's number, from 0.

    Raises:
        DataError: It cannot be opened.
        NoVideoError: It stopped.
    """
    import av

    device, driver = {
        "Linux": (f"/dev/video{number}", "v4l2"),
        "Darwin": (str(number), "avfoundation"),
    }.get(platform.system(), (f"video={number}", "dshow"))
    try:
        container = av.open(device, format=driver)
    except Exception as error:  # drivers fail in any way
        raise DataError(f"camera {number} ({device}) cannot be opened: {error}") from None
    with container:
        yield from frames_of(container)


def _opened(path: Path) -> InputContainer:
    import av

    try:
        if not path.is_file():  # a pipe would block, and FFmpeg opens devices
            raise NoVideoError("is no file" if path.exists() else "no such file")
        return av.open(str(path), options=_OPTIONS)
    except NoVideoError:
        raise
    except Exception as error:  # containers raise anything; a name that is no text, UnicodeError
        raise NoVideoError(reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """Return what FFmpeg or a driver says of an error, in a line."""
    return visible(getattr(error, "strerror", None) or error) or type(error).__name__


def frames_of(container: InputContainer) -> Iterator[Frame]:
    """Yield the frames of what was opened.

    Raises:
        NoVideoError: It holds no video that can be decoded, or is damaged; what comes before that has been yielded.
    """
    if not container.streams.video:
        raise NoVideoError("it holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise NoVideoError("no decoder for its video")
    _check_size(stream.width, stream.height)
    stream.thread_type = "AUTO" if stream.width * stream.height <= _MAX_THREADED else "SLICE"
    rate = _rate(stream)
    first: float | None = None
    number = 0
    frames = container.decode(stream)
    while (frame := _next(frames)) is not None:
        time = number / rate if frame.time is None else float(frame.time)
        first = time if first is None else first
        yield Frame(_pixels(frame), max(0.0, time - first), rate)
        number += 1
    if number == 0:
        raise NoVideoError("it holds no frame")


def _next(frames: Iterator[VideoFrame]) -> VideoFrame | None:
    try:
        return next(frames, None)
    except Exception as error:  # decoders raise anything
        raise NoVideoError(reason_of(error)) from None


def _rate(stream: VideoStream) -> float:
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    return rate if 0 < rate < 1e6 else 25.0


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise NoVideoError(f"frames of {width} x {height} pixels; more than {MAX_PIXELS:,} are refused unread")


def _pixels(frame: VideoFrame) -> Pixels:
    """Return a frame's pixels as they are to be shown."""
    _check_size(frame.width, frame.height)
    try:
        pixels = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        turned = pixels if matrix is None else _turned(pixels, bytes(matrix))
    except Exception as error:  # formats of pixels that cannot be turned into RGB
        raise NoVideoError(reason_of(error)) from None
    return np.ascontiguousarray(turned)


def _turned(pixels: Pixels, matrix: bytes) -> NDArray[np.uint8]:
    """Apply a container's display matrix: turns by quarters, and mirrors.

    The matrix is of nine 32-bit numbers, of which ``a b`` and ``c d`` say where a step to the right and one down lead:
    a pixel at (x, y) is shown at (a x + c y, b x + d y).
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    if abs(b) + abs(c) > abs(a) + abs(d):  # rows become columns
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    if a < 0:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if d < 0 else pixels
