"""Datasets written to disk, in each format that says how it is written; and what a format cannot hold, told before."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from crossstage.data.formats import FORMATS, format_names
from crossstage.data.formats.base import DataFormat
from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.data.written import BoxScores
from crossstage.errors import ConfigError, DataError, one_of
from crossstage.files import whole_folder

ODD = re.compile(r"[\s%?#:*<>|\"\\]")  # in names of images: lists go by spaces, addresses by the others


def writable() -> list[str]:
    """Return the names of the formats that can be written."""
    return [name for name in format_names() if FORMATS[name].write]


def losses(parts: Mapping[str, Dataset], format: str) -> list[str]:
    """Return what a format cannot hold of a dataset, with counts."""
    holds = FORMATS[format].holds
    crowds, masks, pieces = 0, 0, 0
    for data in parts.values():
        if not isinstance(data, DetectionData):
            continue
        kept = data.boxes.crowd if "crowds" not in holds else data.boxes.crowd & False
        crowds += int(kept.sum())
        if data.boxes.masks is not None:
            wanted = data.boxes.masks[~kept]
            masks += int(wanted.present.sum())
            pieces += sum(isinstance(mask, str) or (mask is not None and len(mask) != 1) for mask in wanted)
    told = []
    if crowds:
        told.append(f"{crowds} difficult objects or crowds: left out")
    if masks and not holds & {"masks", "polygons"}:
        told.append(f"{masks} masks: left out, their boxes stay")
    elif pieces and "masks" not in holds:
        told.append(f"{pieces} masks of several pieces or of pixels: left out, their boxes stay")
    return told


def write_dataset(
    parts: Mapping[str, Dataset],
    folder: Path,
    format: str,
    *,
    link: bool = False,
    scores: BoxScores | None = None,
    progress: bool = False,
) -> None:
    """Write a dataset with its images; the folder appears when all is written.

    Args:
        parts: The parts by "train", "val" and "test".
        folder: The folder, which is new or empty.
        format: The name of the format.
        link: Whether images are hard links, which take no space but share later changes, where the file system can.
        scores: The score of each box, for formats that hold them.
        progress: Whether a progress bar is shown on stderr.

    Raises:
        ConfigError: The format cannot be written, or holds another kind of labels.
        DataError: The folder holds something, an image is not there, or nothing can be written.
    """
    check_target(folder, format)
    record = _record(format, parts)
    with whole_folder(folder) as place:
        assert record.write
        placed = _placed(parts, place, record, link=link, progress=progress)
        record.write(placed, place, scores or {})


def check_target(folder: Path, format: str) -> None:
    """Refuse a format that is not written, and a folder in which something is.

    Raises:
        ConfigError: The format cannot be written.
        DataError: The folder holds something, or is a file.
    """
    if format not in writable():
        raise ConfigError(f"format {format!r} cannot be written; {one_of(format, writable())}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: is there already; expected a new or empty folder")


def _record(format: str, parts: Mapping[str, Dataset]) -> DataFormat:
    record = FORMATS[format]
    boxes = all(isinstance(data, DetectionData) for data in parts.values())
    if boxes != (record.task == "detect"):
        kinds = ("boxes", "one label an image") if boxes else ("one label an image", "boxes")
        raise ConfigError(f"the dataset has {kinds[0]}; format {format} is for {kinds[1]}")
    return record


def _placed(
    parts: Mapping[str, Dataset], folder: Path, record: DataFormat, *, link: bool, progress: bool
) -> dict[str, Dataset]:
    """Put the images into a folder, and return the parts with these images."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    taken: set[str] = set()
    placed: dict[str, Dataset] = {}
    with Progress(console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        task = bar.add_task("images", total=sum(map(len, parts.values())))
        for split, data in parts.items():
            images: list[Path] = []
            sources = [i.path for i in data.images] if isinstance(data, DetectionData) else data.images
            for at, source in enumerate(sources):
                name = "" if isinstance(data, DetectionData) else data.class_names[data.labels[at]].replace("/", "_")
                place = folder / record.image_folder.format(split=split, name=name)
                place.mkdir(parents=True, exist_ok=True)
                images.append(_put(source, place, taken, link=link))
                bar.advance(task)
            placed[split] = _with_images(data, images)
    return placed


def _with_images(data: Dataset, images: Sequence[Path]) -> Dataset:
    if isinstance(data, ClassificationData):
        return replace(data, names=[str(path) for path in images], images=images)
    refs = [replace(image, path=path) for image, path in zip(data.images, images, strict=True)]
    return replace(data, images=tuple(refs))


def _put(source: Path | bytes, folder: Path, taken: set[str], *, link: bool) -> Path:
    """Link, copy or write an image, under a name whose stem no other image of the dataset has."""
    if isinstance(source, bytes):
        with Image.open(BytesIO(source)) as image:
            named = Path(f"{len(taken):06d}.{(image.format or 'png').lower()}")
    else:
        named = source
    stem = ODD.sub("_", named.stem)
    name, count = stem, 1
    while name.casefold() in taken:
        count += 1
        name = f"{stem}-{count}"
    taken.add(name.casefold())
    target = folder / f"{name}{named.suffix}"
    if isinstance(source, bytes):
        target.write_bytes(source)
        return target
    try:
        if link and _linked(source, target):
            return target
        shutil.copyfile(source, target)
    except FileNotFoundError:
        raise DataError(f"{source}: no such file; expected the image") from None
    return target


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or a file system without links
        return False
    return True
