"""Boxes in CSV files, a row for each: image, class and corners, in the forms that are common.

- With a header: ``filename, width, height, class, xmin, ymin, xmax, ymax`` in any order (TensorFlow, Roboflow); the
  image may be called ``image`` or ``path``, the class ``label``, and the corners ``x1, y1, x2, y2``.
- Without one: ``path, x1, y1, x2, y2, class`` (keras-retinanet); a row of a path alone is an image without objects.
- Open Images: ``ImageID, LabelName, XMin, XMax, YMin, YMax`` in shares of the sides; what ``IsGroupOf`` marks is
  neither wanted nor wrong, and a file ``class-descriptions*.csv`` names the classes.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from crossstage.data.faults import Fault, fault_in
from crossstage.data.formats.base import DataFormat, Names, Reader, listed_names, split_folders, split_of
from crossstage.data.named import Labels, NamedBox, NamedParts
from crossstage.errors import DataError
from crossstage.inference.sources import IMAGE_SUFFIXES
from crossstage.reading.finding import find_files
from crossstage.reading.numbers import number, whole
from crossstage.reading.text import read_text, shown

MAX_BYTES = 1 << 30
HEAD = 1 << 14
LOOKED_INTO = 20
DELIMITERS = (",", ";", "\t")
IMAGE = ("filename", "image", "imagename", "imagepath", "imageid", "path", "file", "filepath", "img")
CLASS = ("class", "label", "labelname", "classname", "category", "name")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
BARE = ("path", "x1", "y1", "x2", "y2", "class")


@dataclass(frozen=True)
class _Form:
    """Where a table has what: the positions of its columns.

    Attributes:
        delimiter: What stands between columns.
        header: Whether the first row is a header.
        image: The column of the image's name.
        name: That of the class.
        corners: Those of left, top, right and bottom.
        size: Those of the image's height and width, if there are any.
        group: That which marks groups of objects, if there is one.
        shares: Whether corners are shares of the image's sides.
    """

    delimiter: str
    header: bool
    image: int
    name: int
    corners: tuple[int, int, int, int]
    size: tuple[int, int] | None = None
    group: int | None = None
    shares: bool = False


def _form(file: Path) -> _Form | None:
    """Return the form of a table, as its first rows show it; None if it is in none that is known."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError:
        return None
    wide = next(
        (name for mark, name in ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")) if head.startswith(mark)), None
    )
    lines = head.decode(wide or "utf-8-sig", errors="replace").splitlines()[:1]
    for delimiter in DELIMITERS if lines else ():
        cells = [cell.strip().strip('"') for cell in lines[0].split(delimiter)]
        if form := _headed(cells, delimiter) or _bare(cells, delimiter):
            return form
    return None


def _headed(cells: Sequence[str], delimiter: str) -> _Form | None:
    titles = ["".join(letter for letter in cell.lower() if letter.isalnum()) for cell in cells]
    image, name = (next((titles.index(t) for t in known if t in titles), None) for known in (IMAGE, CLASS))
    corners = next((known for known in CORNERS if all(title in titles for title in known)), None)
    if image is None or name is None or corners is None or len(set(titles)) < len(titles):
        return None
    left, top, right, bottom = (titles.index(title) for title in corners)
    size = (titles.index("height"), titles.index("width")) if {"height", "width"} <= set(titles) else None
    group = titles.index("isgroupof") if "isgroupof" in titles else None
    open_images = {"imageid", "labelname"} <= set(titles)
    return _Form(delimiter, True, image, name, (left, top, right, bottom), size, group, open_images)


def _bare(cells: Sequence[str], delimiter: str) -> _Form | None:
    """Return the form of a table without a header, if its first row is one of keras-retinanet's."""
    if len(cells) != len(BARE) or Path(cells[0]).suffix.lower() not in IMAGE_SUFFIXES:
        return None
    sides = cells[1:5]
    if any(sides) or cells[5]:
        try:
            [number(side) for side in sides]
        except ValueError:
            return None
    return _Form(delimiter, False, 0, 5, (1, 2, 3, 4))


class _Table:
    """The rows of a table as columns, in the order of the file."""

    def __init__(self, file: Path, form: _Form) -> None:
        self.file, self.form = file, form
        self.faults: list[Fault] = []
        self.images: dict[str, int] = {}
        self.first: list[int] = []  # line of each image's first row
        self.sizes: list[tuple[int, int] | None] = []
        self.names: dict[str, int] = {}
        self.of_image, self.of_name, self.lines = array("q"), array("q"), array("q")
        self.corners, self.groups = array("d"), array("b")
        self._read()

    def _read(self) -> None:
        text = read_text(self.file, expected="a table of boxes", max_bytes=MAX_BYTES)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=self.form.delimiter)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                self.faults.append(Fault(self.file, rows.line_num, f"not a row of a table: {error}"))
                continue
            if (self.form.header and rows.line_num == 1) or not any(row):
                continue
            try:
                self._take(row, rows.line_num)
            except DataError as error:
                self.faults.append(Fault(self.file, rows.line_num, str(error)))

    def _take(self, row: Sequence[str], line: int) -> None:
        form = self.form
        if len(row) <= max(form.image, form.name, *form.corners):
            raise DataError(f"{len(row)} columns: {shown(form.delimiter.join(row))}; expected those of the first row")
        named = row[form.image].strip()
        if not named:
            raise DataError("a row without an image; expected its name")
        sides = [row[column].strip() for column in form.corners]
        if named not in self.images:
            self.images[named] = len(self.images)
            self.first.append(line)
            self.sizes.append(self._size(row))
        if not any(sides) and not row[form.name].strip():
            return  # an image without objects
        try:
            values = [number(side) for side in sides]
        except ValueError:
            raise DataError(f"corners {shown(', '.join(sides))}; expected four numbers") from None
        self.of_image.append(self.images[named])
        self.of_name.append(self.names.setdefault(row[form.name], len(self.names)))
        self.lines.append(line)
        self.corners.extend(values)
        self.groups.append(form.group is not None and len(row) > form.group and row[form.group].strip() == "1")

    def _size(self, row: Sequence[str]) -> tuple[int, int] | None:
        if self.form.size is None or len(row) <= max(self.form.size):
            return None
        try:
            return whole(row[self.form.size[0]]), whole(row[self.form.size[1]])
        except ValueError:
            return None

    def entries(self, folders: Sequence[Path], named: Mapping[str, str]) -> Iterator[Labels | Fault]:
        """Yield what the table says about each image."""
        yield from self.faults
        order = np.argsort(np.array(self.of_image, np.int64), kind="stable")
        starts = np.searchsorted(np.array(self.of_image, np.int64)[order], np.arange(len(self.images) + 1))
        corners = np.array(self.corners, np.float64).reshape(-1, 4)
        shares = self.form.shares or (len(corners) > 0 and bool((corners.max() <= 1) & (corners % 1).any()))
        names = [named.get(name.strip(), name) for name in self.names]
        for (image, place), (first, last) in zip(self.images.items(), pairwise(starts.tolist()), strict=True):
            boxes = []
            for row in order[first:last].tolist():
                left, top, right, bottom = corners[row].tolist()
                group = bool(self.groups[row])
                name = names[self.of_name[row]]
                boxes.append(NamedBox(name, (left, top, right, bottom), self.lines[row], group, shares=shares))
            yield Labels(self.file, self.first[place], image, boxes, self.sizes[place], folders, stem="")


