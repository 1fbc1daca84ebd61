"""What stands in a COCO annotation file: sound entries as columns, and every fault with its line.

What pycocotools takes is taken: ids may be texts or whole floats, numbers may be texts, an area or a size may be
missing. Entries are read one by one, so that a file of a million boxes needs little more memory than its text.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping
from json import JSONDecoder
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossstage.data.class_names import class_name
from crossstage.data.faults import Fault, Reading
from crossstage.data.fitting import fit_box
from crossstage.data.json_entries import MAX_BYTES, items, members, why_not
from crossstage.data.masks import Mask, MasksBuilder, checked_segmentation, packed
from crossstage.data.named import image_in, plain_path
from crossstage.data.records import Boxes, DetectionData, ImageRef
from crossstage.errors import DataError
from crossstage.inference.images import image_size
from crossstage.ops import rle
from crossstage.reading.numbers import number, whole
from crossstage.reading.text import read_text, shown, visible

LONGEST_TEXT = 1000
LARGEST = 1e15  # of numbers that need no closer look
SECTIONS = ("categories", "images", "annotations")  # in the order in which they are read
CocoId = int | str
"""An id: a whole number however it is written, else a text."""


class CocoScan:
    """One pass over a file.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read or parsed, or lacks one of the three lists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = read_text(path, expected="COCO's annotations", max_bytes=MAX_BYTES)
        self.faults: list[tuple[int, str, bool]] = []  # where it stands, what is wrong, is it broken
        self.categories: dict[CocoId, str] = {}
        self.images: dict[CocoId, ImageRef] = {}
        self.listed: dict[str, set[CocoId]] = {"images": set(), "categories": set()}  # the faulty ones as well
        self.finder = _ImageFinder(path)
        self.columns = _Columns()
        self.stated = 0  # annotations in the file
        try:
            self._read()
        except DataError as error:
            raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: {why_not(error)}") from None

    def reading(self) -> Reading[DetectionData]:
        """Return what is sound, with the lines of what is not."""
        repeated = self.columns.repeated()
        for first, count in repeated.counts:
            text = f"annotation {self.columns.ids[first]}: the id stands {count} times"
            self.faults.append((self.columns.places[first], text, True))
        faults = self._with_lines()
        if not self.images or not self.categories:
            return Reading(None, faults)
        order = sorted(self.categories, key=lambda key: (isinstance(key, str), key if isinstance(key, int) else 0))
        boxes = self.columns.build(list(self.images), order, repeated.later)
        images = tuple(self.images.values())
        if any(isinstance(key, str) for key in self.images):
            images = tuple(ImageRef(n, i.path, i.width, i.height) for n, i in enumerate(images, start=1))
        ids = [key for key in order if isinstance(key, int)]
        ids = ids if len(ids) == len(order) else list(range(1, len(order) + 1))
        data = DetectionData(self.path, tuple(self.categories[key] for key in order), images, boxes, tuple(ids))
        return Reading(data, faults, self.stated - len(boxes.class_ids))

    def _read(self) -> None:
        places: dict[str, int] = {}
        for key, at in members(self.text):
            if key in SECTIONS and key in places:
                raise DataError(f"{key!r} stands twice; expected one list")
            places[key] = at
        for key in ("images", "annotations", "categories"):
            if key not in places or self.text[places[key]] != "[":
                kind = (
                    "missing"
                    if key not in places
                    else type(JSONDecoder().raw_decode(self.text, places[key])[0]).__name__
                )
                raise DataError(f"{key!r} is {kind}; expected a list")
        handlers = {"images": self._image, "categories": self._category, "annotations": self._annotation}
        for key in SECTIONS:
            count = 0
            for at, entry in items(self.text, places[key]):
                if isinstance(entry, dict):
                    handlers[key](count, at, entry)
                else:
                    self._fault(at, f"{key}[{count}]: {shown(entry)}; expected an object")
                count += 1
            if not count and key != "annotations":
                self._fault(places[key], f"{key}: empty; expected at least one")
            self.stated = count

    def _category(self, count: int, at: int, entry: Mapping[str, Any]) -> None:
        try:
            id_ = _key(entry.get("id"))
            self.listed["categories"].add(id_)
            name = class_name(entry.get("name"))
        except DataError:
            found = f"id {shown(entry.get('id'))}, name {shown(entry.get('name'))}"
            expected = f"expected a whole number and a text of up to {LONGEST_TEXT} characters"
            self._fault(at, f"categories[{count}]: {found}; {expected}")
            return
        if id_ in self.categories:
            self._fault(at, f"categories[{count}]: id {visible(id_)} stands twice")
        else:
            self.categories[id_] = name

    def _image(self, count: int, at: int, entry: Mapping[str, Any]) -> None:
        name = entry.get("file_name")
        try:
            id_ = _key(entry.get("id"))
            self.listed["images"].add(id_)
            if not isinstance(name, str) or not 0 < len(name) <= LONGEST_TEXT:
                raise DataError
        except DataError:
            found = f"id {shown(entry.get('id'))}, file_name {shown(name)}"
            expected = f"expected a whole number and a text of up to {LONGEST_TEXT} characters"
            self._fault(at, f"images[{count}]: {found}; {expected}")
            return
        try:
            if id_ in self.images:
                raise DataError(f"the id stands twice, for {self.images[id_].path.name} and {name}")
            sides = [_side(entry.get(side)) for side in ("width", "height")]
            if sides.count(-1):
                width, height = (shown(entry.get(side)) for side in ("width", "height"))
                raise DataError(f"width {width}, height {height}; expected positive whole numbers")
            path = self.finder.find(name)
            height, width = image_size(path) if None in sides else (sides[1], sides[0])
        except DataError as error:
            self._fault(at, f"image {visible(id_)}: {visible(error)}")
            return
        self.images[id_] = ImageRef(id_ if isinstance(id_, int) else 0, path, width or 0, height or 0)

    def _annotation(self, count: int, at: int, entry: Mapping[str, Any]) -> None:
        """Keep a sound annotation; one of a faulty image or category is dropped without a further fault."""
        faults: list[str] = []
        try:
            own = _key(entry.get("id"))
            name = f"annotation {own}" if isinstance(own, int) else f"annotation {visible(own)}"
        except DataError:
            own, name = 0, f"annotations[{count}]"
            faults.append(f"id {shown(entry.get('id'))}; expected a whole number")
        category = self._reference(entry, "category_id", "categories", faults)
        image_id = self._reference(entry, "image_id", "images", faults)
        image = None if image_id is None else self.images.get(image_id)
        values, mask = None, None
        if image is not None:
            values = _values(entry, image, faults)
            try:
                mask = checked_segmentation(entry.get("segmentation"), (image.height, image.width))
            except DataError as error:  # its box is still good, and all that most detectors want
                self._fault(at, f"{name}: segmentation: {error}; its box stays", broken=False)
        for fault in faults:
            self._fault(at, f"{name}: {fault}")
        if faults or image_id is None or image is None or values is None or category not in self.categories:
            return
        if values.note:
            self._fault(at, f"{name}: {values.note}", broken=False)
        area = values.area
        if area is None:
            size = image.height, image.width
            area = values.xywh[2] * values.xywh[3] if mask is None else rle.area(packed(mask, size), size)
        self.columns.add(own, at, image_id, category, values._replace(area=area), mask)

    def _reference(self, entry: Mapping[str, Any], field: str, section: str, faults: list[str]) -> CocoId | None:
        """Return the id that a field refers to; None, and a fault, if nothing has it."""
        try:
            key = _key(entry.get(field))
        except DataError:
            key = None
        if key is None or key not in self.listed[section]:
            faults.append(f"{field} {shown(entry.get(field))}; expected one of the {section}' ids")
            return None
        return key

    def _fault(self, at: int, text: str, *, broken: bool = True) -> None:
        self.faults.append((at, text, broken))

    def _with_lines(self) -> tuple[Fault, ...]:
        lines: dict[int, int] = {}
        line, counted = 1, 0
        for at in sorted({fault[0] for fault in self.faults}):
            line, counted = line + self.text.count("\n", counted, at), at
            lines[at] = line
        return tuple(Fault(self.path, lines[at], text, broken) for at, text, broken in self.faults)


