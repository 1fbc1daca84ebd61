"""Masks as COCO packs them: lengths of runs, column after column, as text (run-length encoding, RLE).

faster-coco-eval does the work, with the numbers of pycocotools, above all the rasteriser of polygons. A packed mask is
the text alone here; COCO's own form has the image's size beside it, see :func:`as_coco`. This file needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Polygons = Sequence[NDArray[np.float64]]
"""The parts of an object: of each, x and y of its corners in turn, in pixels of the image."""

ImageSize = tuple[int, int]

_PACKED = re.compile(r"(?:[P-o]{0,6}[0-O])*")  # numbers in base 32: from "P" on, another digit follows


def as_coco(packed: str, size: ImageSize) -> dict[str, Any]:
    """Return a packed mask in COCO's form.

    Args:
        packed: The packed mask.
        size: Height and width of the image in pixels.
    """
    return {"size": list(size), "counts": packed}


def pack(mask: NDArray[Any]) -> str:
    """Pack a mask ``(H, W)``, whose object is where it is not 0."""
    from faster_coco_eval import mask as coco

    columns: Any = np.asfortranarray(mask, dtype=np.uint8)
    return coco.encode(columns)["counts"].decode("ascii")


def pack_columns(columns: NDArray[np.uint8], left: int, size: ImageSize) -> str:
    """Pack a mask of which some columns are given, and no other has a pixel.

    Args:
        columns: ``(H, w)``, 0 where the object is not.
        left: The column of the image that the first of them is.
        size: Height and width of the image in pixels.
    """
    from faster_coco_eval import mask_api_new_cpp as coco  # pyright: ignore[reportAttributeAccessIssue]

    (height, width), own = size, (columns.shape[0], columns.shape[1])
    runs = coco.toUncompressedRLE([as_coco(pack(columns), own)])[0]["counts"] if columns.size else [0]
    before, after = left * height, (width - left - own[1]) * height
    runs[0] += before
    if len(runs) % 2:  # the last run is outside of the object, too
        runs[-1] += after
    elif after:
        runs.append(after)
    return pack_runs(runs, size)


def pack_polygons(polygons: Polygons, size: ImageSize) -> str:
    """Rasterise and pack the union of some polygons as pycocotools does.

    Args:
        polygons: At least one, of three corners or more each.
        size: Height and width of the image in pixels; what lies beyond is cut off.
    """
    from faster_coco_eval import mask as coco

    parts: Any = coco.frPyObjects([polygon.tolist() for polygon in polygons], *size)
    return (parts[0] if len(parts) == 1 else coco.merge(parts))["counts"].decode("ascii")


def pack_runs(runs: Sequence[int], size: ImageSize) -> str:
    """Pack lengths of runs that fill an image, column after column, the first of them outside of the object."""
    from faster_coco_eval import mask as coco

    packed: Any = coco.frPyObjects({"size": list(size), "counts": list(runs)}, *size)
    return packed["counts"].decode("ascii")


def runs_of(packed: str, size: ImageSize) -> list[int]:
    """Return the lengths of the runs, column after column, the first of them outside of the object.

    Raises:
        ValueError: It is no packed mask of an image of this size; the message says what was found and expected.
    """
    from faster_coco_eval import mask_api_new_cpp as coco  # pyright: ignore[reportAttributeAccessIssue]

    if not _PACKED.fullmatch(packed):
        raise ValueError(f"{_shown(packed)}; expected numbers in the characters of COCO's packed counts")
    try:
        runs = coco.toUncompressedRLE([as_coco(packed, size)])[0]["counts"] if packed else []
    except ValueError:  # what is below 0 counts as far too many there
        height, width = size
        raise ValueError(
            f"{_shown(packed)} has more than {height * width} pixels, or fewer than none in a run; expected the pixels "
            f"of an image of {width} x {height}"
        ) from None
    check_runs(runs, size)
    return runs


def check_runs(runs: Sequence[int], size: ImageSize) -> None:
    """Refuse runs that do not fill an image.

    Raises:
        ValueError: They do not; the message says what was found and expected.
    """
    height, width = size
    negative = next((run for run in runs if run < 0), None)
    if negative is not None:
        raise ValueError(f"a run of {negative} pixels; expected none below 0")
    if (total := sum(runs)) != height * width:
        raise ValueError(f"{total} pixels; expected {height * width}, those of an image of {width} x {height}")


def unpack(packed: str, size: ImageSize) -> NDArray[np.bool_]:
    """Return the mask ``(H, W)`` of a packed one.

    Args:
        packed: A packed mask that :func:`runs_of` takes, or that this file made.
        size: Height and width of the image in pixels.
    """
    from faster_coco_eval import mask as coco

    return coco.decode(as_coco(packed, size)).view(np.bool_)


def area(packed: str, size: ImageSize) -> int:
    """Return how many pixels a packed mask has."""
    from faster_coco_eval import mask as coco

    return int(coco.area(as_coco(packed, size)))


def box(packed: str, size: ImageSize) -> NDArray[np.float64]:
    """Return left, top, width and height of a packed mask in pixels; all are 0 where it has no pixel."""
    from faster_coco_eval import mask as coco

    return np.asarray(coco.toBbox(as_coco(packed, size)), np.float64)


def _shown(packed: str) -> str:
    return repr(packed if len(packed) <= 40 else packed[:40] + "...")
