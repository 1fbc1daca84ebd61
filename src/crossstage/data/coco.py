"""COCO-format detection data: found by convention, read strictly, faults told together."""

from __future__ import annotations

import json
import reprlib
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossstage.errors import DataError

MAX_BYTES = 2 << 30
SHOWN_FAULTS = 10
BORDER = 1.0  # pixels that a box may hang over: COCO's own boxes are rounded
LONGEST_TEXT = 1000
OTHER_TASKS = ("captions_", "image_info_", "panoptic_", "person_keypoints_", "stuff_")  # beside COCO's instances_*.json

_shorten = reprlib.Repr()  # a broken value can be megabytes long or deeply nested
_shorten.maxlist, _shorten.maxstring, _shorten.maxother = 6, 80, 80


@dataclass(frozen=True)
class CocoImage:
    """One image of a dataset; sizes in pixels."""

    id: int
    path: Path
    width: int
    height: int


@dataclass(frozen=True)
class CocoDataset:
    """A checked annotation file.

    Attributes:
        path: The ``.json`` file.
        images: In the file's order.
        categories: Names by id, in order of the ids.
        content: The file as it was parsed, for COCO's own tools.
    """

    path: Path
    images: tuple[CocoImage, ...]
    categories: Mapping[int, str]
    content: Mapping[str, Any]


def find_coco(data: Path, *, split: str | None = None) -> CocoDataset:
    """Find and read a dataset.

    Args:
        data: An annotation ``.json``, or a folder with ``annotations/*.json``.
        split: Part of the annotation file's name that picks one of several; the default prefers "val".

    Raises:
        DataError: Nothing or more than one file fits, or the file is faulty, see :func:`read_coco`.
    """
    return read_coco(_annotation_file(data, split))


def read_coco(path: Path) -> CocoDataset:
    """Read and check an annotation file.

    Pictures are looked for where COCO's layout has them: for ``X/annotations/instances_val2017.json`` in
    ``X/images/val2017``, ``X/val2017``, ``X/images/val``, ``X/images``, ``X``, beside the file, and in
    ``X/JPEGImages``, where PASCAL VOC's layout has them.

    Raises:
        DataError: The file cannot be read or parsed, or something in it is wrong: the message lists the first faults,
            each with what was found and what was expected.
    """
    content = _parse(path)
    faults: list[str] = []
    categories = _categories(content, faults)
    images = _images(content, path, faults)
    _check_annotations(content, images, faults)
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:SHOWN_FAULTS])
        more = f"\n  ... and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise DataError(f"{path}: {len(faults)} fault{'s' * (len(faults) > 1)}\n{shown}{more}")
    return CocoDataset(path, tuple(images.values()), dict(sorted(categories.items())), content)


def _annotation_file(data: Path, split: str | None) -> Path:
    if not data.exists():
        raise DataError(f"{data}: no such file or folder")
    if data.is_file():
        return data
    found = sorted(data.glob("annotations/*.json")) or sorted(data.glob("*.json"))
    found = [file for file in found if not file.name.startswith(OTHER_TASKS)]
    fitting = [file for file in found if (split or "val") in file.stem] or ([] if split else found)
    if len(fitting) != 1:
        names = ", ".join(file.name for file in found) or "none"
        wanted = (
            f"one whose name contains {split!r}, not {len(fitting)}" if split else "a single one, or split= to pick"
        )
        raise DataError(f"{data}: annotation files: {names}; expected {wanted}")
    return fitting[0]


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
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
    return content


def _categories(content: Mapping[str, Any], faults: list[str]) -> dict[int, str]:
    categories: dict[int, str] = {}
    for number, entry in enumerate(content["categories"]):
        if not _whole(entry.get("id")) or not _text(entry.get("name")):
            faults.append(
                f"categories[{number}]: id {_shown(entry.get('id'))}, name {_shown(entry.get('name'))}; "
                f"expected a whole number and a text of up to {LONGEST_TEXT} characters"
            )
        elif entry["id"] in categories:
            faults.append(f"categories[{number}]: id {entry['id']} stands twice")
        else:
            categories[entry["id"]] = entry["name"]
    if not content["categories"]:
        faults.append("categories: empty; expected at least one")
    return categories


def _images(content: Mapping[str, Any], path: Path, faults: list[str]) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    folder: Path | None = None
    for number, entry in enumerate(content["images"]):
        sizes = entry.get("width"), entry.get("height")
        if not _whole(entry.get("id")) or not _text(entry.get("file_name")):
            faults.append(
                f"images[{number}]: id {_shown(entry.get('id'))}, file_name {_shown(entry.get('file_name'))}; "
                f"expected a whole number and a text of up to {LONGEST_TEXT} characters"
            )
            continue
        if not all(_whole(size) and size > 0 for size in sizes):
            faults.append(
                f"image {entry['id']}: width {_shown(sizes[0])}, height {_shown(sizes[1])}; "
                "expected positive whole numbers"
            )
            continue
        if entry["id"] in images:
            faults.append(
                f"image {entry['id']}: the id stands twice, for {images[entry['id']].path.name} and "
                f"{entry['file_name']}"
            )
            continue
        folder = folder or _picture_folder(path, entry["file_name"])
        image = CocoImage(entry["id"], folder / entry["file_name"], sizes[0], sizes[1])
        images[image.id] = image
        if not _is_file(image.path):
            faults.append(f"image {image.id}: {image.path} does not exist")
    if not content["images"]:
        faults.append("images: empty; expected at least one")
    return images


def _picture_folder(path: Path, file_name: str) -> Path:
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
    raise DataError(f"{path}: picture {file_name} is in none of {tried}")


def _check_annotations(content: Mapping[str, Any], images: Mapping[int, CocoImage], faults: list[str]) -> None:
    # A faulty image or category was told already; its annotations are no faults of their own.
    listed_images, listed_categories = _ids(content["images"]), _ids(content["categories"])
    for number, entry in enumerate(content["annotations"]):
        id_, category, image = entry.get("id"), entry.get("category_id"), entry.get("image_id")
        area, crowd = entry.get("area", 0), entry.get("iscrowd", 0)
        name = f"annotation {id_}" if _whole(id_) else f"annotations[{number}]"
        if not _whole(id_):
            faults.append(f"{name}: id {_shown(id_)}; expected a whole number")
        if not _whole(category) or category not in listed_categories:
            faults.append(f"{name}: category_id {_shown(category)}; expected one of the categories' ids")
        if not _whole(image) or image not in listed_images:
            faults.append(f"{name}: image_id {_shown(image)}; expected one of the images' ids")
        elif image in images and (fault := _box_fault(entry.get("bbox"), images[image])):
            faults.append(f"{name}: {fault}")
        elif not _number(area) or area < 0:
            faults.append(f"{name}: area {_shown(area)}; expected a number, not below 0, or none at all")
        if crowd not in (0, 1):
            faults.append(f"{name}: iscrowd {_shown(crowd)}; expected 0 or 1, or none at all")
    ids = Counter(entry["id"] for entry in content["annotations"] if _whole(entry.get("id")))
    faults.extend(f"annotation {id_}: the id stands {count} times" for id_, count in ids.items() if count > 1)


def _box_fault(box: Any, image: CocoImage) -> str | None:
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
    """Whole and of 64 bits, as COCO's tools need ids to be."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _number(value: Any) -> bool:
    """Finite; unlike :func:`math.isfinite`, this takes a whole number of any length."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
