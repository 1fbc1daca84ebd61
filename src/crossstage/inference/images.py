"""Reading images: any file that Pillow knows to RGB pixels, upright, or a reason why not."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from crossstage.errors import DataError

MAX_PIXELS = 100_000_000  # a file of a few kilobytes can claim more than memory holds

Pixels = NDArray[np.uint8]


def load_image(source: str | Path | bytes | Image.Image | Pixels) -> Pixels:
    """Read an image as people see it.

    EXIF orientation is applied; 16-bit greys are scaled, not clipped; transparency is laid on white; of an animation or
    a document with pages the first is taken.

    Args:
        source: A path, a file's content, a PIL image, or an array ``(H, W, 3)`` of RGB uint8, which is returned as
            it is.

    Returns:
        ``(H, W, 3)`` RGB uint8.

    Raises:
        DataError: The file is missing, empty, damaged, not an image or larger than 100 megapixels, which is found out
            before anything is decoded; or the array has another shape or type.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    name = f"the {type(source).__name__}" if isinstance(source, (bytes, Image.Image)) else str(source)
    with _errors_about(name):
        if isinstance(source, Image.Image):
            return _to_rgb(source, name)  # it may not have been decoded yet
        with _opened(source, name) as image:
            return _to_rgb(image, name)


def load_numbers(path: Path) -> NDArray[np.integer]:
    """Read an image whose greys, or places in a palette, are numbers, as they stand in the file.

    Args:
        path: The file.

    Returns:
        ``(H, W)`` whole numbers from 0 to 65535.

    Raises:
        DataError: As :func:`load_image`; or it has colours or transparency.
    """
    with _errors_about(str(path)), _opened(path, str(path)) as image:
        _refuse_bomb(image, str(path))
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise DataError(f"{path}: an image of {image.mode}; expected 8 or 16 bits of grey, or a palette")
        return np.asarray(image).astype(np.uint16)


def load_reduced(path: Path, at_least: tuple[int, int]) -> tuple[Pixels, tuple[int, int]]:
    """Read an image for a small input: a JPEG of more than twice its size is decoded at 1/2, 1/4 or 1/8 scale.

    The scale is a property of JPEG's blocks of 8 x 8 pixels, of which fewer coefficients are transformed, so it saves
    time and memory. Other formats, and images that are not that large, are read by :func:`load_image`'s rules alone.

    Args:
        path: The file.
        at_least: Height and width in pixels that neither side is reduced below.

    Returns:
        ``(H, W, 3)`` RGB uint8, and height and width of the whole image.

    Raises:
        DataError: As :func:`load_image`.
    """
    with _errors_about(str(path)), _opened(path, str(path)) as image:
        _refuse_bomb(image, str(path))
        size = _upright_size(image)
        height, width = at_least
        turned = size != (image.height, image.width)
        image.draft(None, (height, width) if turned else (width, height))
        return _to_rgb(image, str(path)), size


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of an image file as people see it, from its header alone.

    Raises:
        DataError: The file cannot be read or is no image.
    """
    try:
        with _without_remarks(), Image.open(path) as image:
            return _upright_size(image)
    except Image.DecompressionBombError:
        raise DataError(f"{path}: claims more pixels than {MAX_PIXELS:,}; refused unread") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "not an image that Pillow can read"
        raise DataError(f"{path}: cannot be read: {reason}") from None


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


@contextmanager
def _errors_about(name: str) -> Iterator[None]:
    try:
        with _without_remarks():
            yield
    except Image.DecompressionBombError:
        raise DataError(f"{name}: claims more pixels than {MAX_PIXELS:,}; refused unread") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name}: not an image that Pillow can read; expected a JPEG, PNG or the like") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{name}: cannot be read: {reason}; expected a whole image") from None


def _opened(source: str | Path | bytes, name: str) -> Image.Image:
    if (len(source) if isinstance(source, bytes) else Path(source).stat().st_size) == 0:
        raise DataError(f"{name}: empty file; expected an image")
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _checked(array: NDArray) -> Pixels:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise DataError(f"array of shape {array.shape} and type {array.dtype}; expected (H, W, 3) RGB uint8")
    return array


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(0x0112, 1)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = _orientation(image) in (5, 6, 7, 8)  # by a quarter
    return (image.width, image.height) if turned else (image.height, image.width)


def _refuse_bomb(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {image.width} x {image.height} pixels; more than {MAX_PIXELS:,} are refused unread")


def _to_rgb(image: Image.Image, name: str) -> Pixels:
    _refuse_bomb(image, name)
    image.load()
    if _orientation(image) in range(2, 9):  # for others Pillow would make a copy
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _scale_grey(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _scale_grey(values: NDArray) -> Pixels:
    """Turn greys of more than 8 bits into RGB: integers up to 65535; floats up to 1, or to 255 if any is above 1."""
    if np.issubdtype(values.dtype, np.floating):
        values = np.nan_to_num(values)
        grey = values * (255 if values.max(initial=0) <= 1 else 1)
    else:
        grey = values / 257
    grey = grey.round().clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
