"""Masks of a dataset: as their sources state them, in a few arrays for all objects, and as pixels.

A mask is a list of polygons, COCO's packed run-length encoding, or None where an object has none. All sources are
checked here; what is kept is sound, and takes bounded time and memory to be drawn.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from crossstage.errors import DataError
from crossstage.inference.decoders import MAX_PIXELS
from crossstage.ops import rle
from crossstage.ops.rle import ImageSize
from crossstage.reading.text import shown

Mask = Sequence[NDArray[np.float64]] | str | None
"""Polygons, each x and y of its corners in turn in pixels of the image; packed runs, see :mod:`crossstage.ops.rle`; or
None."""

LEAST_NUMBERS = 6  # of a polygon: x and y of three corners
MOST_POLYGONS = 5_000  # of an object
MOST_OUTLINE = 1_000_000  # pixels around all polygons of an object, which bounds what drawing them takes
BEYOND = 0.1  # of the image's side, by which a polygon may reach out of it

_NONE, _POLYGONS, _RUNS = range(3)


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of many objects, one after the other, as a few arrays.

    Attributes:
        kinds: ``(m,)`` uint8: whether an object has no mask, polygons or runs.
        starts: ``(m + 1,)`` int64: the bytes of object ``i`` are those from ``starts[i]`` to ``starts[i + 1]``.
        content: ``(bytes,)`` uint8: text of runs; of polygons how many there are, how long each is, and these.
    """

    kinds: NDArray[np.uint8]
    starts: NDArray[np.int64]
    content: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def present(self) -> NDArray[np.bool_]:
        """``(m,)`` whether each object has a mask."""
        return self.kinds != _NONE

    @overload
    def __getitem__(self, index: int) -> Mask: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Masks: ...
    def __getitem__(self, index: int | slice | NDArray[np.bool_] | NDArray[np.int64]) -> Mask | Masks:
        """Return one object's mask, or the masks of some, chosen by a slice, positions or truth values."""
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step == 1 and last > first:
                starts = self.starts[first : last + 1]
                return Masks(self.kinds[first:last], starts - starts[0], self.content[starts[0] : starts[-1]])
            return self._take(np.arange(first, last, step))
        if isinstance(index, np.ndarray):
            return self._take(np.flatnonzero(index) if index.dtype == np.bool_ else index.astype(np.int64))
        bytes_ = self.content[self.starts[index] : self.starts[index + 1]].tobytes()
        return None if self.kinds[index] == _NONE else _unwritten(int(self.kinds[index]), bytes_)

    def __iter__(self) -> Iterator[Mask]:
        return (self[index] for index in range(len(self)))

    def _take(self, positions: NDArray[np.int64]) -> Masks:
        lengths = np.diff(self.starts)[positions]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = np.arange(starts[-1]) + np.repeat(self.starts[:-1][positions] - starts[:-1], lengths)
        return Masks(self.kinds[positions], starts, self.content[places])


def no_masks(count: int) -> Masks:
    """Return the masks of objects that have none."""
    return Masks(np.zeros(count, np.uint8), np.zeros(count + 1, np.int64), np.zeros(0, np.uint8))


def joined_masks(several: Sequence[Masks]) -> Masks:
    """Return the masks of the objects of several datasets, one after the other."""
    lengths = np.concatenate([np.diff(masks.starts) for masks in several])
    return Masks(
        np.concatenate([masks.kinds for masks in several]),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        np.concatenate([masks.content for masks in several]),
    )


class MasksBuilder:
    """Collects masks, as a reader comes by them."""

    def __init__(self) -> None:
        self._kinds, self._starts, self._content = array("B"), array("q", [0]), bytearray()

    def add(self, mask: Mask) -> None:
        """Add the mask of the next object."""
        kind = _NONE
        if isinstance(mask, str):
            kind = _RUNS
            self._content += mask.encode("ascii")
        elif mask is not None:
            kind = _POLYGONS
            self._content += np.array([len(mask), *map(len, mask)], np.int64).tobytes()
            self._content += np.concatenate(list(mask)).astype(np.float64).tobytes()
        self._kinds.append(kind)
        self._starts.append(len(self._content))

    def build(self) -> Masks | None:
        """Return what was collected; None if no object has a mask."""
        kinds = np.array(self._kinds, np.uint8)
        if not kinds.any():
            return None
        return Masks(kinds, np.array(self._starts, np.int64), np.frombuffer(self._content, np.uint8))


def _unwritten(kind: int, content: bytes) -> Mask:
    if kind == _RUNS:
        return content.decode("ascii")
    count = int(np.frombuffer(content, np.int64, 1)[0])
    lengths = np.frombuffer(content, np.int64, count, 8)
    coordinates = np.frombuffer(content, np.float64, -1, 8 * (count + 1))
    return [coordinates[first:last] for first, last in pairwise([0, *np.cumsum(lengths).tolist()])]


def packed(mask: Sequence[NDArray[np.float64]] | str, size: ImageSize) -> str:
    """Return a mask as packed runs; polygons are rasterised as pycocotools does."""
    return mask if isinstance(mask, str) else rle.pack_polygons(mask, size)


