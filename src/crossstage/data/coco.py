"""COCO-format detection data: found by convention, read strictly, faults told together."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossstage.errors import DataError

MAX_BYTES = 2 << 30
SHOWN_FAULTS = 10
BORDER = 1.0  # pixels that a box may hang over: COCO's own boxes are rounded


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
    ``X/images/val2017``, ``X/val2017``, ``X/images``, ``X`` and beside the file.

    Raises:
        DataError: The file cannot be read or parsed, or something in it is wrong: the message lists the first faults,
            each with what was found and what was expected.
    """
    content = _parse(path)
    faults: list[str] = []
    categories = _categories(content, faults)
    images = _images(content, path, faults)
    _check_annotations(content, images, categories, faults)
    if faults:
        shown = "\n".join(f"  {fault}" for fault in faults[:SHOWN_FAULTS])
        more = f"\n  ... and {len(faults) - SHOWN_FAULTS} more" if len(faults) > SHOWN_FAULTS else ""
        raise DataError(f"{path}: {len(faults)} faults\n{shown}{more}")
    return CocoDataset(path, tuple(images.values()), dict(sorted(categories.items())), content)


def _annotation_file(data: Path, split: str | None) -> Path:
    if not data.exists():
        raise DataError(f"{data}: no such file or folder")
    if data.is_file():
        return data
    found = sorted(data.glob("annotations/*.json")) or sorted(data.glob("*.json"))
    fitting = [file for file in found if (split or "val") in file.stem] or ([] if split else found)
    if len(fitting) != 1:
        names = ", ".join(file.name for file in found) or "none"
        wanted = f"one whose name contains {split!r}" if split else "a single one, or split= to pick"
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
        if not _whole(entry.get("id")) or not isinstance(entry.get("name"), str):
            faults.append(
                f"categories[{number}]: id {entry.get('id')!r}, name {entry.get('name')!r}; "
                "expected a whole number and a text"
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
        if not _whole(entry.get("id")) or not isinstance(entry.get("file_name"), str):
            faults.append(
                f"images[{number}]: id {entry.get('id')!r}, file_name {entry.get('file_name')!r}; "
                "expected a whole number and a text"
            )
            continue
        if not all(_whole(size) and size > 0 for size in sizes):
            faults.append(
                f"image {entry['id']}: width {sizes[0]!r}, height {sizes[1]!r}; expected positive whole numbers"
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
        if not image.path.is_file():
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
        root / "images",
        root,
        path.parent,
        path.parent.parent / "images",
    ]
    for folder in candidates:
        if (folder / file_name).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise DataError(f"{path}: picture {file_name} is in none of {tried}")


def _check_annotations(
    content: Mapping[str, Any], images: Mapping[int, CocoImage], categories: Mapping[int, str], faults: list[str]
) -> None:
    for number, entry in enumerate(content["annotations"]):
        name = f"annotation {entry['id']}" if _whole(entry.get("id")) else f"annotations[{number}]"
        if not _whole(entry.get("id")):
            faults.append(f"{name}: id {entry.get('id')!r}; expected a whole number")
        if not _whole(entry.get("category_id")) or entry["category_id"] not in categories:
            faults.append(f"{name}: category_id {entry.get('category_id')!r}; expected one of the categories' ids")
        if not _whole(entry.get("image_id")) or entry["image_id"] not in images:
            faults.append(f"{name}: image_id {entry.get('image_id')!r}; expected one of the images' ids")
        elif fault := _box_fault(entry.get("bbox"), images[entry["image_id"]]):
            faults.append(f"{name}: {fault}")
    ids = Counter(entry["id"] for entry in content["annotations"] if _whole(entry.get("id")))
    faults.extend(f"annotation {id_}: the id stands {count} times" for id_, count in ids.items() if count > 1)


def _box_fault(box: Any, image: CocoImage) -> str | None:
    if not isinstance(box, list) or len(box) != 4 or not all(_number(side) for side in box):
        return f"bbox {box!r}; expected four finite numbers, x, y, width and height"
    x, y, width, height = box
    if width <= 0 or height <= 0:
        return f"bbox {box}; expected a positive width and height"
    if x < -BORDER or y < -BORDER or x + width > image.width + BORDER or y + height > image.height + BORDER:
        return f"bbox {box} reaches out of the image; expected x, y from 0 to {image.width}, {image.height}"
    return None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
