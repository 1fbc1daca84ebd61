"""labelme: a JSON file for each image, with shapes of which rectangles, polygons and circles are read.

The image is the one that ``imagePath`` names, or that has the JSON file's name; what ``imageData`` holds is not read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crossstage.data.faults import Fault, fault_in
from crossstage.data.formats.base import DataFormat, Names, Reader, listed_names, split_folders
from crossstage.data.json_entries import begins_with, mentions, parsed
from crossstage.data.named import Labels, NamedBox, NamedParts
from crossstage.data.records import DetectionData
from crossstage.data.written import BoxScores, Stated, describe, images_of, text_of
from crossstage.errors import DataError
from crossstage.reading.finding import find_files
from crossstage.reading.numbers import number, whole
from crossstage.reading.text import read_text, shown

MAX_BYTES = 256 << 20  # most of which is the image's own bytes
LOOKED_INTO = 10
LEFT_OUT = ("point", "line", "linestrip", "points", "mask")


def is_labelme(file: Path) -> bool:
    """Return whether a JSON file is labelme's."""
    return begins_with(file, "{") and mentions(file, "shapes", "imagePath")


def _entries(files: Sequence[Path]) -> Iterator[Labels | Fault]:
    left_out = Counter[str]()
    for file in files:
        try:
            content = parsed(read_text(file, expected="labelme's shapes", max_bytes=MAX_BYTES))
            if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                raise DataError("no list 'shapes'; expected labelme's")
        except DataError as error:
            yield fault_in(file, error)
            continue
        shapes = []
        for entry in content["shapes"]:
            kind = entry.get("shape_type", "polygon") if isinstance(entry, dict) else None
            if kind in LEFT_OUT:
                left_out[kind] += 1
            else:
                shapes.append(_shape(entry, kind))
        named = content.get("imagePath")
        folders = [file.parent, file.parent.parent / "images", file.parent.parent]
        yield Labels(file, None, named if isinstance(named, str) else "", shapes, _size(content), folders, file.stem)
    if left_out:
        text = ", ".join(f"{count} of kind {name!r}" for name, count in left_out.items())
        yield Fault(files[0].parent, None, f"{text}: left out; boxes and polygons are read", broken=False)


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    try:
        return whole(content["imageHeight"]), whole(content["imageWidth"])
    except (KeyError, ValueError):
        return None


def _shape(entry: Any, kind: Any) -> NamedBox:
    if not isinstance(entry, dict):
        return NamedBox(None, (0.0, 0.0, 0.0, 0.0), wrong=f"{shown(entry)}; expected a shape")
    name, points = entry.get("label"), entry.get("points")
    least = {"rectangle": 2, "circle": 2, "polygon": 3, "oriented_rectangle": 3, "rotation": 3}.get(str(kind))
    try:
        if least is None:
            raise ValueError
        pairs = [(number(x), number(y)) for x, y in points]  # pyright: ignore[reportOptionalIterable]
        if len(pairs) < least:
            raise ValueError
    except (TypeError, ValueError):
        wrong = f"{shown(kind)} with points {shown(points)}; expected a rectangle, polygon or circle of numbers"
        return NamedBox(name, (0.0, 0.0, 0.0, 0.0), wrong=wrong)
    if kind == "circle":
        (x, y), (edge_x, edge_y) = pairs[:2]
        radius = math.hypot(edge_x - x, edge_y - y)
        return NamedBox(name, (x - radius, y - radius, x + radius, y + radius))
    across, down = [x for x, _ in pairs], [y for _, y in pairs]
    polygon = [value for pair in pairs for value in pair] if kind == "polygon" else None
    return NamedBox(name, (min(across), min(down), max(across), max(down)), polygon=polygon)


def _files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files of each part of a folder; nothing if they are not labelme's."""
    named = ("annotations", "labels", "json", "labelme")
    for place in (folder, *(folder / name for name in named)):
        files = find_files(place, (".json",), deep=False).files if place.is_dir() else ()
        if any(is_labelme(file) for file in files[:LOOKED_INTO]):
            return {"train": tuple(file for file in files if is_labelme(file) or not begins_with(file, "{"))}
    inner = {split: _files(place) for split, place in split_folders(folder).items()}
    return {split: files["train"] for split, files in inner.items() if "train" in files}


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    files = {"train": (path,)} if path.is_file() else _files(path)
    entries = {split: partial(_entries, of_split) for split, of_split in files.items()}
    return NamedParts(path, entries, listed_names(names)).readers()


def _fits(folder: Path) -> str:
    files = [file for of_split in _files(folder).values() for file in of_split]
    return f"{len(files)} JSON files with shapes, such as {files[0].relative_to(folder)}" if files else ""


def _write(parts: Mapping[str, DetectionData], folder: Path, _: BoxScores) -> None:
    """Write a JSON file beside each image."""
    for data in parts.values():
        for image, objects in images_of(data):
            content = {
                "version": "5.4.1",
                "flags": {},
                "shapes": [_written(one) for one in objects],
                "imagePath": image.path.name,
                "imageData": None,
                "imageHeight": image.height,
                "imageWidth": image.width,
            }
            image.path.with_suffix(".json").write_text(text_of(content), "utf-8")
    describe(folder, "labelme", {split: split for split in parts}, next(iter(parts.values())).class_names)


def _written(one: Stated) -> dict[str, Any]:
    left, top, right, bottom = one.xyxy
    points = one.points or [(left, top), (right, bottom)]
    kind = "polygon" if one.points else "rectangle"
    return {"label": one.name, "points": points, "group_id": None, "shape_type": kind, "flags": {}}


FORMATS = {
    "labelme": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="*.json beside images (labelme)",
        suffixes=(".json",),
        fits_folder=_fits,
        fits_file=is_labelme,
        write=_write,
        holds=frozenset({"polygons"}),
        image_folder="{split}",
    )
}
