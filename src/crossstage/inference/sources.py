"""Where images come from: files, folders, globs, lists, videos, cameras, and what Python hands over."""

from __future__ import annotations

import glob
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from crossstage.errors import DataError, one_of
from crossstage.inference import streams, videos
from crossstage.inference.decoders import IMAGE_SUFFIXES, is_image
from crossstage.inference.images import Pixels, load_image, load_reduced
from crossstage.inference.videos import VIDEO_SUFFIXES, Frame, NoVideoError
from crossstage.reading.finding import NO_ENDING, find_files, is_hidden
from crossstage.reading.text import read_lines, shortened, visible

EXPECTED = (
    "a path, glob, camera's number, stream's address, PIL image, array (H, W, 3) of RGB uint8, or an iterable of these"
)


@dataclass(frozen=True)
class SourceImage:
    """One image or video frame.

    Attributes:
        name: The path as it was given or found, or what stands for it.
        relative: Path below which an annotated copy belongs: inside of a folder its place there, else the bare name.
        pixels: ``(H, W, 3)`` RGB uint8; of a JPEG that was read at a reduced scale, or of a large image whose pixels
            nobody asked for, fewer.
        frame: Number of the frame in its video or camera, from 0; None for an image.
        frame_rate: Frames per second of the video, on average; None for an image.
        decode_ms: Milliseconds that reading took.
        whole_size: Height and width in the file, where ``pixels`` is a reduced copy.
        time_s: Seconds from the video's first frame to this one; None for an image.
    """

    name: str
    relative: PurePath
    pixels: Pixels
    frame: int | None
    frame_rate: float | None
    decode_ms: float
    whole_size: tuple[int, int] | None = None
    time_s: float | None = None

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
        what: Path of an image, video, folder (searched recursively) or ``.txt`` list; a glob; a camera's number; the
            address of a stream, ``rtsp://`` or ``http://``; a PIL image or RGB uint8 array; or an iterable of these, of
            which one without a length is read as it comes.

    Attributes:
        total: Number of images, if it is known before reading: None for videos and cameras.
        single: Whether it is one image.
        live: Whether images come when they come, as from a camera or a generator.
        passed_over: How many files of folders and globs are no images or videos, by their ending or a reason such as
            ``"hidden"``, and how many frames of a stream came while others were looked at; it grows while entries are
            read that are not known before.

    Raises:
        DataError: Nothing is there, or nothing that could be read.
    """

    def __init__(self, what: Any) -> None:
        self.passed_over: Counter[str] = Counter()
        self._camera = _camera_number(what)
        self._stream = what if isinstance(what, str) and streams.is_stream(what) and not _exists(what) else None
        flowing = self._camera is not None or self._stream is not None
        self._items: Iterable[_Item] = [] if flowing else _resolve(what, self.passed_over)
        self.total: int | None = None
        if not flowing and isinstance(what, (str, os.PathLike, Image.Image, Sized)):
            self._items = list(self._items)
            self.total = None if any(map(_is_video, self._items)) else len(self._items)
        self.single = self.total == 1
        self.live = not isinstance(self._items, list) or flowing

    def __iter__(self) -> Iterator[SourceImage | Unreadable]:
        return (read() for read in self.readers())

    @property
    def files(self) -> list[Path]:
        """The files that are read, as far as they are known before: none of a generator's."""
        known = self._items if isinstance(self._items, list) else []
        return [item.content for item in known if isinstance(item.content, Path)]

    def readers(self, at_least: tuple[int, int] | None = None) -> Iterator[Reader]:
        """Yield a function for each image, which reads it, in any thread and in any order.

        What has an order or an owner is read before its function is given out: frames of videos, and images in
        memory, of which a generator's are copied, since it may fill the same array again.

        Args:
            at_least: Height and width below which JPEGs are not reduced; None reads all as they are.
        """
        if self._camera is not None:
            yield from map(_already_read, _read_camera(self._camera))
        if self._stream is not None:
            yield from map(_already_read, self._read_stream(self._stream))
        for item in self._items:
            if _is_video(item):
                yield from map(_already_read, _read_video(item))
            elif isinstance(item.content, Path):
                yield partial(_read_image, item, at_least)
            else:
                yield _already_read(_read_image(_copied(item) if self.live else item))

    def _read_stream(self, address: str) -> Iterator[SourceImage | Unreadable]:
        name = streams.shown(address)
        frames = streams.read_stream(address, lambda: self.passed_over.update(["frames, to keep up with the stream"]))
        try:
            yield from _timed(frames, name, PurePath(f"{_file_name(name)}.mp4"))
        except NoVideoError as error:
            yield Unreadable(name, f"{visible(name)} stopped: {error}")


def _file_name(address: str) -> str:
    """Return an address as the name of a file: its letters and digits."""
    plain = PurePath(re.sub(r"[^A-Za-z0-9.]+", "-", address.partition("://")[2].partition("?")[0]).strip("-."))
    return (plain.stem if plain.suffix in VIDEO_SUFFIXES else plain.name)[:80] or "stream"


def _camera_number(what: Any) -> int | None:
    if isinstance(what, Integral) and not isinstance(what, bool):
        return int(what)
    return int(what) if isinstance(what, str) and what.isdecimal() and len(what) < 10 and not _exists(what) else None


def _resolve(what: Any, passed_over: Counter[str]) -> Iterator[_Item]:
    if isinstance(what, (Image.Image, np.ndarray)):
        yield _Item(what, "image", PurePath("image.png"))
    elif isinstance(what, (str, os.PathLike)):
        yield from _resolve_path(os.fsdecode(what), passed_over)
    elif _is_sequence(what):
        found = False
        for number, entry in enumerate(what):
            for item in _resolve_entry(entry, passed_over):
                found = True
                unnamed = not isinstance(item.content, Path)
                yield _Item(item.content, f"image {number}", PurePath(f"image{number}.png")) if unnamed else item
        if not found:
            raise DataError("no image: the source is empty")
    else:
        raise DataError(f"source of type {type(what).__name__}; expected {EXPECTED}")