class _Values(NamedTuple):
    """What an annotation says besides its ids: COCO's box and area, and what is odd about them."""

    xywh: tuple[float, float, float, float]
    area: float | None
    crowd: bool
    note: str | None


class _Repeated(NamedTuple):
    """Annotations whose ids stood before: the position of the second of each, how many there are, and all of them."""

    counts: list[tuple[int, int]]
    later: list[int]


class _Columns:
    """Sound annotations as plain numbers, in the file's order."""

    def __init__(self) -> None:
        self.ids: list[CocoId] = []
        self.places = array("q")
        self.image_ids: list[CocoId] = []
        self.categories: list[CocoId] = []
        self.xywh, self.areas, self.crowd = array("d"), array("d"), array("b")
        self.masks = MasksBuilder()

    def add(self, own: CocoId, at: int, image: CocoId, category: CocoId, values: _Values, mask: Mask) -> None:
        """Add an annotation; its area is known."""
        self.ids.append(own)
        self.places.append(at)
        self.image_ids.append(image)
        self.categories.append(category)
        self.xywh.extend(values.xywh)
        self.areas.append(values.area or 0.0)
        self.crowd.append(values.crowd)
        self.masks.add(mask)

    def repeated(self) -> _Repeated:
        """Return the annotations whose id stood before."""
        if len(set(self.ids)) == len(self.ids):
            return _Repeated([], [])
        of_id: dict[CocoId, list[int]] = defaultdict(list)
        for position, key in enumerate(self.ids):
            of_id[key].append(position)
        groups = [positions for positions in of_id.values() if len(positions) > 1]
        return _Repeated([(group[1], len(group)) for group in groups], [n for group in groups for n in group[1:]])

    def build(self, images: list[CocoId], categories: list[CocoId], without: list[int]) -> Boxes:
        """Return the annotations as columns, image after image, in the file's order within an image."""
        position = {key: number for number, key in enumerate(images)}
        class_of = {key: number for number, key in enumerate(categories)}
        of_image = np.fromiter((position[key] for key in self.image_ids), np.int64, len(self.image_ids))
        of_class = np.fromiter((class_of[key] for key in self.categories), np.int64, len(self.categories))
        order = np.argsort(of_image, kind="stable")
        order = order[~np.isin(order, without)] if without else order
        masks = self.masks.build()
        return Boxes(
            np.searchsorted(of_image[order], np.arange(len(images) + 1)),
            np.array(self.xywh, np.float64).reshape(-1, 4)[order],
            of_class[order],
            np.array(self.crowd, np.bool_)[order],
            np.array(self.areas, np.float64)[order],
            None if masks is None else masks[order],
        )


