"""Labels that call their classes by name: read from files of any kind, and made a dataset in one way.

A label tool's file says which image it is about, perhaps how large that is, and which objects are in it. What reads
such a file yields :class:`Labels`, and a :class:`~crossstage.data.faults.Fault` for what makes no sense; here images
are found, classes numbered, boxes fitted into their images, and everything that is wrong told with file and line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from crossstage.data.class_names import class_name
from crossstage.data.faults import Fault, Reading
from crossstage.data.fitting import Corners, fit_box
from crossstage.data.masks import Mask, checked_polygons
from crossstage.data.records import Box, DetectionBuilder, DetectionData
from crossstage.errors import DataError
from crossstage.inference.images import image_size
from crossstage.inference.sources import IMAGE_SUFFIXES
from crossstage.reading.finding import beside
from crossstage.reading.text import shown

RARE = 0.1  # of a class's objects: so many with its name in other letters are taken for a slip
LONGEST_PATH = 4096


@dataclass(frozen=True)
class NamedBox:
    """An object as a file states it.

    Attributes:
        name: The class's name as it is written.
        xyxy: Corners of its box in pixels; in shares of the image's sides where ``shares`` says so.
        line: The line that it stands in; None if it is no matter of a line.
        difficult: Whether it is too hard to be counted, or a crowd.
        polygon: The corners of its mask, x and y in turn, in the unit of the box; None where it has none.
        shares: Whether the numbers are shares of the image's sides.
        wrong: What is wrong with it; None if its box is one.
    """

    name: object
    xyxy: Corners
    line: int | None = None
    difficult: bool = False
    polygon: Sequence[float] | None = None
    shares: bool = False
    wrong: str | None = None


@dataclass(frozen=True)
class Labels:
    """What a file says about one image.

    Attributes:
        file: The file.
        line: The line that the image stands in; None if the whole file is about it.
        image: The image as the file names it; empty where only the file's own name tells it.
        objects: Its objects.
        size: Its height and width in pixels, if the file states them.
        folders: Where images are looked for.
        stem: The name, without an ending, of an image that lies in one of these folders where the one that is named
            does not; empty if there is none.
    """

    file: Path
    line: int | None
    image: str
    objects: Sequence[NamedBox]
    size: tuple[int, int] | None
    folders: Sequence[Path]
    stem: str = ""


Entries = Callable[[], Iterable[Labels | Fault]]
"""Reads a part: what is said about each image, and what is wrong. It raises nothing, and can be asked twice."""


class NamedParts:
    """The parts of a dataset, which number their classes alike.

    Args:
        root: The dataset's folder or file.
        parts: What reads each part.
        names: Names by class id; None takes those that occur in any part, sorted.
    """

    def __init__(self, root: Path, parts: Mapping[str, Entries], names: Sequence[str] | None) -> None:
        self.root, self.parts, self.given = root, parts, names

    def readers(self) -> dict[str, Callable[[], Reading[DetectionData]]]:
        """Return the reader of each part."""
        return {split: partial(self.read, split) for split in self.parts}

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id. A name that is a rare slip of another one's letters' case is no class."""
        if self.given is not None:
            return tuple(self.given)
        counts = Counter[str]()
        for entries in self.parts.values():
            for entry in entries():
                if isinstance(entry, Labels):
                    counts.update(name for box in entry.objects if (name := _name_or_none(box.name)))
        most: dict[str, int] = {}
        for name, count in counts.most_common():
            most.setdefault(name.casefold(), count)
        return tuple(sorted(name for name, count in counts.items() if count > RARE * most[name.casefold()]))

    def read(self, split: str) -> Reading[DetectionData]:
        """Read a part: what is sound, and every fault with its line."""
        faults: list[Fault] = []
        found, skipped = DetectionBuilder(), 0
        class_ids = {name: number for number, name in reversed(list(enumerate(self.class_names)))}
        for entry in self.parts[split]():
            if isinstance(entry, Fault):
                faults.append(entry)
                continue
            try:
                image, note = find_image(entry)
            except DataError as error:
                faults.append(Fault(entry.file, entry.line, str(error)))
                continue
            try:
                size = image_size(image) if entry.size is None or min(entry.size) < 1 else entry.size
            except DataError as error:
                faults.append(Fault(image, None, str(error).removeprefix(f"{image}: ")))
                continue
            if note:
                faults.append(Fault(entry.file, entry.line, note, broken=False))
            boxes, wrong = _boxes(entry, size, class_ids)
            faults += wrong
            skipped += sum(fault.broken for fault in wrong)
            found.add(image, size, boxes)
        return Reading(found.build(self.root, self.class_names), tuple(faults), skipped)