def _is_sequence(what: Any) -> bool:
    """Return whether something is made of several images: not bytes, a mapping, or a tensor, which iterates over rows.

    A tensor of another library says that it can become an array; its order of axes and its scale are unknown.
    """
    return isinstance(what, Iterable) and not (
        isinstance(what, (bytes, bytearray, memoryview, Mapping)) or hasattr(what, "__array__")
    )


def _resolve_entry(entry: Any, passed_over: Counter[str]) -> Iterator[_Item]:
    """Resolve one of many entries: unlike in :func:`_resolve`, a missing file is reported when its turn comes."""
    if isinstance(entry, (str, os.PathLike)) and not _exists(entry) and not glob.has_magic(str(entry)):
        yield _Item(Path(entry), str(entry), PurePath(Path(entry).name))
    else:
        yield from _resolve(entry, passed_over)


def _resolve_path(text: str, passed_over: Counter[str]) -> Iterator[_Item]:
    path = Path(text)
    if not text.strip():
        raise DataError("the source is empty text; expected a path, glob or camera number")
    if not _exists(path):
        if not glob.has_magic(text):
            what = "no such file or folder"
            if "://" in text:
                what = f"an address; {one_of(text.partition('://')[0], streams.SCHEMES)}, a file or a camera's number"
            raise DataError(f"{shortened(text)}: {what}")
        yield from _resolve_glob(text, passed_over)
    elif path.is_dir():
        yield from _resolve_folder(path, passed_over)
    elif path.suffix.lower() == ".txt":
        yield from _resolve_list(path)
    else:
        yield _Item(path, text, PurePath(path.name))


def _resolve_glob(text: str, passed_over: Counter[str]) -> Iterator[_Item]:
    found = False
    for match in sorted(map(Path, glob.glob(text, recursive=True))):  # noqa: PTH207 (Path.glob takes no absolute pattern)
        if _known(match) and not is_hidden(match.name):
            found = True
            yield _Item(match, str(match), PurePath(match.name))
        elif not match.is_dir():
            passed_over["hidden" if is_hidden(match.name) else match.suffix.lower() or NO_ENDING] += 1
    if not found:
        raise DataError(f"{shortened(text)}: no image or video matches{_told(passed_over)}")


def _resolve_folder(folder: Path, passed_over: Counter[str]) -> Iterator[_Item]:
    found = find_files(folder, IMAGE_SUFFIXES | VIDEO_SUFFIXES)
    passed_over.update(found.passed_over)
    if not found.files:
        raise DataError(
            f"{visible(folder)}: no image or video in it{_told(found.passed_over)}; "
            f"looked for {' '.join(sorted(IMAGE_SUFFIXES))} and videos"
        )
    yield from (_Item(file, str(file), file.relative_to(folder)) for file in found.files)


def _told(passed_over: Mapping[str, int]) -> str:
    return f" ({passed_over_text(passed_over)})" if passed_over else ""


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """Return what a source passed over as text: ``passed over: 3 .mts, 1 hidden``; the most frequent first."""
    counts = Counter(passed_over).most_common()
    more = f", and {sum(count for _, count in counts[8:])} others" if len(counts) > 8 else ""
    return "passed over: " + ", ".join(f"{count} {visible(kind)}" for kind, count in counts[:8]) + more


def _resolve_list(path: Path) -> Iterator[_Item]:
    """Read paths from a text file, one in each line, below the file's folder or else the working directory."""
    found = False
    for line in map(str.strip, read_lines(path, expected="the path of an image in each line")):
        if line and not line.startswith("#"):
            found = True
            candidates = [
                base / name for name in dict.fromkeys((line, line.replace("\\", "/"))) for base in (path.parent, Path())
            ]
            file = next(filter(_exists, candidates), Path(line))
            yield _Item(file, str(file), PurePath(file.name))
    if not found:
        raise DataError(f"{visible(path)}: no path in it")


def _exists(file: str | os.PathLike[str]) -> bool:
    try:
        return Path(file).exists()
    except (OSError, ValueError):  # too long a name, one with a NUL, or a folder that may not be entered
        return False


def _known(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _is_video(item: _Item) -> bool:
    """Return whether a file is a video by its ending or, where that says nothing, because it is no image."""
    if not isinstance(item.content, Path):
        return False
    if _known(item.content):
        return item.content.suffix.lower() in VIDEO_SUFFIXES
    return _exists(item.content) and not is_image(item.content) and videos.is_video(item.content)


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
    assert isinstance(item.content, Path)
    try:
        yield from _timed(videos.read_video(item.content), item.name, item.relative)
    except NoVideoError as error:
        yield Unreadable(item.name, f"{visible(item.name)}: cannot be read as a video: {error}")


def _read_camera(number: int) -> Iterator[SourceImage | Unreadable]:
    name = f"camera {number}"
    frames = videos.read_camera(number)
    try:
        yield from _timed(frames, name, PurePath(f"camera{number}.mp4"))
    except NoVideoError as error:
        yield Unreadable(name, f"{name} stopped: {error}")


def _timed(frames: Iterator[Frame], name: str, relative: PurePath) -> Iterator[SourceImage]:
    start = time.perf_counter()
    for number, frame in enumerate(frames):
        yield SourceImage(name, relative, frame.pixels, number, frame.rate, _since(start), time_s=frame.time_s)
        start = time.perf_counter()


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1000