def _entries(files: Sequence[Path], split: str, root: Path) -> Iterator[Labels | Fault]:
    for file in files:
        form = _form(file)
        if form is None:
            yield Fault(file, 1, "no header that is known; expected filename, class, xmin, ymin, xmax, ymax")
            continue
        parts = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}.get(split, ())
        inner = [base / name for name in parts for base in (file.parent, file.parent / "images")]
        places = (*inner, file.parent / "images", file.parent, root, root / "images", file.parent.parent)
        folders = [folder for folder in dict.fromkeys(places) if folder.is_dir()]
        try:
            yield from _Table(file, form).entries(folders, _described_classes(file.parent))
        except DataError as error:
            yield fault_in(file, error)


def _described_classes(folder: Path) -> dict[str, str]:
    """Return names by Open Images' codes, where a file beside the boxes has them."""
    named: dict[str, str] = {}
    for file in sorted(folder.glob("class-descriptions*.csv")):
        text = read_text(file, expected="codes and names of classes", max_bytes=MAX_BYTES)
        named |= {row[0].strip(): row[1] for row in csv.reader(io.StringIO(text, newline="")) if len(row) == 2}
    return named


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the tables of boxes of each part of a folder."""
    parts: dict[str, list[Path]] = {}
    for file in find_files(folder, (".csv",), deep=False).files[:LOOKED_INTO]:
        if _form(file) is not None:
            parts.setdefault(split_of(file.stem) or "train", []).append(file)
    if not parts:
        inner = {split: _files(place) for split, place in split_folders(folder).items()}
        parts = {
            split: [f for files in of_split.values() for f in files] for split, of_split in inner.items() if of_split
        }
    return {split: parts[split] for split in ("train", "val", "test") if split in parts}


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    root = path.parent if path.is_file() else path
    files = {split_of(path.stem) or "train": [path]} if path.is_file() else _files(path)
    entries = {split: partial(_entries, of_split, split, root) for split, of_split in files.items()}
    return NamedParts(path, entries, listed_names(names)).readers()


def _fits(folder: Path) -> str:
    files = [file for of_split in _files(folder).values() for file in of_split]
    return ", ".join(str(file.relative_to(folder)) for file in files[:3]) + " with boxes" if files else ""


FORMATS = {
    "csv": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="*.csv of boxes",
        suffixes=(".csv",),
        fits_folder=_fits,
        fits_file=_form,
    )
}
