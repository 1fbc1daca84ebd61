"""PASCAL VOC: an XML file for each image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from xml.parsers import expat

from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import BORDER, DataFormat, Names, Reader
from crossstage.data.records import Box, DetectionBuilder, DetectionData
from crossstage.errors import DataError
from crossstage.inference.images import image_size
from crossstage.inference.sources import IMAGE_SUFFIXES

MAX_BYTES = 16 << 20
MAX_DEPTH = 50
SIDES = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Element:
    """One XML element and the line it begins at."""

    name: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def child(self, name: str) -> Element | None:
        """Return the first child of a name; None if there is none."""
        return next((child for child in self.children if child.name == name), None)

    def value(self, name: str) -> str | None:
        """Return the text of a child without the space around it; None if there is no such child."""
        child = self.child(name)
        return None if child is None else child.text.strip()


class VocFolder:
    """A folder in VOC's layout, or one that just holds XML files.

    Images are looked for in ``JPEGImages`` and ``images``, in the folder or above it, and beside the XML files.

    Args:
        root: The folder.
        class_names: Names by class id; None takes those that occur, sorted.
    """

    def __init__(self, root: Path, class_names: Sequence[str] | None = None) -> None:
        self.root = root
        self.annotations = root / "Annotations" if (root / "Annotations").is_dir() else root
        self.files = sorted(self.annotations.glob("*.xml"))
        self.given_names = tuple(class_names) if class_names else None
        self.images = [
            folder
            for folder in (
                root / "JPEGImages",
                root / "images",
                root.parent / "JPEGImages",
                root.parent / "images",
                root,
            )
            if folder.is_dir()
        ]

    def splits(self) -> dict[str, list[Path]]:
        """Return XML files by split, as ``ImageSets/Main`` lists them; all are "train" if there are no lists."""
        lists = {path.stem: path for path in sorted(self.root.glob("ImageSets/Main/*.txt"))}
        splits = {name: self._listed(lists[name]) for name in ("train", "val", "test") if name in lists}
        if not splits and "trainval" in lists:
            splits = {"train": self._listed(lists["trainval"])}
        return splits or {"train": self.files}

    def read(self, files: Sequence[Path]) -> Reading[DetectionData]:
        """Read some of the XML files: what is sound, and every fault with its line."""
        faults: list[Fault] = []
        found = DetectionBuilder()
        skipped = 0
        names = self.class_names()
        for path in files:
            try:
                root = _parse(path)
                image, size = self._image(path, root), _size(root)
                size = size or image_size(image)
            except DataError as error:
                faults.append(_as_fault(path, error))
                continue
            boxes, wrong = _boxes(path, root, size, names)
            faults += wrong
            skipped += sum(fault.broken for fault in wrong)
            found.add(image, size, boxes)
        return Reading(found.build(self.root, names), tuple(faults), skipped)

    def class_names(self) -> tuple[str, ...]:
        """Return names by class id. Of names that differ in case alone, the most frequent is the class."""
        if self.given_names is None:
            counts = Counter(name for path in self.files for name in _class_names(path))
            best: dict[str, str] = {}
            for name, _ in counts.most_common():
                best.setdefault(name.lower(), name)
            self.given_names = tuple(sorted(best.values()))
        return self.given_names

    def _listed(self, path: Path) -> list[Path]:
        stems = [line.split()[0] for line in path.read_text("utf-8-sig", errors="replace").splitlines() if line.split()]
        return [self.annotations / f"{stem}.xml" for stem in stems]

    def _image(self, path: Path, root: Element) -> Path:
        named = PureWindowsPath(root.value("filename") or "").name  # splits at / and at \
        candidates = [named] if named else []
        candidates += [path.stem + suffix for suffix in sorted(IMAGE_SUFFIXES)]
        for folder in self.images:
            for name in candidates:
                if (folder / name).is_file():
                    return folder / name
        tried = ", ".join(str(folder) for folder in self.images)
        raise DataError(f"image {root.value('filename')!r} is in none of {tried}")


def _as_fault(path: Path, error: DataError) -> Fault:
    return Fault(path, getattr(error, "line", None), str(error).removeprefix(f"{path}: "))


def _class_names(path: Path) -> list[str]:
    try:
        root = _parse(path)
    except DataError:  # the fault is found again when the file is read
        return []
    return [name for entry in root.children if entry.name == "object" and (name := entry.value("name"))]


def _parse(path: Path) -> Element:
    """Parse an XML file to its root element. No entity is expanded and nothing outside the file is read.

    Raises:
        DataError: The file is missing, too large or not well-formed.
    """
    top = Element("", 0)
    stack = [top]
    parser = expat.ParserCreate()

    def start(name: str, _: dict[str, str]) -> None:
        element = Element(name, parser.CurrentLineNumber)
        stack[-1].children.append(element)
        stack.append(element)
        if len(stack) > MAX_DEPTH:
            raise DataError(f"elements are nested more than {MAX_DEPTH} deep")

    def text(data: str) -> None:
        stack[-1].text += data

    def refuse(*_: object) -> None:
        raise DataError("declares an entity; expected plain annotations")

    parser.StartElementHandler, parser.CharacterDataHandler = start, text
    parser.EndElementHandler = lambda _: stack.pop()
    parser.EntityDeclHandler = refuse
    parser.buffer_text = True
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"larger than {MAX_BYTES:,} bytes")
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    except (expat.ExpatError, ValueError) as error:
        raise DataError(f"not well-formed XML: {error}") from None
    return top.children[0]


def _size(root: Element) -> tuple[int, int] | None:
    """Return height and width in pixels, if the file has both."""
    size = root.child("size")
    sides = [size.value(name) if size else None for name in ("height", "width")]
    if not all(side and side.isdecimal() and int(side) for side in sides):
        return None
    return int(sides[0] or 0), int(sides[1] or 0)


def _boxes(path: Path, root: Element, size: tuple[int, int], names: Sequence[str]) -> tuple[list[Box], list[Fault]]:
    boxes: list[Box] = []
    faults: list[Fault] = []
    for entry in root.children:
        if entry.name != "object":
            continue
        try:
            boxes.append(_box(entry, size, names))
        except DataError as error:
            faults.append(Fault(path, entry.line, str(error)))
    return boxes, faults


def _box(entry: Element, size: tuple[int, int], names: Sequence[str]) -> Box:
    """Return the box of an object.

    Raises:
        DataError: It is faulty; the message is that of the fault.
    """
    name, bounds = entry.value("name"), entry.child("bndbox")
    if not name:
        raise DataError("an object without a name; expected a class")
    if name not in names:
        same = [known for known in names if known.lower() == name.lower()]
        expected = f"; expected {same[0]!r}, as elsewhere" if same else " is unknown"
        raise DataError(f"class {name!r}{expected}")
    if bounds is None:
        raise DataError(f"{name}: no bndbox; expected one with {', '.join(SIDES)}")
    texts = [bounds.value(side) for side in SIDES]
    try:
        left, top, right, bottom = (float(text or "missing") for text in texts)
    except ValueError:
        found = ", ".join(f"{side} {text or 'missing'}" for side, text in zip(SIDES, texts, strict=True))
        raise DataError(f"{name}: {found[:120]}; expected four numbers") from None
    shown = f"{name}: box {left:g}, {top:g} to {right:g}, {bottom:g}"
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise DataError(f"{shown}; expected finite numbers")
    if right <= left or bottom <= top:
        raise DataError(f"{shown}; expected xmax > xmin and ymax > ymin")
    if min(left, top) < -BORDER or right > size[1] + BORDER or bottom > size[0] + BORDER:
        raise DataError(f"{shown} reaches out of the image; expected up to {size[1]}, {size[0]}")
    return Box(names.index(name), (left, top, right, bottom), entry.value("difficult") == "1")


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    class_names = list(names) if names else None
    if path.is_file():
        return {"train": partial(VocFolder(path.parent, class_names).read, [path])}
    folder = VocFolder(path, class_names)
    return {split: partial(folder.read, files) for split, files in folder.splits().items() if files}


FORMATS = {
    "voc": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="Annotations/*.xml (VOC)",
        suffixes=(".xml",),
        fits_folder=lambda folder: (folder / "Annotations").is_dir() or any(folder.glob("*.xml")),
        order=20,
    )
}