class _ImageFinder:
    """Finds images where COCO's layout, Roboflow's and those of other tools have them."""

    def __init__(self, path: Path) -> None:
        root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
        part = path.stem.removeprefix("instances_")
        self.folders = list(
            dict.fromkeys(
                [
                    root / "images" / part,
                    root / part,
                    root / "images" / part.rstrip("0123456789"),
                    root / "images",
                    root,
                    path.parent,
                    path.parent.parent / "images",
                    path.parent.parent / "JPEGImages",
                ]
            )
        )
        self.tried = ", ".join(map(str, self.folders))

    def find(self, name: str) -> Path:
        """Return an image's path.

        Raises:
            DataError: It is nowhere; the message is that of the fault.
        """
        named = plain_path(name)
        for whole_path in (True, False):
            for position, folder in enumerate(self.folders):
                if named and (found := image_in(folder, named, whole=whole_path)):
                    if position:  # most others lie there, too
                        self.folders.insert(0, self.folders.pop(position))
                    return found
        raise DataError(f"{shown(name, 200)[1:-1]} does not exist; looked in {self.tried}")


def _values(entry: Mapping[str, Any], image: ImageRef, faults: list[str]) -> _Values | None:
    """Return an annotation's values; None, and faults, if one makes no sense."""
    before = len(faults)
    box, area, crowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd")
    xywh, note = (0.0, 0.0, 0.0, 0.0), None
    try:
        xywh = _box(box)
        x, y, width, height = xywh
        note = fit_box((x, y, x + width, y + height), (image.height, image.width), lambda: f"bbox {box}").note
    except DataError as error:
        faults.append(str(error))
        area = None  # made of the same numbers
    try:
        area = None if area is None else number(area)
        if area is not None and area < 0:
            raise ValueError
    except ValueError:
        faults.append(f"area {shown(entry.get('area'))}; expected a number, not below 0, or none at all")
    try:
        crowd = int(crowd or 0) if isinstance(crowd, bool) or crowd is None else whole(crowd)
    except ValueError:
        crowd = -1
    if crowd not in (0, 1):
        faults.append(f"iscrowd {shown(entry.get('iscrowd'))}; expected 0 or 1, or none at all")
    return None if len(faults) > before else _Values(xywh, area, bool(crowd), note)


def _box(box: Any) -> tuple[float, float, float, float]:
    if isinstance(box, list) and len(box) == 4:
        try:
            x, y, width, height = (
                side if type(side) in (float, int) and abs(side) < LARGEST else number(side) for side in box
            )
            return x, y, width, height
        except ValueError:
            pass
    raise DataError(f"bbox {shown(box)}; expected four finite numbers, x, y, width and height")


def _key(value: Any) -> CocoId:
    """Return an id.

    Raises:
        DataError: It is neither a whole number of 64 bits nor a text.
    """
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    try:
        return whole(value)
    except ValueError:
        if isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT:
            return value
    raise DataError(f"{shown(value)}; expected a whole number or a text")


def _side(value: Any) -> int | None:
    """Return a width or height; None if it is not stated, -1 if it makes no sense."""
    try:
        found = None if value is None else whole(value)
    except ValueError:
        return -1
    return -1 if found is not None and found < 1 else found