def rasterise(mask: Mask, size: ImageSize, box_xyxy: Sequence[float]) -> NDArray[np.bool_]:
    """Return a mask as pixels, exactly those of pycocotools.

    Args:
        mask: The mask; None takes the box for it, whose pixels are those whose centres lie inside.
        size: Height and width of the image in pixels.
        box_xyxy: Corners of the object's box in pixels.

    Returns:
        ``(H, W)``.
    """
    if mask is not None:
        return rle.unpack(packed(mask, size), size)
    filled = np.zeros(size, np.bool_)
    left, top, right, bottom = (int(np.ceil(side - 0.5)) for side in box_xyxy)
    filled[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return filled


def hull(mask: Sequence[NDArray[np.float64]] | str, size: ImageSize) -> tuple[float, float, float, float]:
    """Return the corners of a mask's own box in pixels of the image, which polygons may reach out of."""
    if isinstance(mask, str):
        left, top, width, height = rle.box(mask, size).tolist()
        return left, top, left + width, top + height
    points = np.concatenate(list(mask)).reshape(-1, 2)
    left, top, right, bottom = *points.min(0).tolist(), *points.max(0).tolist()
    return left, top, right, bottom


def checked_polygons(parts: Sequence[Any], size: ImageSize) -> list[NDArray[np.float64]]:
    """Return the polygons of an object as arrays.

    Args:
        parts: For each polygon x and y of its corners in turn, in pixels; at least one.
        size: Height and width of the image in pixels.

    Raises:
        DataError: A polygon is faulty; the message is that of the fault.
    """
    if len(parts) > MOST_POLYGONS:
        raise DataError(f"{len(parts)} polygons; expected up to {MOST_POLYGONS}")
    polygons = [_checked_polygon(part, size) for part in parts]
    outline = sum(map(_outline, polygons))
    if outline > MOST_OUTLINE:
        raise DataError(f"polygons with an outline of {outline:.0f} pixels; expected up to {MOST_OUTLINE}")
    return polygons


def _checked_polygon(part: Any, size: ImageSize) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(part)
    except ValueError:  # lists of unequal lengths
        numbers = np.array([None])
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iuf"):
        raise DataError(f"polygon {shown(part)}; expected a list of numbers, x and y in turn")
    if len(numbers) % 2 or len(numbers) < LEAST_NUMBERS:
        found = f"polygon of {len(numbers)} number{'s' * (len(numbers) != 1)}"
        raise DataError(f"{found}; expected an even count, x and y of at least three points")
    points = numbers.astype(np.float64)
    if not np.isfinite(points).all():
        raise DataError(f"polygon {shown(part)}; expected finite numbers")
    height, width = size
    for values, side, name in ((points[::2], width, "x"), (points[1::2], height, "y")):
        low, high = float(values.min()), float(values.max())
        if low < -BEYOND * side or high > (1 + BEYOND) * side:
            raise DataError(f"polygon with {name} from {low:g} to {high:g}; expected 0 to {side}")
    return points


def _outline(polygon: NDArray[np.float64]) -> float:
    """Return how long a polygon's outline is as its rasteriser goes along it, a step for each point included."""
    steps = np.abs(np.diff(polygon.reshape(-1, 2), axis=0, append=polygon[:2].reshape(1, 2))).max(1)
    return float(steps.sum()) + len(steps) / 5


def checked_runs(value: Mapping[str, Any], size: ImageSize) -> str:
    """Return COCO's run-length encoding as packed text.

    Args:
        value: ``size``, height and width; and ``counts``, packed text or a list of lengths.
        size: Height and width of the image in pixels, which ``size`` has to be.

    Raises:
        DataError: It is faulty; the message is that of the fault.
    """
    stated, counts = value.get("size"), value.get("counts")
    if not isinstance(stated, (list, tuple)) or list(stated) != list(size):
        raise DataError(f"RLE of size {shown(stated)}; expected {list(size)}, the image's height and width")
    try:
        if isinstance(counts, (str, bytes)):
            text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
            rle.runs_of(text, size)
            return text
        if not isinstance(counts, list) or not all(type(run) is int for run in counts):
            raise DataError(f"RLE with counts {shown(counts)}; expected text, or a list of whole numbers")
        rle.check_runs(counts, size)
        return rle.pack_runs(counts, size)
    except ValueError as error:
        raise DataError(f"RLE with counts of {error}") from None


def checked_segmentation(value: Any, size: ImageSize) -> Mask:
    """Return the mask of an annotation's ``segmentation`` in COCO's form; None where it is empty.

    Args:
        value: A list of polygons, or a run-length encoding; None and an empty list are no mask.
        size: Height and width of the image in pixels.

    Raises:
        DataError: It is faulty; the message is that of the fault.
    """
    if value is None or value == []:
        return None
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(f"a mask in an image of {size[1]} x {size[0]} pixels; expected up to {MAX_PIXELS:,} pixels")
    if isinstance(value, Mapping):
        return checked_runs(value, size)
    if isinstance(value, list):
        return checked_polygons(value, size)
    raise DataError(f"{shown(value)}; expected a list of polygons, or an RLE with size and counts")
