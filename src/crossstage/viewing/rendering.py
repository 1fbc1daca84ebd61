"""The images of a dataset as a browser shows them: small, whole, and their masks, made when they are asked for."""

from __future__ import annotations

import colorsys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from crossstage.data.masks import Mask, rasterise
from crossstage.inference.images import Pixels, load_image, load_reduced
from crossstage.viewing.gallery import Gallery

SMALL, WHOLE = 320, 2048  # the longest side in pixels
KEPT = 64 << 20  # bytes of images that are kept
AT_ONCE = 2  # images that are decoded side by side
MOST_MASKS = 300  # of an image that are drawn
OPACITY = 0.45  # of masks
_COLOURS = 255  # that a palette has beside nothing
_TURN = 137.508  # degrees between the hues of neighbouring classes, which never meet


class Renderings:
    """Images by number, as files for a browser; the last ones are kept, up to a bound.

    Args:
        gallery: The images.
        kept: Bytes that are kept at most.
    """

    def __init__(self, gallery: Gallery, kept: int = KEPT) -> None:
        self._gallery, self._most = gallery, kept
        self._made: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)

    @property
    def kept(self) -> int:
        """How many bytes are kept."""
        return sum(map(len, self._made.values()))

    def small(self, number: int) -> bytes:
        """Return an image as a small JPEG.

        Raises:
            DataError: There is no such image, or it cannot be read.
        """
        file = self._gallery.file(number)
        return self._once(("small", number), lambda: _jpeg(load_reduced(file, (SMALL, SMALL))[0], SMALL))

    def whole(self, number: int) -> bytes:
        """Return an image as a JPEG of its own size, or 2048 pixels along its longer side.

        Raises:
            DataError: There is no such image, or it cannot be read.
        """
        file = self._gallery.file(number)
        return self._once(("whole", number), lambda: _jpeg(load_image(file), WHOLE))

    def masks(self, number: int, *, found: bool) -> bytes:
        """Return the masks of an image as a PNG to be laid over it, in the colours of their classes.

        Args:
            number: The image.
            found: Whether those that the model found are wanted.

        Raises:
            DataError: There is no such image, or none of its objects has a mask.
        """
        masks, size = self._gallery.masks(number, found=found)
        return self._once(("masks", number, found), lambda: _png(masks[:MOST_MASKS], size))

    def _once(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        with self._turns:
            made = make()
        with self._lock:
            self._made[key] = made
            while len(self._made) > 1 and self.kept > self._most:
                self._made.popitem(last=False)
        return made


def _jpeg(pixels: Pixels, side: int) -> bytes:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    into = BytesIO()
    image.save(into, "JPEG", quality=88)
    return into.getvalue()


def _png(masks: Sequence[tuple[int, Mask]], size: tuple[int, int]) -> bytes:
    height, width = size
    scale = min(1.0, WHOLE / max(size))
    rows = ((np.arange(max(1, round(height * scale))) + 0.5) / scale).astype(int).clip(0, height - 1)
    columns = ((np.arange(max(1, round(width * scale))) + 0.5) / scale).astype(int).clip(0, width - 1)
    numbers = np.zeros((len(rows), len(columns)), np.uint8)
    for class_id, mask in masks:
        numbers[rasterise(mask, size, (0, 0, 0, 0))[np.ix_(rows, columns)]] = 1 + class_id % _COLOURS
    image = Image.fromarray(numbers, "P")
    image.putpalette([0, 0, 0, *(part for number in range(_COLOURS) for part in _colour(number))])
    into = BytesIO()
    image.save(into, "PNG", transparency=bytes([0, *[round(255 * OPACITY)] * _COLOURS]))
    return into.getvalue()


def _colour(class_id: int) -> tuple[int, int, int]:
    """Return the RGB of a class, as the page's script has it."""
    red, green, blue = colorsys.hls_to_rgb(class_id * _TURN % 360 / 360, 0.5, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)
