"""The image sets that trainings are compared on, in the layout that every trainer reads: YOLO's.

Each set is unpacked from the folder of small real sets (``bccd``, ``groceries25``, ``coco256``) into ``images/train``,
``images/val``, the labels beside them and a ``data.yaml``. A name may ask for a draw of few training images:
``bccd@20.3`` holds draw 3 of 20 of them, and all val images.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import yaml

from crossstage.files import write_text


@dataclass(frozen=True)
class ImageSet:
    """Where a set lies in its archive.

    Attributes:
        archive: The archive, below the folder of sets.
        images: Folders of images, by part.
        annotations: COCO files, by part.
        only: The one class that is kept; empty for all.
    """

    archive: str
    images: dict[str, str]
    annotations: dict[str, str]
    only: str = ""


SETS = {
    "bccd": ImageSet(
        "bccd/bccd.tar.gz",
        dict.fromkeys(("train", "val", "test"), "BCCD/JPEGImages"),
        {part: f"BCCD/coco/instances_{part}.json" for part in ("train", "val", "test")},
    ),
    "groceries25": ImageSet(
        "groceries25/groceries25.tar.gz",
        {part: f"images/{part}" for part in ("train", "val")},
        {part: f"annotations/instances_{part}.json" for part in ("train", "val")},
    ),
    "people": ImageSet(
        "coco256/coco256.tar",
        {part: f"images/{part}2017" for part in ("train", "val")},
        {part: f"annotations/instances_{part}2017.json" for part in ("train", "val")},
        only="person",
    ),
}


def prepared(name: str, archives: Path, work: Path) -> Path:
    """Return the ``data.yaml`` of a set, which is unpacked and converted if it is not there.

    Args:
        name: The set's name, or ``<name>@<images>.<draw>``.
        archives: The folder of sets.
        work: Where sets are unpacked and converted to.
    """
    base, _, draw = name.partition("@")
    listing = work / base / "data.yaml"
    if not listing.exists():
        _convert(SETS[base], archives, work / base)
    if not draw:
        return listing
    count, _, number = draw.partition(".")
    images = sorted((work / base / "images" / "train").iterdir())
    chosen = sorted(random.Random(int(number)).sample(images, int(count)))
    part = work / name
    for image in chosen:
        for folder, suffix in (("images", image.suffix), ("labels", ".txt")):
            target = work / base / folder / "train" / f"{image.stem}{suffix}"
            _link(target, part / folder / "train" / target.name)
    for folder in ("images", "labels"):
        _link(work / base / folder / "val", part / folder / "val")
    content = yaml.safe_load(listing.read_text()) | {"path": str(part.resolve())}
    write_text(part / "data.yaml", yaml.safe_dump(content, sort_keys=False))
    return part / "data.yaml"


def _convert(chosen: ImageSet, archives: Path, folder: Path) -> None:
    """Unpack a set and write its labels."""
    unpacked = folder / "source"
    with tarfile.open(archives / chosen.archive) as archive:
        archive.extractall(unpacked, filter="data")
    names: list[str] = []
    for part, listed in chosen.annotations.items():
        content = json.loads((unpacked / listed).read_text())
        kept = [entry for entry in content["categories"] if chosen.only in ("", entry["name"])]
        names = [entry["name"] for entry in sorted(kept, key=lambda entry: entry["id"])]
        ids = {entry["id"]: names.index(entry["name"]) for entry in kept}
        lines: dict[int, list[str]] = defaultdict(list)
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for entry in content["annotations"]:
            if entry["category_id"] in ids and not entry.get("iscrowd"):
                lines[entry["image_id"]].append(
                    _line(ids[entry["category_id"]], entry["bbox"], sizes[entry["image_id"]])
                )
        for image in content["images"]:
            if chosen.only and part == "train" and image["id"] not in lines:
                continue
            source = unpacked / chosen.images[part] / image["file_name"]
            _link(source, folder / "images" / part / source.name)
            label = folder / "labels" / part / f"{source.stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(f"{line}\n" for line in lines[image["id"]]))
    listing = {
        "path": str(folder.resolve()),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(names)),
    }
    write_text(folder / "data.yaml", yaml.safe_dump(listing, sort_keys=False))


def _line(number: int, box: list[float], size: tuple[int, int]) -> str:
    """Return a box as a line of YOLO's labels."""
    x, y, width, height = box
    values = ((x + width / 2) / size[0], (y + height / 2) / size[1], width / size[0], height / size[1])
    return " ".join([str(number), *(f"{value:.8f}" for value in values)])


def _link(target: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(target.resolve())
