"""Boxes laid into their images: what hangs over the border is clipped, what lies outside is no box."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from crossstage.errors import DataError

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""

BORDER = 1.0  # pixels that a box may hang over its image without a word, as the boxes of real datasets are rounded
ROUNDING = 0.001  # of the image's side, likewise: shares that are written with three decimals
LEAST = 0.5  # pixels of a clipped box that have to be left


class Fitted(NamedTuple):
    """A box in its image.

    Attributes:
        xyxy: Corners in pixels, inside of the image.
        note: What was done to it, if that is more than rounding.
    """

    xyxy: Corners
    note: str | None


def fit_box(xyxy: Corners, size: tuple[int, int], told: Callable[[], str]) -> Fitted:
    """Clip a box to its image.

    Args:
        xyxy: Its corners in pixels.
        size: Height and width of the image in pixels.
        told: Returns what a message calls it, which few boxes need.

    Raises:
        DataError: It has no finite corners or no area, or lies outside of the image; the message is that of the fault.
    """
    left, top, right, bottom = xyxy
    if not math.isfinite(left + top + right + bottom):
        raise DataError(f"{told()}; expected finite numbers")
    if right <= left or bottom <= top:
        raise DataError(f"{told()}; expected a positive width and height")
    height, width = size
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return Fitted(xyxy, None)
    inside = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
    over = max(-left, right - width, -top, bottom - height)
    if min(inside[2] - inside[0], inside[3] - inside[1]) < min(LEAST, right - left, bottom - top) * (1 - 1e-9):
        raise DataError(f"{told()} lies outside of the image; expected x, y from 0 to {width}, {height}")
    if max(-left, right - width) <= _slack(width) and max(-top, bottom - height) <= _slack(height):
        return Fitted(inside, None)
    note = f"{told()} hangs over the image's border by {over:.3g} pixels; clipped to {width} x {height}"
    return Fitted(inside, note)


def _slack(side: int) -> float:
    return max(BORDER, ROUNDING * side)
