"""COCO's annotation files: found by convention, read strictly, all faults listed together."""

from __future__ import annotations

import json
import reprlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossstage.data.faults import Fault, Reading
from crossstage.data.formats.base import BORDER, DataFormat, Names, Reader, split_of
from crossstage.data.json_lines import entry_lines
from crossstage.data.masks import Mask, MasksBuilder, checked_segmentation, packed
from crossstage.data.records import Boxes, DetectionData, ImageRef
from crossstage.errors import DataError
from crossstage.ops import rle

MAX_BYTES = 2 << 30
LONGEST_TEXT = 1000
OTHER_TASKS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")  # beside COCO's instances_*.json

_shorten = reprlib.Repr()  # a broken value can be megabytes long or deeply nested
_shorten.maxlist, _shorten.maxstring, _shorten.maxother = 6, 80, 80


def find_coco(data: Path, *, split: str | None = None) -> DetectionData:
    """Find and read a dataset.

    Args:
        data: An annotation ``.json``, or a folder with ``annotations/*.json``.
        split: Part of the annotation file's name that picks one of several; the default prefers "val".

    Raises:
        DataError: Nothing or more than one file fits, or the file is faulty, see :func:`read_coco`.
    """
    return read_coco(_annotation_file(data, split))


def read_coco(path: Path) -> DetectionData:
    """Read and check an annotation file.

    Images are looked for where COCO's layout has them: for ``X/annotations/instances_val2017.json`` in
    ``X/images/val2017``, ``X/val2017``, ``X/images/val``, ``X/images``, ``X``, beside the file, and in
    ``X/JPEGImages``, where PASCAL VOC's layout has them.

    Raises:
        DataError: The file cannot be read or parsed, or something in it is wrong: the message lists the first faults,
            each with what was found and what was expected.
    """
    text, content = _parse(path)
    return _Scan(path, content).reading(text).usable()


def scan_coco(path: Path) -> Reading[DetectionData]:
    """Read an annotation file as :func:`read_coco` does, but go on: what is sound, and every fault with its line."""
    try:
        text, content = _parse(path)
        return _Scan(path, content).reading(text)
    except DataError as error:
        return Reading(None, (Fault(path, None, str(error).removeprefix(f"{path}: ")),))


def coco_files(folder: Path) -> list[Path]:
    """Return the files with boxes in a folder of COCO's layout."""
    found = sorted(folder.glob("annotations/*.json")) or sorted(folder.glob("*.json"))
    return [file for file in found if not file.name.startswith(OTHER_TASKS)]


def _parts(path: Path, _: Names) -> dict[str, Reader]:
    if path.is_file():
        beside = {split_of(file.name): file for file in coco_files(path.parent) if split_of(file.name)}
        own = split_of(path.name)
        files = {**beside, own: path} if own == "train" else {own or "train": path}
    else:
        found = coco_files(path)
        parts = [split_of(file.name) or "train" for file in found]
        several = {part for part, count in Counter(parts).items() if count > 1}
        files = {f.stem if part in several else part: f for part, f in zip(parts, found, strict=True)}
    order = sorted(files, key=lambda part: ("train", "val", "test", part).index(str(part)))
    return {str(part): partial(scan_coco, files[part]) for part in order}


def _annotation_file(data: Path, split: str | None) -> Path:
    if not data.exists():
        raise DataError(f"{data}: no such file or folder")
    if data.is_file():
        return data
    found = coco_files(data)
    fitting = [file for file in found if (split or "val") in file.stem] or ([] if split else found)
    if len(fitting) != 1:
        names = ", ".join(file.name for file in found) or "none"
        wanted = (
            f"one whose name contains {split!r}, not {len(fitting)}" if split else "a single one, or split= to pick"
        )
        raise DataError(f"{data}: annotation files: {names}; expected {wanted}")
    return fitting[0]


