"""Reading images: any file that a decoder knows to RGB pixels, upright, or a reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossstage.errors import DataError
from crossstage.inference.decoders import (
    BUDGET,
    RESULT_BYTES,
    decoding_bytes,
    errors_about,
    opened,
    refuse_bomb,
)
from crossstage.reading.text import shortened

Pixels = NDArray[np.uint8]

GREY = 128  # of rows that are missing
_STRIP_PIXELS = 1 << 20  # converted at a time, so that what is in between takes no memory
_ORIENTATION, _BITS, _WHITES = 0x0112, 258, (341, 281, 50717)  # TIFF's tags, which EXIF shares
_END_OF_JPEG = b"\xff\xd9"


def load_image(source: str | Path | bytes | Image.Image | Pixels, *, repair: bool = False) -> Pixels:
    """Read an image as people see it.

    EXIF orientation is applied; greys of more than 8 bits are scaled, not clipped, by the depth that a TIFF's tags tell
    (``BitsPerSample``, ``SMaxSampleValue``, ``MaxSampleValue``, ``WhiteLevel``), else from 16 bits: 12-bit values in a
    file that does not say so are nearly black. Transparency is laid on white; of an animation or a document with pages
    the first is taken.

    Args:
        source: A path, a file's content, a PIL image, or an array ``(H, W, 3)`` of RGB uint8, which is returned as
            it is.
        repair: Read a damaged file as far as it goes, and fill the rows that are missing with grey.

    Returns:
        ``(H, W, 3)`` RGB uint8.

    Raises:
        DataError: The file is missing, empty, damaged (so that nothing of it can be read, if ``repair``), not an image,
            larger than 100 megapixels or more costly to decode than the memory that all readers share (1.5 GiB), which
            is found out before anything is decoded; or the array has another shape or type.
    """
    if isinstance(source, np.ndarray):
        return _checked(source)
    if isinstance(source, Image.Image):
        name = "the Image"
        with errors_about(name):
            refuse_bomb(source, name)
            return _pixels(source, name)  # it may not have been decoded yet
    name = _name(source)
    with opened(source, name) as image:
        jpeg = image.format in ("JPEG", "MPO")
        if not repair or not jpeg:
            return _pixels(image, name, repair=repair)
        try:
            return _pixels(image, name)
        except (OSError, SyntaxError):
            content = source if isinstance(source, bytes) else Path(source).read_bytes()
    with opened(content + _END_OF_JPEG, name) as image:  # libjpeg takes what is missing for grey
        found = _pixels(image, name)
    if (found == found[:1, :1]).all():
        raise DataError(f"{name}: cannot be read: nothing of it is left; expected a whole image")
    return found


def verify_image(source: str | Path | bytes) -> str | None:
    """Decode a whole image as quickly as its format allows, and tell what is wrong with it.

    Args:
        source: A path, or a file's content.

    Returns:
        Why it cannot be read, which names the file; None if it can.
    """
    name = _name(source)
    try:
        with opened(source, name) as image:
            image.draft(None, (1, 1))  # every byte of a JPEG, but an eighth of its sides
            with BUDGET.taken(decoding_bytes(image, name), name):
                image.load()
    except DataError as error:
        return str(error)
    return None


def load_numbers(path: Path) -> NDArray[np.uint16]:
    """Read an image whose greys, or places in a palette, are numbers, as they stand in the file.

    Args:
        path: The file.

    Returns:
        ``(H, W)`` whole numbers from 0 to 65535.

    Raises:
        DataError: As :func:`load_image`; or it has colours or transparency.
    """
    name = _name(path)
    with opened(path, name) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise DataError(f"{name}: an image of {image.mode}; expected 8 or 16 bits of grey, or a palette")
        with BUDGET.taken(decoding_bytes(image, name) + 2 * image.width * image.height, name):
            image.load()
            numbers = np.empty((image.height, image.width), np.uint16)
            for top, strip in _strips(image):
                numbers[top : top + strip.height] = np.asarray(strip)
            return numbers


def load_reduced(source: str | Path | bytes, at_least: tuple[int, int]) -> tuple[Pixels, tuple[int, int]]:
    """Read an image for a small input: a JPEG of more than twice its size is decoded at 1/2, 1/4 or 1/8 scale.

    The scale is a property of JPEG's blocks of 8 x 8 pixels, of which fewer coefficients are transformed, so it saves
    time and memory. Other formats, and images that are not that large, are read by :func:`load_image`'s rules alone.

    Args:
        source: A path, or a file's content.
        at_least: Height and width in pixels that neither side is reduced below.

    Returns:
        ``(H, W, 3)`` RGB uint8, and height and width of the whole image.

    Raises:
        DataError: As :func:`load_image`.
    """
    name = _name(source)
    with opened(source, name) as image:
        if image.format not in ("JPEG", "MPO"):
            found = _pixels(image, name)
            return found, (found.shape[0], found.shape[1])
        size = _upright_size(image)
        height, width = at_least
        turned = size != (image.height, image.width)
        image.draft(None, (height, width) if turned else (width, height))
        return _pixels(image, name), size


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of an image file as people see it, from its header alone.

    Raises:
        DataError: The file cannot be read, is no image or has more than 100 megapixels.
    """
    with opened(path, _name(path)) as image:
        return _upright_size(image)


