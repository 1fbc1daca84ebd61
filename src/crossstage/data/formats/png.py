"""Instance masks as PNG: an image of numbers beside each image, of which each number is an object.

``X/images/a/b.jpg`` has its numbers in ``X/masks/a/b.png`` (or ``b_mask.png``): 8 or 16 bits of grey, or a palette, as
large as the image. 0 is where no object is. What the other numbers mean is told by ``X/classes.txt``:

- one class name, or no such file: each number is an object of that class (Penn-Fudan: ``PNGImages``, ``PedMasks``);
- several names, one in each line: a number is ``1000 * class + object``, classes counted from 1 as their lines are.
  A number below 1000 is a class alone: a group of objects that are not told apart, which is neither wanted nor wrong;
- lines with a number and a name: the same with classes of these numbers, those of other classes being no objects.
  Cityscapes (``leftImg8bit``, ``gtFine/**/*_instanceIds.png``) has its eight classes without such a file.

Parts are folders in ``images`` and ``masks``, such as ``images/train``, or folders with both, such as ``train/images``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossstage.data.faults import Fault, Reading, fault_in
from crossstage.data.formats.base import DataFormat, ListedPart, Names, Reader, split_of
from crossstage.data.records import Box, DetectionBuilder, DetectionData
from crossstage.errors import DataError
from crossstage.inference.decoders import BUDGET, IMAGE_SUFFIXES
from crossstage.inference.images import image_size, load_numbers
from crossstage.ops import rle
from crossstage.reading.finding import beside, find_files
from crossstage.reading.numbers import whole
from crossstage.reading.text import read_lines, visible

CLASSES = "classes.txt"
MASKS = (".png",)
PER_CLASS = 1000
RUN_BYTES = 64  # that a run takes while its mask is taken apart
MOST_RUNS = 10_000_000  # a photo is no mask, and would take minutes
FOLDERS = (("images", "masks"), ("PNGImages", "PedMasks"), ("leftImg8bit", "gtFine"))
ENDINGS = (("", ""), ("", "_mask"), ("_leftImg8bit", "_gtFine_instanceIds"))  # of an image's name, and of its mask's
CITYSCAPES = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"
}  # fmt: skip


@dataclass(frozen=True)
class Classes:
    """What numbers mean.

    Attributes:
        names: Names by class id.
        numbers: Class ids by the source's number of a class; None where there is one class, of all objects.
    """

    names: tuple[str, ...]
    numbers: Mapping[int, int] | None


@dataclass(frozen=True)
class _Seen:
    """What stands in one mask: its objects, numbers below 1000 and those of unknown classes; or what is wrong."""

    image: Path
    size: tuple[int, int] = (0, 0)
    boxes: tuple[Box, ...] = ()
    groups: int = 0
    unknown: frozenset[int] = frozenset()
    fault: Fault | None = None


def read_masks(images: Path, masks: Path, classes: Classes) -> Reading[DetectionData]:
    """Read a part.

    Args:
        images: A folder of images, which may lie in folders of it.
        masks: The folder with a mask for each, in folders of the same names.
        classes: What the masks' numbers mean.
    """
    found, faults = DetectionBuilder(), []
    groups, unknown = 0, set[int]()
    files = find_files(images, IMAGE_SUFFIXES).files
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for seen in threads.map(lambda image: _look(image, images, masks, classes), files):
            if seen.fault:
                faults.append(seen.fault)
                continue
            found.add(seen.image, seen.size, seen.boxes)
            groups += seen.groups
            unknown |= seen.unknown
    if groups:
        text = f"{groups} numbers below {PER_CLASS}: groups of objects, which are neither wanted nor wrong"
        faults.append(Fault(masks, None, text, broken=False))
    if unknown:
        shown = ", ".join(map(str, sorted(unknown)[:8]))
        text = f"objects of classes that {CLASSES} does not list ({shown}) are left out"
        faults.append(Fault(masks, None, text, broken=False))
    if not files:
        faults.append(Fault(images, None, "no images"))
    broken = sum(fault.broken for fault in faults)
    return Reading(found.build(images, classes.names), tuple(faults), broken)


def _look(image: Path, images: Path, masks: Path, classes: Classes) -> _Seen:
    mask = _mask_of(image, masks / image.parent.relative_to(images))
    if mask is None:
        return _Seen(image, fault=Fault(image, None, f"no mask {image.stem}.png in {masks}; expected one"))
    try:
        size = image_size(image)
        numbers = load_numbers(mask)
    except DataError as error:
        return _Seen(image, fault=fault_in(mask, error))
    changes = np.count_nonzero(numbers[1:] != numbers[:-1])
    if changes > MOST_RUNS:
        text = f"numbers change {changes} times down the columns; expected up to {MOST_RUNS}, as objects make them"
        return _Seen(image, fault=Fault(mask, None, text))
    if numbers.shape != size:
        text = f"{numbers.shape[1]} x {numbers.shape[0]} pixels; expected {size[1]} x {size[0]}, as {image.name} has"
        return _Seen(image, fault=Fault(mask, None, text))
    with BUDGET.taken(5 * numbers.size + RUN_BYTES * int(changes), str(mask)):
        return _objects(image, numbers, size, classes)


def _objects(image: Path, numbers: NDArray[Any], size: tuple[int, int], classes: Classes) -> _Seen:
    """Return the objects of a mask that is as large as its image."""
    boxes, groups, unknown = [], 0, set[int]()
    for number, packed in _instances(numbers):
        class_id, crowd = 0, False
        if classes.numbers is not None:
            crowd = number < PER_CLASS
            named = number if crowd else number // PER_CLASS
            if named not in classes.numbers:
                unknown |= set() if crowd else {named}
                continue
            class_id = classes.numbers[named]
            groups += crowd
        left, top, width, height = rle.box(packed, size).tolist()
        boxes.append(Box(class_id, (left, top, left + width, top + height), crowd, packed))
    return _Seen(image, size, tuple(boxes), groups, frozenset(unknown))


def _instances(numbers: NDArray[Any]) -> Iterator[tuple[int, str]]:
    """Yield each number but 0, in order, and its packed mask; all are found in one pass over the image."""
    flat = numbers.ravel(order="F")
    first = np.concatenate([np.zeros(1, np.int64), np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    last = np.append(first[1:], flat.size)
    of_runs = flat[first]
    order = np.argsort(of_runs, kind="stable")
    values, begins = np.unique(of_runs[order], return_index=True)
    for value, (begin, end) in zip(values.tolist(), pairwise([*begins.tolist(), len(order)]), strict=True):
        if value:
            mine = order[begin:end]
            borders = np.stack([first[mine], last[mine]], axis=1).ravel()
            runs = np.diff(borders, prepend=0, append=flat.size)
            yield value, rle.pack_runs(runs.tolist(), (numbers.shape[0], numbers.shape[1]))


def _mask_of(image: Path, folder: Path) -> Path | None:
    stems = (f"{image.stem.removesuffix(own)}{its}" for own, its in ENDINGS if image.stem.endswith(own))
    return next((found for stem in stems if (found := beside(folder / stem, MASKS))), None)


def _folders(root: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks in a folder; None where it has not both."""
    pairs = ((root / images, root / masks) for images, masks in FOLDERS)
    return next((pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()), None)


