"""COCO's annotation files: found by convention, read strictly, see :mod:`crossstage.data.coco_scan`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from crossstage.data.coco_scan import SECTIONS, CocoScan
from crossstage.data.faults import Reading, fault_in
from crossstage.data.formats.base import DataFormat, Names, Reader, split_folders, split_of
from crossstage.data.json_entries import begins_with, mentions
from crossstage.data.records import DetectionData, ImageRef
from crossstage.data.written import BoxScores, Stated, images_of, text_of
from crossstage.errors import DataError
from crossstage.reading.finding import find_files

KEYPOINTS = "person_keypoints_"
OTHER_TASKS = ("captions_", "image_info_", "panoptic_", KEYPOINTS, "stuff_")  # beside COCO's instances_*.json
LOOKED_INTO = 100  # files of a folder; data in COCO's format has few, other tools write one for each image


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
    return CocoScan(path).reading().usable()


def scan_coco(path: Path) -> Reading[DetectionData]:
    """Read an annotation file as :func:`read_coco` does, but go on: what is sound, and every fault with its line."""
    try:
        return CocoScan(path).reading()
    except DataError as error:
        return Reading(None, (fault_in(path, error),))


def coco_files(folder: Path) -> list[Path]:
    """Return the files with boxes in a folder of COCO's layout, or of Roboflow's, with a file in each part's folder."""
    named = find_files(folder, (".json",), deep=False).files
    places = [place for place in _folders(folder) if place.name.lower() == "annotations"]
    placed = [file for place in places for file in find_files(place, (".json",), deep=False).files]
    found = [file for file in placed[:LOOKED_INTO] if not _of_another_tool(file)]
    found = found or [file for file in named[:LOOKED_INTO] if _is_coco(file)]
    for part in () if found else split_folders(folder).values():
        inner = find_files(part, (".json",), deep=False).files
        found += [file for file in inner[:LOOKED_INTO] if _is_coco(file)]
    return [file for file in found if not file.name.startswith(OTHER_TASKS)] or [
        file for file in found if file.name.startswith(KEYPOINTS)
    ]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _is_coco(file: Path) -> bool:
    found = sum(mentions(file, section) for section in SECTIONS)  # a broken file may lack one
    return found > 1 and begins_with(file, "{") and not mentions(file, "segments_info")


def _of_another_tool(file: Path) -> bool:
    return begins_with(file, "[") or mentions(file, "shapes", "imagePath")


def _part_of(file: Path) -> str | None:
    """Return the part that a file's name tells, or that of the folder in which it lies with its images."""
    return split_of(file.name) or (None if file.parent.name.lower() == "annotations" else split_of(file.parent.name))


def _parts(path: Path, _: Names) -> dict[str, Reader]:
    if path.is_file():
        beside = {split_of(file.name): file for file in coco_files(path.parent) if split_of(file.name)}
        own = split_of(path.name)
        files = {**beside, own: path} if own == "train" else {own or "train": path}
    else:
        found = coco_files(path)
        parts = [_part_of(file) or "train" for file in found]
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
        fitting = [file for file in found if _part_of(file) == (split or "val")]
    if len(fitting) != 1:
        names = ", ".join(file.name for file in found) or "none"
        wanted = (
            f"one whose name contains {split!r}, not {len(fitting)}" if split else "a single one, or split= to pick"
        )
        raise DataError(f"{data}: annotation files: {names}; expected {wanted}")
    return fitting[0]


def _fits(folder: Path) -> str:
    """Return by what a folder is recognised; nothing if it is not."""
    files = coco_files(folder)
    return ", ".join(str(file.relative_to(folder)) for file in files[:3]) + ("" if len(files) < 4 else ", ...")


def _write(parts: Mapping[str, DetectionData], folder: Path, scores: BoxScores) -> None:
    """Write an annotation file for each part."""
    (folder / "annotations").mkdir()
    for split, data in parts.items():
        images, annotations = [], []
        for image, objects in images_of(data, scores.get(split), crowds=True):
            size = {"width": image.width, "height": image.height}
            images.append({"id": image.id, "file_name": image.path.name, **size})
            for one in objects:
                annotations.append(_annotation(one, image, data.category_ids[one.class_id], len(annotations) + 1))
        categories = [{"id": number, "name": name} for number, name in data.categories.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(text_of(content), "utf-8")


def _annotation(one: Stated, image: ImageRef, category: int, number: int) -> dict[str, Any]:
    mask: Any = one.mask or []
    if isinstance(mask, str):
        mask = {"size": [image.height, image.width], "counts": mask}
    else:
        mask = [polygon.tolist() for polygon in mask]
    stated = {
        "id": number,
        "image_id": image.id,
        "category_id": category,
        "bbox": one.xywh,
        "area": one.area,
        "iscrowd": int(one.crowd),
        "segmentation": mask,
    }
    return stated if one.score is None else {**stated, "score": one.score}


FORMATS = {
    "coco": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="annotations/*.json (COCO)",
        suffixes=(".json",),
        fits_folder=_fits,
        write=_write,
        holds=frozenset({"masks", "crowds"}),
        pick=lambda path, split: partial(scan_coco, _annotation_file(path, split)),
    )
}
