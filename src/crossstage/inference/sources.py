"""Where images come from: files, folders, globs, lists, videos, cameras, and what Python hands over."""

from __future__ import annotations

import glob
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from crossstage.errors import DataError
from crossstage.inference.images import Pixels, load_image, load_reduced

if TYPE_CHECKING:
    from av.container import InputContainer

IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)
VIDEO_SUFFIXES = frozenset(".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())
MAX_LIST_BYTES = 64 << 20


@dataclass(frozen=True)
class SourceImage:
    """One image or video frame.

    Attributes:
        name: The path as it was given or found, or what stands for it.
        relative: Path below which an annotated copy belongs: inside of a folder its place there, else the bare name.
        pixels: ``(H, W, 3)`` RGB uint8; of a JPEG that was read at a reduced scale, the reduced pixels.
        frame: Number of the frame in its video or camera, from 0; None for an image.
        frame_rate: Frames per second of the video; None for an image.
        decode_ms: Milliseconds that reading took.
        whole_size: Height and width in the file, where ``pixels`` is a reduced copy.
    """

    name: str
    relative: PurePath
    pixels: Pixels
    frame: int | None
    frame_rate: float | None
    decode_ms: float
    whole_size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole image, in whose pixels detections are."""
        return self.whole_size or (self.pixels.shape[0], self.pixels.shape[1])


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be read, and why; the reason names the file."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Item:
    """Something to open: a file, or an image in memory."""

    content: Path | Image.Image | Pixels
    name: str
    relative: PurePath


Reader: TypeAlias = Callable[[], SourceImage | Unreadable]


class Source:
    """Images from anything, one after the other.

    Args:
        what: Path of an image, video, folder (searched recursively) or ``.txt`` list; a glob; a camera's number; a PIL
            image or RGB uint8 array; or an iterable of these, of which one without a length is read as it comes.

    Attributes:
        total: Number of images, if it is known before reading: None for videos and cameras.
        single: Whether it is one image.
        live: Whether images come when they come, as from a camera or a generator.

    Raises:
        DataError: Nothing is there, or nothing that could be read.
    """

    def __init__(self, what: Any) -> None:
        self._camera = _camera_number(what)
        self._items: Iterable[_Item] = [] if self._camera is not None else _resolve(what)
        self.total: int | None = None
        if self._camera is None and isinstance(what, (str, Path, Image.Image, Sized)):
            self._items = list(self._items)
            self.total = None if any(_is_video(item) for item in self._items) else len(self._items)
        self.single = self.total == 1
        self.live = not isinstance(self._items, list) or self._camera is not None

    def __iter__(self) -> Iterator[SourceImage | Unreadable]:
        return (read() for read in self.readers())

    def readers(self, at_least: tuple[int, int] | None = None) -> Iterator[Reader]:
        """Yield a function for each image, which reads it, in any thread and in any order.

        What has an order or an owner is read before its function is given out: frames of videos, and images in
        memory, of which a generator's are copied, since it may fill the same array again.

        Args:
            at_least: Height and width below which JPEGs are not reduced; None reads all as they are.
        """
        if self._camera is not None:
            yield from map(_already_read, _read_camera(self._camera))
        for item in self._items:
            if _is_video(item):
                yield from map(_already_read, _read_video(item))
            elif isinstance(item.content, Path):
                yield partial(_read_image, item, at_least)
            else:
                yield _already_read(_read_image(_copied(item) if self.live else item))


def _camera_number(what: Any) -> int | None:
    if isinstance(what, int) and not isinstance(what, bool):
        return what
    return int(what) if isinstance(what, str) and what.isdecimal() and not _exists(Path(what)) else None


def _resolve(what: Any) -> Iterator[_Item]:
    if isinstance(what, (Image.Image, np.ndarray)):
        yield _Item(what, "image", PurePath("image.png"))
    elif isinstance(what, (str, Path)):
        yield from _resolve_path(str(what))
    elif isinstance(what, Iterable):
        found = False
        for number, entry in enumerate(what):
            for item in _resolve_entry(entry):
                found = True
                unnamed = not isinstance(item.content, Path)
                yield _Item(item.content, f"image {number}", PurePath(f"image{number}.png")) if unnamed else item
        if not found:
            raise DataError("no image: the source is empty")
    else:
        raise DataError(f"source of type {type(what).__name__}; expected a path, image, array or an iterable of these")


def _resolve_entry(entry: Any) -> Iterator[_Item]:
    """Resolve one of many entries: unlike in :func:`_resolve`, a missing file is reported when its turn comes."""
    if isinstance(entry, (str, Path)) and not _exists(Path(entry)) and not glob.has_magic(str(entry)):
        yield _Item(Path(entry), str(entry), PurePath(Path(entry).name))
    else:
        yield from _resolve(entry)


def _resolve_path(text: str) -> Iterator[_Item]:
    path = Path(text)
    if not text.strip():
        raise DataError("the source is empty text; expected a path, glob or camera number")
    if _exists(path) and path.is_dir():
        yield from _resolve_folder(path)
    elif path.suffix.lower() == ".txt" and _exists(path):
        yield from _resolve_list(path)
    elif _exists(path):
        yield _Item(path, text, PurePath(path.name))
    elif glob.has_magic(text):
        found = sorted(Path(match) for match in glob.glob(text, recursive=True) if _known(Path(match)))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if not found:
            raise DataError(f"{text}: no image or video matches")
        yield from (_Item(file, str(file), PurePath(file.name)) for file in found)
    else:
        raise DataError(f"{text}: no such file or folder")


def _resolve_folder(folder: Path) -> Iterator[_Item]:
    found = sorted(file for file in folder.rglob("*") if file.is_file() and _known(file))
    if not found:
        raise DataError(f"{folder}: no image or video in it; looked for {' '.join(sorted(IMAGE_SUFFIXES))} and videos")
    yield from (_Item(file, str(file), file.relative_to(folder)) for file in found)


def _resolve_list(path: Path) -> Iterator[_Item]:
    """Read paths from a text file, one in each line, below the file's folder or else the working directory."""
    with path.open("rb") as file:
        data = file.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise DataError(f"{path}: longer than {MAX_LIST_BYTES:,} bytes; expected a list of paths")
    found = False
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError:
            line = "\0"
        if "\0" in line:
            raise DataError(f"{path}:{number}: binary data; expected the path of an image") from None
        if line and not line.startswith("#"):
            found = True
            file = path.parent / line
            file = file if _exists(file) else Path(line)
            yield _Item(file, str(file), PurePath(file.name))
    if not found:
        raise DataError(f"{path}: no path in it")


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # too long a name, or a folder that may not be entered
        return False


def _known(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _is_video(item: _Item) -> bool:
    return isinstance(item.content, Path) and item.content.suffix.lower() in VIDEO_SUFFIXES


def _already_read(entry: SourceImage | Unreadable) -> Reader:
    return lambda: entry


def _copied(item: _Item) -> _Item:
    return replace(item, content=item.content.copy()) if isinstance(item.content, np.ndarray) else item


def _read_image(item: _Item, at_least: tuple[int, int] | None = None) -> SourceImage | Unreadable:
    start = time.perf_counter()
    size = None
    try:
        if at_least and isinstance(item.content, Path):
            image, size = load_reduced(item.content, at_least)
        else:
            image = load_image(item.content)
    except DataError as error:
        return Unreadable(item.name, str(error))
    return SourceImage(item.name, item.relative, image, None, None, _since(start), size)


def _read_video(item: _Item) -> Iterator[SourceImage | Unreadable]:
    import av.error

    try:
        with av.open(str(item.content)) as container:
            yield from _frames(container, item.name, item.relative)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        yield Unreadable(item.name, f"{item.name}: cannot be read as a video: {error}")


def _read_camera(number: int) -> Iterator[SourceImage | Unreadable]:
    import av.error

    device, driver = {
        "Linux": (f"/dev/video{number}", "v4l2"),
        "Darwin": (str(number), "avfoundation"),
    }.get(platform.system(), (f"video={number}", "dshow"))
    try:
        container = av.open(device, format=driver)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"camera {number} ({device}) cannot be opened: {error}") from None
    with container:
        try:
            yield from _frames(container, f"camera {number}", PurePath(f"camera{number}.mp4"))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            yield Unreadable(f"camera {number}", f"camera {number} ({device}) stopped: {error}")


def _frames(container: InputContainer, name: str, relative: PurePath) -> Iterator[SourceImage]:
    if not container.streams.video:
        raise ValueError("it holds no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    start = time.perf_counter()
    for number, frame in enumerate(container.decode(stream)):
        image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
        yield SourceImage(name, relative, image, number, rate, _since(start))
        start = time.perf_counter()


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