def _name_or_none(name: object) -> str | None:
    try:
        return class_name(name)
    except DataError:
        return None  # told where its box is read


def _boxes(entry: Labels, size: tuple[int, int], class_ids: Mapping[str, int]) -> tuple[list[Box], list[Fault]]:
    boxes: list[Box] = []
    faults: list[Fault] = []
    for stated in entry.objects:
        line = stated.line or entry.line
        try:
            box, note = _box(stated, size, class_ids)
        except DataError as error:
            faults.append(Fault(entry.file, line, str(error)))
            continue
        boxes.append(box)
        if note:
            faults.append(Fault(entry.file, line, note, broken=False))
    return boxes, faults


def _box(stated: NamedBox, size: tuple[int, int], class_ids: Mapping[str, int]) -> tuple[Box, str | None]:
    try:
        name = class_name(stated.name)
    except DataError:
        found = "without a name" if not stated.name else f"with {shown(stated.name)} for a name"
        raise DataError(f"an object {found}; expected a class") from None
    if name not in class_ids:
        same = [known for known in class_ids if known.casefold() == name.casefold()]
        expected = f"; expected {same[0]!r}, as elsewhere" if same else " is unknown"
        raise DataError(f"class {shown(name)}{expected}")
    if stated.wrong:
        raise DataError(f"{name}: {stated.wrong}")
    height, width = size
    xyxy, polygon = stated.xyxy, stated.polygon
    if stated.shares:
        xyxy = xyxy[0] * width, xyxy[1] * height, xyxy[2] * width, xyxy[3] * height
        polygon = None if polygon is None else [v * (width, height)[at % 2] for at, v in enumerate(polygon)]
    left, top, right, bottom = xyxy
    fitted, note = fit_box(xyxy, size, lambda: f"{name}: box {left:g}, {top:g} to {right:g}, {bottom:g}")
    mask: Mask = None
    if polygon is not None:
        try:
            mask = checked_polygons([list(polygon)], size)
        except DataError as error:  # its box is still good, and all that most detectors want
            note = f"{name}: {error}; its box stays"
    return Box(class_ids[name], fitted, stated.difficult, mask), note


def find_image(entry: Labels) -> tuple[Path, str | None]:
    """Return the image that labels are about, and what is odd about how it was found.

    Tools write paths of their own machine: the path is looked for as it is written, from each folder, then its name
    alone, then the same name with another ending, then the label file's own name. An image of that name goes before
    another one that is named and lies there, too: files are copied and renamed more often than labels are rewritten.

    Raises:
        DataError: There is none; the message is that of the fault.
    """
    named = plain_path(entry.image)
    stems = (entry.stem, PurePosixPath(named).stem)
    own, same = (_first(beside(folder / stem, IMAGE_SUFFIXES) for folder in entry.folders if stem) for stem in stems)
    found = _first(image_in(folder, named, whole=whole) for whole in (True, False) for folder in entry.folders if named)
    if found and own and own.stem != found.stem:
        return own, f"names {shown(entry.image)}, and {own.name} has its own name; the latter is taken"
    if found:
        return found, None
    if taken := same or own:
        odd = bool(named) and taken.name != PurePosixPath(named).name
        return taken, f"names {shown(entry.image)}, which is not there; {taken.name} is taken" if odd else None
    tried = ", ".join(str(folder) for folder in entry.folders)
    raise DataError(f"image {shown(entry.image or entry.stem, 200)} is in none of {tried}")


def _first(found: Iterable[Path | None]) -> Path | None:
    return next((path for path in found if path is not None), None)


def plain_path(text: str) -> str:
    """Return a path as this system writes it: with slashes, without a drive."""
    if "\0" in text or len(text) > LONGEST_PATH:
        return ""
    path = PureWindowsPath(text.strip()) if "\\" in text else PurePosixPath(text.strip())
    return path.as_posix().removeprefix(path.drive)


def image_in(folder: Path, named: str, *, whole: bool) -> Path | None:
    """Return the file of a name in a folder, whatever the case of its ending.

    Args:
        folder: Where to look.
        named: A path, see :func:`plain_path`.
        whole: Whether it is looked for as it is written, or by its last part alone.
    """
    path = folder / (named if whole else PurePosixPath(named).name)
    try:
        if path.is_file():
            return path
        found = beside(path.with_suffix(""), (path.suffix,))  # a.JPG for a.jpg
        return found if found is not None and found.is_file() else None
    except (OSError, ValueError):  # such as a name longer than the system allows
        return None
