"""YOLO labels in Ultralytics' layout: a text file beside each image, one line for each box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import BORDER, DataFormat, ListedPart, Names, Reader
from crossstage.data.masks import Mask, checked_polygons
from crossstage.data.records import Box, DetectionBuilder, DetectionData
from crossstage.errors import DataError
from crossstage.inference.images import image_size
from crossstage.inference.sources import IMAGE_SUFFIXES

MAX_BYTES = 16 << 20  # of one label file
CLASSES = "classes.txt"
UNKNOWN_SIZE = (1000, 1000)  # of an image that is missing, whose labels are checked nevertheless


def read_yolo(listed: Path, class_names: Sequence[str]) -> Reading[DetectionData]:
    """Read a split.

    Args:
        listed: A folder of images, or a text file that lists them. The labels of ``.../images/x.jpg`` are in
            ``.../labels/x.txt`` or beside the image; an image without a file has no objects.
        class_names: Names by class id.

    Returns:
        What is sound, and each faulty line. A line is a class id, then the box's centre, width and height as shares of
        the image's, or the corners of a polygon, which is the mask and whose hull is the box.

    Raises:
        DataError: There is no such folder or list.
    """
    return _read(listed, [(image, _label_file(image)) for image in _images(listed)], class_names)


def read_labels(files: Sequence[Path]) -> Reading[DetectionData]:
    """Read label files that lie in one folder with their ``classes.txt``, as labelImg writes them.

    An image has its label file's name and lies beside it, or in a folder ``images`` next to theirs.

    Raises:
        DataError: There is no list of classes.
    """
    folder = files[0].parent
    listed = folder / CLASSES
    if not listed.is_file():
        raise DataError(f"{folder}: no {CLASSES}; expected one with a class name in each line")
    names = [line.strip() for line in listed.read_text("utf-8-sig", errors="replace").splitlines() if line.strip()]
    return _read(folder, [(_image_of(path), path) for path in files], names)


def _read(place: Path, pairs: Sequence[tuple[Path | None, Path]], names: Sequence[str]) -> Reading[DetectionData]:
    """Read pairs of an image, or None where it is missing, and its label file."""
    faults: list[Fault] = []
    found = DetectionBuilder()
    skipped = 0
    for image, labels in pairs:
        if image is None:
            faults.append(Fault(labels, None, f"no image {labels.stem}.* beside it or in {place.parent / 'images'}"))
        try:
            size = image_size(image) if image else UNKNOWN_SIZE
        except DataError as error:
            faults.append(Fault(image or labels, None, str(error).removeprefix(f"{image}: ")))
            continue
        boxes, wrong = _labels(labels, size, len(names))
        faults += wrong
        skipped += sum(fault.broken for fault in wrong)
        if image:
            found.add(image, size, boxes)
    return Reading(found.build(place, names), tuple(faults), skipped)


def label_files(folder: Path) -> list[Path]:
    """Return the label files of a folder that has a ``classes.txt``; none if it has not."""
    if not (folder / CLASSES).is_file():
        return []
    return sorted(path for path in folder.glob("*.txt") if path.name != CLASSES)


def _image_of(label: Path) -> Path | None:
    folders = (label.parent, label.parent.parent / "images")
    candidates = (folder / (label.stem + suffix) for folder in folders for suffix in sorted(IMAGE_SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def _images(listed: Path) -> list[Path]:
    if listed.is_dir():
        found = sorted(path for path in listed.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    elif listed.is_file():
        lines = listed.read_text("utf-8-sig", errors="replace").splitlines()
        found = [listed.parent / line.strip() for line in lines if line.strip()]
    else:
        raise DataError(f"{listed}: no such folder or list of images")
    if not found:
        raise DataError(f"{listed}: no images")
    return found


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        labels = Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt")
        if labels.parent.is_dir():
            return labels
    return image.with_suffix(".txt")


def _labels(path: Path, size: tuple[int, int], classes: int) -> tuple[list[Box], list[Fault]]:
    if not path.is_file():
        return [], []
    if path.stat().st_size > MAX_BYTES:
        return [], [Fault(path, None, f"larger than {MAX_BYTES:,} bytes")]
    boxes: list[Box] = []
    faults: list[Fault] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            box = _box(words, size, classes)
        except DataError as error:
            faults.append(Fault(path, number, str(error)))
        else:
            if " ".join(words) in seen:
                faults.append(Fault(path, number, "the same box stands twice", broken=False))
            else:
                boxes.append(box)
        seen.add(" ".join(words))
    return boxes, faults


def _box(words: Sequence[str], size: tuple[int, int], classes: int) -> Box:
    """Return the box of a line.

    Raises:
        DataError: It is faulty; the message is that of the fault.
    """
    shown = " ".join(words[:6])[:80] + (" ..." if len(words) > 6 else "")
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        expected = "expected 5: class, x, y, width, height; or a class and a polygon"
        raise DataError(f"{len(words)} columns: {shown!r}; {expected}")
    if not words[0].isdecimal() or int(words[0]) >= classes:
        raise DataError(f"class {words[0]!r}; expected a whole number from 0 to {classes - 1}")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        raise DataError(f"{shown!r}; expected numbers, with points, after the class") from None
    if not all(map(math.isfinite, values)):
        raise DataError(f"{shown!r}; expected finite numbers")
    polygon = None if len(values) == 4 else values
    if polygon is None:
        x, y, width, height = values
    else:
        left, right, top, bottom = min(values[::2]), max(values[::2]), min(values[1::2]), max(values[1::2])
        x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    if max(map(abs, values)) > 2:
        raise DataError(f"{shown!r}: looks like pixels; expected shares of the image's width and height, from 0 to 1")
    if width <= 0 or height <= 0:
        raise DataError(f"{shown!r}; expected a positive width and height")
    rows, columns = size
    left, top = (x - width / 2) * columns, (y - height / 2) * rows
    right, bottom = left + width * columns, top + height * rows
    if min(left, top) < -BORDER or right > columns + BORDER or bottom > rows + BORDER:
        raise DataError(f"{shown!r} reaches out of the image; expected x ± width / 2 and y ± height / 2 from 0 to 1")
    return Box(int(words[0]), (left, top, right, bottom), mask=_mask(polygon, size))


def _mask(polygon: Sequence[float] | None, size: tuple[int, int]) -> Mask:
    """Return a polygon, whose corners are shares of the image's sides, in pixels.

    Raises:
        DataError: It is faulty; the message is that of the fault.
    """
    if polygon is None:
        return None
    height, width = size
    return checked_polygons([(np.array(polygon).reshape(-1, 2) * (width, height)).ravel()], size)


def _label_files_at(path: Path) -> list[Path]:
    """Return the label files at a path that no YAML file describes."""
    return [path] if path.suffix == ".txt" else label_files(path) if path.is_dir() else []


def _parts(path: Path, _: Names) -> dict[str, Reader]:
    files = _label_files_at(path)
    return {"train": partial(read_labels, files)} if files else {}


def _fits_listed(part: Path) -> bool:
    if part.is_file():
        return part.suffix == ".txt"
    return "images" in part.parts or any(file.suffix.lower() in IMAGE_SUFFIXES for file in part.iterdir())


def _read_listed(part: ListedPart) -> Reader:
    if not isinstance(part.names, list):
        raise DataError(f"{part.file}: no names; expected the classes' names, as a list or by id")
    return partial(read_yolo, part.path, part.names)


FORMATS = {
    "yolo": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="classes.txt with label files (YOLO)",
        suffixes=(".txt",),
        fits_folder=label_files,
        order=40,
        fits_listed=_fits_listed,
        read_listed=_read_listed,
    )
}
