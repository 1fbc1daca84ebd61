"""YOLO's label files: a line for each object, a class id and a box, polygon, oriented box or box with key points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.data.faults import Fault, fault_in
from crossstage.data.fitting import fit_box
from crossstage.data.masks import checked_polygons
from crossstage.data.records import Box
from crossstage.errors import DataError
from crossstage.reading.numbers import whole
from crossstage.reading.text import read_lines, shown

MAX_BYTES = 16 << 20  # of one label file
COLUMNS = 5  # class, x, y, width, height
QUAD = 9  # class and four corners
FAR = 2  # as a share of an image's side, what is beyond looks like pixels
SQUARE = 0.02  # of its longer diagonal, by which an oriented box's corners may miss a right angle


@dataclass
class Manner:
    """How the lines of a part are to be read, and what they turned out to be.

    Attributes:
        key_points: How many numbers of key points stand behind each box; None if that is not stated.
        task: What the file that describes the data says it is for, such as "segment" or "obb"; None if it says nothing.
        seen: How many lines there were of each kind: "box", "polygon", "quad", "key points"; and among the quads, how
            many are rectangles ("upright", "turned").
    """

    key_points: int | None = None
    task: str | None = None
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def oriented(self) -> bool:
        """Whether four corners are an oriented box, not a mask."""
        if self.task is not None:
            return self.task == "obb"
        rectangles = self.seen["turned"] + self.seen["upright"]
        return self.seen["turned"] > 0 and rectangles == self.seen["quad"] and not self.seen["polygon"]

    def remarks(self) -> list[str]:
        """Return what was left out of the lines."""
        told = []
        if self.seen["key points"]:
            told.append(f"{self.seen['key points']} lines have key points, which are left out; their boxes are used")
        if self.oriented and self.seen["quad"]:
            told.append(f"{self.seen['quad']} oriented boxes; the upright boxes around them are used")
        return told


def manner_of(content: Mapping[str, Any], where: Path) -> Manner:
    """Return how a ``data.yaml`` says that lines are to be read.

    Raises:
        DataError: Its ``kpt_shape`` makes no sense.
    """
    shape, task = content.get("kpt_shape"), content.get("task")
    task = task if isinstance(task, str) else None
    if shape is None:
        return Manner(task=task)
    try:
        count, numbers = (whole(side) for side in shape)
        if count < 1 or numbers not in (2, 3):
            raise ValueError
    except (TypeError, ValueError):
        raise DataError(f"{where}: kpt_shape: {shown(shape)}; expected how many points, and 2 or 3 numbers") from None
    return Manner(count * numbers, task)


def read_labels(path: Path, size: tuple[int, int], classes: int, manner: Manner) -> tuple[list[Box], list[Fault]]:
    """Read a label file.

    Args:
        path: The file.
        size: Height and width of its image in pixels.
        classes: How many classes there are.
        manner: How lines are to be read; what they are is counted in it.

    Returns:
        Its boxes, and each fault with its line.
    """
    try:
        lines = read_lines(path, expected="a class and a box in each line", max_bytes=MAX_BYTES)
    except DataError as error:
        return [], [fault_in(path, error)]
    boxes: list[Box] = []
    faults: list[Fault] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        plain = " ".join(words)
        try:
            box, note = _box(words, size, classes, manner)
        except DataError as error:
            faults.append(Fault(path, number, str(error)))
        else:
            if plain in seen:
                faults.append(Fault(path, number, "the same box stands twice", broken=False))
            else:
                boxes.append(box)
                if note:
                    faults.append(Fault(path, number, note, broken=False))
        seen.add(plain)
    return boxes, faults


def _box(words: Sequence[str], size: tuple[int, int], classes: int, manner: Manner) -> tuple[Box, str | None]:
    """Return the box of a line, and what is odd about it.

    Raises:
        DataError: It is faulty; the message is that of the fault.
    """
    kind = _kind(words, manner)
    try:
        class_id = (
            int(words[0]) if words[0].isascii() and words[0].isdigit() and len(words[0]) < 10 else whole(words[0])
        )
    except ValueError:
        class_id = -1
    if not 0 <= class_id < classes:
        raise DataError(f"class {shown(words[0])}; expected a whole number from 0 to {classes - 1}")
    values = _numbers(words, COLUMNS if kind == "key points" else len(words))
    if max(map(abs, values)) > FAR:
        raise DataError(
            f"{_told(words)}: looks like pixels; expected shares of the image's width and height, from 0 to 1"
        )
    rows, columns = size
    corners = None
    if kind in ("box", "key points"):
        x, y, width, height = values
        sides = (x - width / 2) * columns, (y - height / 2) * rows, (x + width / 2) * columns, (y + height / 2) * rows
    else:
        corners = (np.array(values).reshape(-1, 2) * (columns, rows)).ravel()
        sides = corners[::2].min(), corners[1::2].min(), corners[::2].max(), corners[1::2].max()
    left, top, right, bottom = map(float, sides)
    fitted, note = fit_box((left, top, right, bottom), size, lambda: _told(words))
    mask = None
    if corners is not None:
        if kind == "quad" and (rectangle := _rectangle(corners)):
            manner.seen[rectangle] += 1
        mask = None if manner.task == "obb" else checked_polygons([corners], size)
    manner.seen[kind] += 1
    return Box(class_id, fitted, mask=mask), note


def _told(words: Sequence[str]) -> str:
    """Return what a message calls a line."""
    return shown(" ".join(words[:6]) + (" ..." if len(words) > 6 else ""))


def _kind(words: Sequence[str], manner: Manner) -> str:
    """Return what a line is, by its columns.

    Raises:
        DataError: It has another number of columns than any; the message is that of the fault.
    """
    count = len(words)
    if count == COLUMNS:
        return "box"
    if manner.key_points is not None:
        if count == COLUMNS + manner.key_points:
            return "key points"
        expected = f"expected {COLUMNS + manner.key_points}, as kpt_shape says, or {COLUMNS}"
        raise DataError(f"{count} columns: {_told(words)}; {expected}")
    if manner.task in (None, "pose") and _looks_like_key_points(words):
        return "key points"
    if count < 7 or count % 2 == 0 or (manner.task == "obb" and count != QUAD):
        expected = "expected 5: class, x, y, width, height; or a class and a polygon"
        raise DataError(f"{count} columns: {_told(words)}; {expected}")
    return "quad" if count == QUAD else "polygon"


def _looks_like_key_points(words: Sequence[str]) -> bool:
    """Return whether numbers behind a box are points of x, y and how visible they are, all within the box or unseen."""
    points = words[COLUMNS:]
    if len(points) < 6 or len(points) % 3:
        return False
    try:
        flags = {float(word) for word in points[2::3]}
        x, y, width, height = (float(word) for word in words[1:COLUMNS])
        seen = [
            (float(a), float(b)) for a, b, flag in zip(*(points[n::3] for n in range(3)), strict=True) if float(flag)
        ]
    except ValueError:
        return False
    near = all(abs(a - x) <= 0.6 * width and abs(b - y) <= 0.6 * height for a, b in seen)
    return flags <= {0.0, 1.0, 2.0} and near


def _numbers(words: Sequence[str], end: int) -> list[float]:
    """Return the numbers of a line, behind its class and up to a column."""
    try:
        if any("_" in word or not word.isascii() for word in words[1:end]):
            raise ValueError
        values = [float(word) for word in words[1:end]]
    except ValueError:
        raise DataError(f"{_told(words)}; expected numbers, with points, after the class") from None
    if not all(map(math.isfinite, values)):
        raise DataError(f"{_told(words)}; expected finite numbers")
    return values


def _rectangle(corners: np.ndarray) -> str | None:
    """Return whether four corners are an "upright" rectangle or a "turned" one; None if they are none."""
    points = corners.reshape(4, 2)
    first, second = points[2] - points[0], points[3] - points[1]
    lengths = float(np.hypot(*first)), float(np.hypot(*second))
    missed = max(float(np.abs(points[0] + points[2] - points[1] - points[3]).max()) / 2, abs(lengths[0] - lengths[1]))
    if missed > SQUARE * max(lengths):
        return None
    return "upright" if float(np.abs(points[1] - points[0]).min()) < SQUARE * max(lengths) else "turned"