def _parse(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES:,} bytes")
        text = path.read_bytes().decode("utf-8-sig")
        content = json.loads(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; expected an object with images and annotations")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            found = "missing" if key not in content else type(content[key]).__name__
            raise DataError(f"{path}: {key!r} is {found}; expected a list")
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{path}: {key!r} holds something that is no object")
    return text, content


class _Scan:
    """One pass over a parsed file: what is sound, and the faults with the places where they stand."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path = path
        self.content = content
        self.faults: list[tuple[str, int, str, bool]] = []  # section, position in it, what is wrong, is it broken
        self.categories = self._categories()
        self.images = self._images()
        self.masks = MasksBuilder()  # of the sound annotations
        self.annotations = self._annotations()

    def reading(self, text: str) -> Reading[DetectionData]:
        """Return what is sound, with the lines of what is not."""
        lines = entry_lines(text, {fault[:2] for fault in self.faults}) if self.faults else {}
        faults = tuple(Fault(self.path, lines.get(fault[:2]), *fault[2:]) for fault in self.faults)
        if not self.images or not self.categories:
            return Reading(None, faults)
        images = tuple(self.images.values())
        categories = dict(sorted(self.categories.items()))
        boxes = _boxes(self.annotations, images, list(categories), self.masks)
        data = DetectionData(self.path, tuple(categories.values()), images, boxes, tuple(categories))
        return Reading(data, faults, len(self.content["annotations"]) - len(self.annotations))

    def _categories(self) -> dict[int, str]:
        categories: dict[int, str] = {}
        for number, entry in enumerate(self.content["categories"]):
            if not _whole(entry.get("id")) or not _text(entry.get("name")):
                self._fault(
                    "categories",
                    number,
                    f"categories[{number}]: id {_shown(entry.get('id'))}, name {_shown(entry.get('name'))}; "
                    f"expected a whole number and a text of up to {LONGEST_TEXT} characters",
                )
            elif entry["id"] in categories:
                self._fault("categories", number, f"categories[{number}]: id {entry['id']} stands twice")
            else:
                categories[entry["id"]] = entry["name"]
        if not self.content["categories"]:
            self._fault("categories", -1, "categories: empty; expected at least one")
        return categories

    def _images(self) -> dict[int, ImageRef]:
        images: dict[int, ImageRef] = {}
        folder: Path | None = None
        for number, entry in enumerate(self.content["images"]):
            if fault := _image_fault(entry, number, images):
                self._fault("images", number, fault)
                continue
            folder = folder or _image_folder(self.path, entry["file_name"])
            image = ImageRef(entry["id"], folder / entry["file_name"], entry["width"], entry["height"])
            if not _is_file(image.path):
                self._fault("images", number, f"image {image.id}: {image.path} does not exist")
                continue
            images[image.id] = image
        if not self.content["images"]:
            self._fault("images", -1, "images: empty; expected at least one")
        return images

    def _annotations(self) -> list[dict[str, Any]]:
        """Return the sound annotations; those of a faulty image or category are dropped without a further fault."""
        listed_images, listed_categories = _ids(self.content["images"]), _ids(self.content["categories"])
        sound: list[dict[str, Any]] = []
        count = Counter(entry["id"] for entry in self.content["annotations"] if _whole(entry.get("id")))
        seen: Counter[int] = Counter()
        for number, entry in enumerate(self.content["annotations"]):
            id_, category, image = entry.get("id"), entry.get("category_id"), entry.get("image_id")
            name = f"annotation {id_}" if _whole(id_) else f"annotations[{number}]"
            faults: list[str] = []
            mask: Mask = None
            if _whole(id_):
                seen[id_] += 1
                if seen[id_] == 2:
                    faults.append(f"the id stands {count[id_]} times")
            else:
                faults.append(f"id {_shown(id_)}; expected a whole number")
            if not _whole(category) or category not in listed_categories:
                faults.append(f"category_id {_shown(category)}; expected one of the categories' ids")
            if not _whole(image) or image not in listed_images:
                faults.append(f"image_id {_shown(image)}; expected one of the images' ids")
            elif image in self.images:
                faults += _value_faults(entry, self.images[image])
                try:
                    mask = checked_segmentation(entry.get("segmentation"), self._size(image))
                except DataError as error:  # its box is still good, and all that most detectors want
                    self._fault("annotations", number, f"{name}: segmentation: {error}; its box stays", broken=False)
            for fault in faults:
                self._fault("annotations", number, f"{name}: {fault}")
            if not faults and seen[id_] == 1 and image in self.images and category in self.categories:
                sound.append(entry)
                self.masks.add(mask)
                if "area" not in entry:
                    entry["area"] = _area(entry, mask, self._size(image))
        return sound

    def _size(self, image_id: int) -> tuple[int, int]:
        image = self.images[image_id]
        return image.height, image.width

    def _fault(self, section: str, number: int, text: str, *, broken: bool = True) -> None:
        self.faults.append((section, number, text, broken))


def _boxes(
    annotations: Sequence[Mapping[str, Any]],
    images: Sequence[ImageRef],
    category_ids: Sequence[int],
    masks: MasksBuilder,
) -> Boxes:
    """Return sound annotations as columns, image after image, in the file's order within an image."""
    position = {image.id: number for number, image in enumerate(images)}
    class_of = {id_: number for number, id_ in enumerate(category_ids)}
    of_image = np.array([position[entry["image_id"]] for entry in annotations], np.int64)
    order = np.argsort(of_image, kind="stable")
    xywh = np.array([entry["bbox"] for entry in annotations], np.float64).reshape(-1, 4)
    of_annotations = masks.build()
    return Boxes(
        np.searchsorted(of_image[order], np.arange(len(images) + 1)),
        xywh[order],
        np.array([class_of[entry["category_id"]] for entry in annotations], np.int64)[order],
        np.array([entry.get("iscrowd", 0) for entry in annotations], np.bool_)[order],
        np.array([entry["area"] for entry in annotations], np.float64)[order],
        None if of_annotations is None else of_annotations[order],
    )


def _image_fault(entry: Mapping[str, Any], number: int, images: Mapping[int, ImageRef]) -> str | None:
    sizes: tuple[Any, Any] = entry.get("width"), entry.get("height")
    if not _whole(entry.get("id")) or not _text(entry.get("file_name")):
        return (
            f"images[{number}]: id {_shown(entry.get('id'))}, file_name {_shown(entry.get('file_name'))}; "
            f"expected a whole number and a text of up to {LONGEST_TEXT} characters"
        )
    if not all(_whole(size) and size > 0 for size in sizes):
        return (
            f"image {entry['id']}: width {_shown(sizes[0])}, height {_shown(sizes[1])}; expected positive whole numbers"
        )
    if entry["id"] in images:
        return f"image {entry['id']}: the id stands twice, for {images[entry['id']].path.name} and {entry['file_name']}"
    return None


def _image_folder(path: Path, file_name: str) -> Path:
    root = path.parent.parent if path.parent.name == "annotations" else path.parent
    part = path.stem.removeprefix("instances_")
    candidates = [
        root / "images" / part,
        root / part,
        root / "images" / part.rstrip("0123456789"),
        root / "images",
        root,
        path.parent,
        path.parent.parent / "images",
        path.parent.parent / "JPEGImages",
    ]
    for folder in candidates:
        if _is_file(folder / file_name):
            return folder
    tried = ", ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise DataError(f"{path}: image {file_name} is in none of {tried}")


def _value_faults(entry: Mapping[str, Any], image: ImageRef) -> list[str]:
    area, crowd = entry.get("area", 0), entry.get("iscrowd", 0)
    faults: list[str] = []
    if fault := _box_fault(entry.get("bbox"), image):
        faults.append(fault)
    elif not _number(area) or area < 0:
        faults.append(f"area {_shown(area)}; expected a number, not below 0, or none at all")
    if crowd not in (0, 1):
        faults.append(f"iscrowd {_shown(crowd)}; expected 0 or 1, or none at all")
    return faults


def _area(entry: Mapping[str, Any], mask: Mask, size: tuple[int, int]) -> float:
    """Return the area of an annotation that states none: that of its mask, else of its box."""
    if mask is None:
        return entry["bbox"][2] * entry["bbox"][3]
    return rle.area(packed(mask, size), size)


def _box_fault(box: Any, image: ImageRef) -> str | None:
    if not isinstance(box, list) or len(box) != 4 or not all(_number(side) for side in box):
        return f"bbox {_shown(box)}; expected four finite numbers, x, y, width and height"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return f"bbox {box}; expected a positive width and height"
    if x < -BORDER or y < -BORDER or x + width > image.width + BORDER or y + height > image.height + BORDER:
        return f"bbox {box} reaches out of the image; expected x, y from 0 to {image.width}, {image.height}"
    return None


def _ids(entries: list[dict[str, Any]]) -> set[int]:
    return {entry["id"] for entry in entries if _whole(entry.get("id"))}


def _shown(value: Any) -> str:
    return _shorten.repr(value)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name longer than the system allows
        return False


def _text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT


def _whole(value: Any) -> bool:
    """Return whether a value is a whole number of 64 bits, as COCO's tools need ids to be."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _number(value: Any) -> bool:
    """Return whether a value is a finite number; unlike :func:`math.isfinite`, this takes one of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


FORMATS = {
    "coco": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="annotations/*.json (COCO)",
        suffixes=(".json",),
        fits_folder=coco_files,
        order=10,
        pick=lambda path, split: partial(scan_coco, _annotation_file(path, split)),
    )
}