def _pairs(root: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and of masks of each part."""
    if both := _folders(root):
        images, masks = both
        inner = {split_of(folder.name): folder.name for folder in sorted(images.iterdir()) if folder.is_dir()}
        named = {split: name for split, name in inner.items() if split and (masks / name).is_dir()}
        found = {split: (images / name, masks / name) for split, name in named.items()} or {"train": both}
    else:
        folders = ((split_of(folder.name), _folders(folder)) for folder in sorted(root.iterdir()) if folder.is_dir())
        found = {split: both for split, both in folders if split and both}
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _classes(root: Path, masks: Path, names: Names) -> Classes:
    """Return what numbers mean in a dataset.

    Args:
        root: The dataset's folder, where a list of classes may lie.
        masks: The folder of masks, whose name may tell the class or the dataset.
        names: Names by class id, if a YAML file gives them.

    Raises:
        DataError: The list of classes makes no sense.
    """
    if (file := root / CLASSES).is_file() and not names:
        return _listed_classes(file)
    if not names and "gtFine" in masks.parts:
        return Classes(tuple(CITYSCAPES.values()), {number: index for index, number in enumerate(CITYSCAPES)})
    if not names:
        kind = next((part.removesuffix("Masks") for part in masks.parts if part.endswith("Masks")), "") or "object"
        return Classes((kind.lower(),), None)
    return _numbered(tuple(names))


def _listed_classes(file: Path) -> Classes:
    lines = [line.strip() for line in read_lines(file, expected="a class in each line")]
    words = [line.split(maxsplit=1) for line in lines if line]
    if not words:
        raise DataError(f"{visible(file)}: no class; expected a name in each line, perhaps after its number")
    if not all(len(pair) == 2 and pair[0].isdecimal() for pair in words):
        return _numbered(tuple(line for line in lines if line))
    try:
        numbers = [whole(number) for number, _ in words]
    except ValueError as error:
        raise DataError(f"{visible(file)}: {error}, the number of a class") from None
    if len(set(numbers)) < len(numbers) or min(numbers) < 1:
        raise DataError(f"{visible(file)}: classes of the numbers {numbers[:8]}; expected each once, from 1 on")
    return Classes(tuple(name for _, name in words), {number: index for index, number in enumerate(numbers)})


def _numbered(names: tuple[str, ...]) -> Classes:
    return Classes(names, {number: number - 1 for number in range(1, len(names) + 1)} if len(names) > 1 else None)


def _parts(path: Path, names: Names) -> dict[str, Reader]:
    pairs = _pairs(path) if path.is_dir() else {}
    return {split: _reader(path, pair, names) for split, pair in pairs.items()}


def _reader(root: Path, pair: tuple[Path, Path], names: Names) -> Reader:
    return partial(read_masks, *pair, _classes(root, pair[1], names))


def _listed(part: Path) -> tuple[Path, tuple[Path, Path]] | None:
    """Return the dataset's folder, and the folders of images and masks, of a part that a YAML file names."""
    if pair := (_folders(part) if part.is_dir() else None):
        return part, pair
    for images, masks in FOLDERS:
        if images in part.parts:
            at = len(part.parts) - 1 - part.parts[::-1].index(images)
            root, inner = Path(*part.parts[:at]), part.parts[at + 1 :]
            if (root / masks).joinpath(*inner).is_dir():
                return root, (part, (root / masks).joinpath(*inner))
    return None


def _read_listed(part: ListedPart) -> Reader:
    found = _listed(part.path)
    if found is None:
        raise DataError(f"{part.path}: no folder of masks; expected images/... and masks/...")
    names: Sequence[str] | None = None if isinstance(part.names, Mapping) else part.names
    return _reader(*found, names)


FORMATS = {
    "png": DataFormat(
        task="detect",
        parts=_parts,
        looked_for="images/ with masks/*.png",
        fits_folder=lambda folder: any(find_files(masks, MASKS).files for _, masks in _pairs(folder).values()),
        fits_listed=_listed,
        read_listed=_read_listed,
    )
}
