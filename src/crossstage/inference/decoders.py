"""Which files are images, how they are opened, and what decoding them costs: the edge to Pillow and its decoders.

Pillow opens some seventy formats, one of which (EPS) starts a program to do so. The ones that are read here are named,
whatever a file's ending says, and whatever a decoder raises makes one unreadable image of it.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import IO

from PIL import Image

from crossstage.errors import DataError
from crossstage.reading.budget import Budget
from crossstage.reading.text import shortened, visible

MAX_PIXELS = 100_000_000  # a file of a few kilobytes can claim more than memory holds
MAX_SCANS = 100  # of a JPEG; encoders write some 10
MAX_SCANNED = 3_000_000_000  # scans x pixels of a JPEG: about 10 s
BUDGET = Budget(3 << 29)  # 1.5 GiB: an image of 100 megapixels in most formats
RESULT_BYTES = 3  # a pixel of what readers return
_MODULES = {  # Pillow's decoders, none of which starts a program; HEIF's comes with a package of its own
    **{name: name.title() for name in ("BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TGA", "TIFF")},
    **{"DIB": "Bmp", "JPEG2000": "Jpeg2K", "WEBP": "WebP", "AVIF": "Avif"},
}
_HEIC = frozenset((".heic", ".heics", ".heif", ".heifs", ".hif"))
# Bytes a pixel that a decoder holds beside the image that it fills, measured: canvases, planes, tiles.
_BESIDE = {"WEBP": 13, "AVIF": 9, "HEIF": 9, "JPEG2000": 16, "TIFF": 4}
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SCAN, _END, _PROGRESSIVE = 0xDA, 0xD9, (0xC2, 0xC6, 0xCA, 0xCE)
_SIZES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}  # of a pixel; 4 in other modes


def _known_formats() -> tuple[str, ...]:
    """Load the decoders that there are, and return the names of their formats."""
    found = []
    for name, module in _MODULES.items():
        with suppress(ImportError):  # Pillow can be built without some of them
            import_module(f"PIL.{module}ImagePlugin")
            found.append(name)
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
        found.append("HEIF")
    return tuple(found)


FORMATS = _known_formats()
_OPENED = tuple(name for name in FORMATS if name in Image.OPEN)  # an MPO is opened as the JPEG that it begins with
IMAGE_SUFFIXES = frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS)


@contextmanager
def opened(source: str | Path | bytes, name: str) -> Iterator[Image.Image]:
    """Open an image of a known format and of a size that may be decoded; nothing is decoded yet.

    Args:
        source: A path, or a file's content.
        name: What messages call it.

    Raises:
        DataError: The file is missing, empty or no such image, or whatever is done with it in the context fails.
    """
    with errors_about(name):
        if (len(source) if isinstance(source, bytes) else _file_length(Path(source), name)) == 0:
            raise DataError(f"{name}: empty file; expected an image")
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_OPENED) as image:
            refuse_bomb(image, name)
            yield image


def _file_length(path: Path, name: str) -> int:
    """Return the bytes of a file; what is none is refused unopened, since it may block."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device, pipe or socket"
        raise DataError(f"{name}: cannot be read: is {kind}; expected an image")
    return found.st_size


def is_image(path: Path) -> bool:
    """Return whether a file begins as an image of a known format does, whatever its ending is."""
    try:
        with opened(path, str(path)):
            return True
    except DataError:
        return False


@contextmanager
def errors_about(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an error about one image."""
    try:
        with _without_remarks():
            yield
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"{name}: claims more pixels than {MAX_PIXELS:,}; refused unread") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name}: not an image that Pillow can read; {_expected(name)}") from None
    except Exception as error:  # decoders raise anything: struct.error, RuntimeError, NotImplementedError, ...
        reason = getattr(error, "strerror", None) or visible(error) or type(error).__name__
        raise DataError(f"{name}: cannot be read: {shortened(reason)}; expected a whole image") from None


def _expected(name: str) -> str:
    if Path(name).suffix.lower() in _HEIC and "HEIF" not in FORMATS:
        return "HEIC needs the package pillow-heif"
    return "expected a JPEG, PNG or the like"


def refuse_bomb(image: Image.Image, name: str) -> None:
    """Refuse an image of too many pixels.

    Raises:
        DataError: It has more than 100 megapixels.
    """
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width} x {image.height} pixels; more than {MAX_PIXELS:,} are refused unread")


def decoding_bytes(image: Image.Image, name: str) -> int:
    """Return how many bytes decoding an image takes at most, by its header, without those of what is made of it.

    Args:
        image: The image, not decoded yet.
        name: What messages call it.

    Raises:
        DataError: It is a JPEG that is stored in so many passes that decoding it would take minutes.
    """
    pixels = image.width * image.height
    own = pixels * _SIZES.get(image.mode, 4)
    if image.format in ("JPEG", "MPO"):
        whole = _whole_size(image)
        scans = _scans(image)
        if scans > MAX_SCANS or scans * whole > MAX_SCANNED:
            raise DataError(
                f"{name}: {scans:,} scans of {whole:,} pixels; expected a JPEG of at most {MAX_SCANS} scans"
            )
        return own + (2 * whole * len(image.getbands()) if scans > 1 else 0)  # coefficients are kept for later scans
    if image.format == "TIFF":
        return own + max(_BESIDE["TIFF"] * pixels, _tile_bytes(image))
    return own + _BESIDE.get(image.format or "", 0) * pixels


def _whole_size(image: Image.Image) -> int:
    """Return the pixels of a JPEG before it was scaled down."""
    factor = getattr(image, "decoderconfig", None) or ()
    return image.width * image.height * (factor[0] or 1) ** 2 if factor else image.width * image.height


def _tile_bytes(image: Image.Image) -> int:
    """Return the bytes of a TIFF's tile, which can be larger than the image."""
    tags = getattr(image, "tag_v2", {})
    width, height = (_positive(tags.get(tag)) for tag in (322, 323))
    return width * height * max(1, len(image.getbands())) * 4


def _positive(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _scans(image: Image.Image) -> int:
    """Return how often a JPEG's decoder goes over the image: 1 unless it is progressive or stores colours apart."""
    file: IO[bytes] | None = getattr(image, "fp", None)
    if file is None:  # it has been decoded
        return 1
    place = file.tell()
    try:
        file.seek(0)
        return _count_scans(file.read())
    finally:
        file.seek(place)


def _count_scans(data: bytes) -> int:
    """Count the scans in the bytes of a JPEG up to its end; 1 if the first one holds all that there is."""
    scans = place = colours = 0
    progressive = False
    while found := _MARKER.search(data, place):
        kind, place = data[found.start() + 1], found.end()
        if kind == _END:
            break
        if kind == 0xD8 or place + 2 > len(data):  # the start; or cut off
            continue
        length = struct.unpack_from(">H", data, place)[0]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # a frame's header
            progressive, colours = kind in _PROGRESSIVE, data[place + 7] if place + 7 < len(data) else 1
        if kind == _SCAN:
            scans += 1
            if not progressive and data[place + 2 : place + 3] >= bytes([colours]):
                return 1
        place += length
    return max(scans, 1)


class _WithoutRemarks:
    """Silences Pillow's remarks on metadata, and on sizes that are checked here, while any thread is reading.

    Python keeps one list of filters for all threads, so that of two that overlap, the last to leave has to restore it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._filters = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._readers += 1
            if self._readers == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    self._filters.__exit__(None, None, None)


_without_remarks = _WithoutRemarks()
