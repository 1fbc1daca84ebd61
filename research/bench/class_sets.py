"""The labelled image sets that classifiers are compared on, as folders of classes, whole or a few images of each class.

``groceries25`` are the crops of its boxes, ``cifar10`` the images as they are; ``groceries25@10.3`` holds draw 3 of 10
training images of each class. Val parts are always the same at most 1,000 images (of CIFAR-10's, its test images).
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from PIL import Image

SMALLEST = 8  # pixels of a crop's side; smaller ones show nothing
QUALITY = 95
VAL = 1000

Labelled = tuple[Image.Image, str]


def prepared(name: str, archives: Path, work: Path) -> Path:
    """Return the folder of a set, with ``train`` and ``val``, which is made if it is not there.

    Args:
        name: The set's name, or ``<name>@<images of a class>.<draw>``.
        archives: The folder of small real sets.
        work: Where sets are made.
    """
    base, _, draw = name.partition("@")
    whole = work / base
    if not (whole / "done").exists():
        _write(SETS[base](archives, "train"), whole / "train")
        val = list(SETS[base](archives, "val"))
        _write(random.Random(0).sample(val, min(VAL, len(val))), whole / "val")
        (whole / "done").touch()
    if not draw:
        return whole
    count, _, number = draw.partition(".")
    part = work / name
    for folder in sorted(path for path in (whole / "train").iterdir() if path.is_dir()):
        images = sorted(folder.iterdir())
        generator = random.Random(f"{folder.name} {number}")
        for image in generator.sample(images, min(int(count), len(images))):
            _link(image, part / "train" / folder.name / image.name)
    _link(whole / "val", part / "val")
    return part


def _groceries(archives: Path, part: str) -> Iterator[Labelled]:
    """Yield the crops of the boxes."""
    with tarfile.open(archives / "groceries25" / "groceries25.tar.gz") as archive:
        files = {member.name.removeprefix("./"): member for member in archive.getmembers() if member.isfile()}

        def read(name: str) -> bytes:
            file = archive.extractfile(files[name])
            assert file is not None
            return file.read()

        content = json.loads(read(f"annotations/instances_{part}.json"))
        names = {entry["id"]: entry["name"] for entry in content["categories"]}
        paths = {entry["id"]: entry["file_name"] for entry in content["images"]}
        boxes: dict[int, list[dict]] = {}
        for entry in content["annotations"]:
            boxes.setdefault(entry["image_id"], []).append(entry)
        for number, path in paths.items():
            image = Image.open(io.BytesIO(read(f"images/{part}/{Path(path).name}"))).convert("RGB")
            for entry in boxes.get(number, []):
                left, top, width, height = entry["bbox"]
                if min(width, height) >= SMALLEST:
                    corners = round(left), round(top), round(left + width), round(top + height)
                    yield image.crop(corners), names[entry["category_id"]]


def _cifar(archives: Path, part: str) -> Iterator[Labelled]:
    from pyarrow.parquet import read_table

    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    table = read_table(archives / "cifar10" / ("train.parquet" if part == "train" else "test.parquet"))
    for image, label in zip(table["image"], table["label"], strict=True):
        yield Image.open(io.BytesIO(image["bytes"].as_py())).convert("RGB"), names[label.as_py()]


SETS: dict[str, Callable[[Path, str], Iterator[Labelled]]] = {"groceries25": _groceries, "cifar10": _cifar}


def _write(images: Iterable[Labelled], folder: Path) -> None:
    for number, (image, name) in enumerate(images):
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / name / f"{number:05d}.jpg", quality=QUALITY)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        target.symlink_to(source.resolve())