def _name(source: str | Path | bytes) -> str:
    return "the bytes" if isinstance(source, bytes) else shortened(source)


def _checked(array: NDArray) -> Pixels:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise DataError(f"array of shape {array.shape} and type {array.dtype}; expected (H, W, 3) RGB uint8")
    return array


def _orientation(image: Image.Image) -> int:
    """Return how an image is to be turned, as EXIF counts it."""
    if image.format == "TIFF":  # Pillow turns it while decoding, and tells its size turned
        return 1
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = _orientation(image) in (5, 6, 7, 8)  # by a quarter
    return (image.width, image.height) if turned else (image.height, image.width)


def _pixels(image: Image.Image, name: str, *, repair: bool = False) -> Pixels:
    """Decode an image and return it as people see it."""
    with BUDGET.taken(decoding_bytes(image, name) + RESULT_BYTES * image.width * image.height, name):
        white = _white(image)
        missing = _decode(image, repair=repair)
        pixels = _rgb(image, white)
        pixels[missing] = GREY
        return _turned(pixels, _orientation(image))


def _decode(image: Image.Image, *, repair: bool) -> slice:
    """Decode an image in place; return the rows that are missing, none unless a damaged one is to be repaired."""
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError):
        if not repair:
            raise
        image.tile = []  # what has been decoded is all there is  # pyright: ignore[reportAttributeAccessIssue]
        try:
            image.load()
            box = image.getbbox(alpha_only=False)
        except (OSError, ValueError):
            box = None
        if box is None:
            raise
        return slice(box[3], None) if box[3] < image.height else slice(0, box[1])  # some formats begin below
    return slice(0, 0)


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield an image in strips of some rows, with the number of the first."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(image.height, top + rows)))


def _rgb(image: Image.Image, white: float) -> Pixels:
    """Return an image's pixels, not turned.

    Args:
        image: The image, decoded.
        white: The value of white where pixels are single numbers of more than 8 bits; for others of 16 bits, which
            Pillow cuts to 8, the same.
    """
    deep = image.mode.startswith("I") or image.mode == "F"
    if image.mode == "F":
        greatest = max(float(np.nan_to_num(np.asarray(strip)).max()) for _, strip in _strips(image))
        white = 1 if greatest <= 1 else 255
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top, strip in _strips(image):
        into = pixels[top : top + strip.height]
        if deep:
            grey = np.nan_to_num(np.asarray(strip, dtype=np.float32)) * (255 / white)
            into[...] = grey.round().clip(0, 255)[..., None]
        else:
            into[...] = np.asarray(_to_rgb(strip))
            if white < 65535:
                into[...] = np.minimum(into * (65535 / white), 255)
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return an image of 8 bits as RGB, on white where it is transparent."""
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.upper())
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    if image.mode == "LAB":
        return _from_lab(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    turned = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
    assert turned is not None
    return turned


def _white(image: Image.Image) -> float:
    """Return the value of white in a file of more than 8 bits: 65535, or less where a TIFF says so."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return 65535
    (bits, *_), (most, *_) = (_numbers(tags, wanted) for wanted in ((_BITS,), _WHITES))
    if 8 < bits < 16:
        return 2**bits - 1
    return 2 ** int(most).bit_length() - 1 if bits == 16 and 255 < most < 32768 else 65535


def _numbers(tags: object, wanted: tuple[int, ...]) -> tuple[float, ...]:
    """Return the numbers of the first of some tags that a TIFF has; 0 if there are none."""
    for tag in wanted:
        found = getattr(tags, "get", lambda _: None)(tag)
        values = [
            value for value in (found if isinstance(found, tuple) else (found,)) if isinstance(value, (int, float))
        ]
        if values:
            return tuple(values)
    return (0,)


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Return an image upright."""
    turns = {
        2: lambda: pixels[:, ::-1],
        3: lambda: pixels[::-1, ::-1],
        4: lambda: pixels[::-1],
        5: lambda: pixels.swapaxes(0, 1),
        6: lambda: np.rot90(pixels, -1),
        7: lambda: pixels[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(pixels),
    }
    return np.ascontiguousarray(turns[orientation]()) if orientation in turns else pixels
