"""CVAT for images 1.1: one XML file with an element for each image, and boxes and polygons in it.

Rotated boxes, and the hulls of polygons, become upright boxes; other shapes are left out, and told.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element as XMLElement
from xml.etree.ElementTree import ElementTree, SubElement, indent

from crossstage.data.faults import Fault
from crossstage.data.formats.base import DataFormat, Names, Reader, listed_names, split_folders, split_of
from crossstage.data.named import Labels, NamedBox, NamedParts
from crossstage.data.records import DetectionData
from crossstage.data.written import BoxScores, Stated, describe, images_of
from crossstage.data.xml_reading import Element, children, root_name
from crossstage.errors import DataError
from crossstage.reading.finding import find_files
from crossstage.reading.numbers import number, whole
from crossstage.reading.text import shown

MAX_BYTES = 1 << 30
MAX_ELEMENTS = 20_000_000
ROOT = "annotations"
SIDES = ("xtl", "ytl", "xbr", "ybr")
LEFT_OUT = ("polyline", "points", "cuboid", "ellipse", "mask", "skeleton")
LOOKED_INTO = 10


def _entries(file: Path) -> Iterator[Labels | Fault]:
    above = file.parent
    folders = [f for f in (above / "images", above, above.parent / "images", above.parent) if f.is_dir()]
    left_out = Counter[str]()
    try:
        for element in children(file, MAX_BYTES, MAX_ELEMENTS):
            if element.name == "image":
                left_out.update(child.name for child in element.children if child.name in LEFT_OUT)
                yield _image(file, element, folders)
            elif element.name == "track":
                left_out["track"] += 1
    except DataError as error:
        yield Fault(file, None, str(error))
    if left_out:
        text = ", ".join(f"{count} of kind {name!r}" for name, count in left_out.items())
        yield Fault(file, None, f"{text}: left out; boxes and polygons are read", broken=False)


def _image(file: Path, element: Element, folders: Sequence[Path]) -> Labels:
    try:
        size = whole(element.attributes.get("height", "")), whole(element.attributes.get("width", ""))
    except ValueError:
        size = None
    shapes = [_shape(child) for child in element.children if child.name in ("box", "polygon")]
    folders = [folder / part for folder in folders for part in ("", element.attributes.get("subset", ""))]
    return Labels(file, element.line, element.attributes.get("name", ""), shapes, size, list(dict.fromkeys(folders)))


def _shape(element: Element) -> NamedBox:
    name, given = element.attributes.get("label"), element.attributes
    try:
        if element.name == "box":
            left, top, right, bottom = (number(given[side]) for side in SIDES)
            box = _turned(left, top, right, bottom, number(given.get("rotation", "0")))
            return NamedBox(name, box, element.line)
        points = [number(value) for pair in given["points"].split(";") for value in pair.split(",")]
        if len(points) < 6 or len(points) % 2:
            raise ValueError
    except (KeyError, ValueError):
        stated = [given.get(key) for key in (SIDES if element.name == "box" else ("points",))]
        wrong = f"{element.name} of {shown(stated)}; expected numbers"
        return NamedBox(name, (0.0, 0.0, 0.0, 0.0), element.line, wrong=wrong)
    hull = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    return NamedBox(name, hull, element.line, polygon=points)


def _turned(left: float, top: float, right: float, bottom: float, degrees: float) -> tuple[float, float, float, float]:
    """Return the upright box around a box that is turned about its middle."""
    if not degrees:
        return left, top, right, bottom
    x, y, width, height = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    half, tall = (width * cosine + height * sine) / 2, (width * sine + height * cosine) / 2
    return x - half, y - tall, x + half, y + tall


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part of a folder: by their names, or by the folders that they lie in."""
    found = find_files(folder, (".xml",), deep=False).files[:LOOKED_INTO]
    parts: dict[str, list[Path]] = {}
    for file in found:
        if root_name(file) == ROOT:
            parts.setdefault(split_of(file.stem) or "train", []).append(file)
    if not parts:
        inner = {split: _files(place) for split, place in split_folders(folder).items()}
        parts = {
            split: [f for files in of_split.values() for f in files] for split, of_split in inner.items() if of_split
        }
    return parts


def _all_entries(files: Sequence[Path]) -> Iterator[Labels | Fault]:
    for file in files:
        yield from _entries(file)


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    files = {"train": [path]} if path.is_file() else _files(path)
    entries = {split: partial(_all_entries, of_split) for split, of_split in files.items()}
    return NamedParts(path, entries, listed_names(names)).readers()


def _fits(folder: Path) -> str:
    files = [file for of_split in _files(folder).values() for file in of_split]
    return f"{files[0].relative_to(folder)} with <{ROOT}> of images" if files else ""


def _write(parts: Mapping[str, DetectionData], folder: Path, _: BoxScores) -> None:
    """Write an XML file for each part."""
    for split, data in parts.items():
        root = XMLElement(ROOT)
        SubElement(root, "version").text = "1.1"
        labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
        for name in data.class_names:
            SubElement(SubElement(labels, "label"), "name").text = name
        for number_, (image, objects) in enumerate(images_of(data)):
            size = {"width": str(image.width), "height": str(image.height)}
            named = image.path.relative_to(folder / "images").as_posix()
            of_image = SubElement(root, "image", {"id": str(number_), "name": named, **size})
            for one in objects:
                kind, place = _place(one)
                usual = {"occluded": "0", "source": "file", "z_order": "0"}
                SubElement(of_image, kind, {"label": one.name, **usual, **place})
        indent(root)
        ElementTree(root).write(folder / f"{split}.xml", "utf-8", xml_declaration=True)
    describe(folder, "cvat", {split: f"{split}.xml" for split in parts}, next(iter(parts.values())).class_names)


def _place(one: Stated) -> tuple[str, dict[str, str]]:
    if one.points:
        return "polygon", {"points": ";".join(f"{x!r},{y!r}" for x, y in one.points)}
    return "box", {side: repr(value) for side, value in zip(SIDES, one.xyxy, strict=True)}


FORMATS = {
    "cvat": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="annotations.xml (CVAT)",
        suffixes=(".xml",),
        fits_folder=_fits,
        fits_file=lambda file: root_name(file) == ROOT,
        write=_write,
        holds=frozenset({"polygons"}),
    )
}
