"""Everything that is wrong or odd about a dataset, in one report."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossstage.data.faults import Fault
from crossstage.data.find import DataSource
from crossstage.data.masks import hull, packed
from crossstage.data.records import Dataset, DetectionData
from crossstage.errors import DataError
from crossstage.files import write_text
from crossstage.inference.images import load_image
from crossstage.ops import rle

if TYPE_CHECKING:
    from rich.console import Console

UNBALANCED = 20  # times as many labels of the most frequent class as of the rarest
SMALL_SIDE = 4.0  # pixels at an input of REFERENCE_SIDE, where a detector sees next to nothing
REFERENCE_SIDE = 416
SAME_BOX = 0.5  # pixels
MATCHING = 0.5  # IoU of a box and the hull of its mask
THIN = 2.0  # pixels; a thinner mask may be empty


@dataclass(frozen=True)
class PartSummary:
    """A summary of one part of a dataset.

    Attributes:
        name: The part's name, such as "train".
        images: How many images it lists.
        readable: How many of the images can be read.
        labels: How many boxes, or labelled images, are sound.
        unlabelled: How many images have no box.
        per_class: How many labels each class has, by its name.
        masks: How many of the boxes have a mask.
    """

    name: str
    images: int
    readable: int
    labels: int
    unlabelled: int
    per_class: Mapping[str, int]
    masks: int = 0


@dataclass(frozen=True)
class CheckReport:
    """A report on a whole dataset, see :func:`check_data`.

    Attributes:
        path: The file or folder of the dataset.
        format: The name of its format.
        parts: A summary of each part.
        faults: Everything that is wrong or odd.
    """

    path: str
    format: str
    parts: tuple[PartSummary, ...]
    faults: tuple[Fault, ...]

    @property
    def broken(self) -> int:
        """How many of the faults make something unusable."""
        return sum(fault.broken for fault in self.faults)

    def save(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            DataError: The file cannot be written.
        """
        write_text(path, json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str) + "\n")


@dataclass(frozen=True)
class _Seen:
    """An image that was read: its hash, and height and width, or the reason why it cannot be read."""

    part: str
    place: Path
    label: str
    digest: str
    size: tuple[int, int] | None
    reason: str


def check_data(source: DataSource, *, progress: bool = False) -> CheckReport:
    """Read every label and every image of a dataset, and report what is wrong or odd.

    Args:
        source: The dataset.
        progress: Whether a progress bar is shown on stderr.
    """
    parts, faults, seen = [], [], []
    for name, read in source.parts.items():
        reading = read()
        faults += reading.faults
        if reading.data is None:
            parts.append(PartSummary(name, 0, 0, 0, 0, {}))
            continue
        images = list(_read_images(name, reading.data, progress))
        seen += images
        faults += _image_faults(reading.data, images)
        parts.append(_summary(name, reading.data, images))
        if isinstance(reading.data, DetectionData):
            faults += _box_faults(reading.data)
            faults += _mask_faults(reading.data)
    faults += _duplicates(seen)
    faults += _balance(source.path, parts)
    return CheckReport(str(source.path), source.format, tuple(parts), tuple(faults))


def _read_images(part: str, dataset: Dataset, progress: bool) -> Iterator[_Seen]:
    from rich.console import Console
    from rich.progress import track

    if isinstance(dataset, DetectionData):
        images: Sequence[Path | bytes] = [image.path for image in dataset.images]
        names: Sequence[str] = [str(path) for path in images]
        labels = [""] * len(names)
    else:
        images, names = dataset.images, dataset.names
        labels = [dataset.class_names[label] for label in dataset.labels]

    def look(index: int) -> _Seen:
        image, name = images[index], Path(names[index])
        try:
            content = image.read_bytes() if isinstance(image, Path) else image
            digest = hashlib.sha256(content).hexdigest()
            size = load_image(image).shape[:2]
        except (DataError, OSError) as error:
            return _Seen(part, name, labels[index], "", None, str(error).removeprefix(f"{name}: "))
        return _Seen(part, name, labels[index], digest, (size[0], size[1]), "")

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        done = threads.map(look, range(len(names)))
        console = Console(stderr=True)
        yield from track(
            done,
            part,
            total=len(names),
            console=console,
            transient=True,
            disable=not (progress and console.is_terminal),
        )


def _image_faults(dataset: Dataset, images: Sequence[_Seen]) -> list[Fault]:
    faults = [Fault(seen.place, None, seen.reason) for seen in images if seen.size is None]
    if isinstance(dataset, DetectionData):
        for image, seen in zip(dataset.images, images, strict=True):
            if seen.size and seen.size != (image.height, image.width):
                text = f"{seen.size[1]} x {seen.size[0]} pixels; its labels are for {image.width} x {image.height}"
                faults.append(Fault(seen.place, None, text))
    return faults


def _summary(name: str, dataset: Dataset, images: Sequence[_Seen]) -> PartSummary:
    unlabelled = 0
    if isinstance(dataset, DetectionData):
        unlabelled = sum(not len(sample.objects.class_ids) for sample in dataset)
    per_class = Counter[str]()
    for class_name, count in zip(dataset.class_names, dataset.counts.tolist(), strict=True):
        per_class[class_name] += count
    readable = sum(seen.size is not None for seen in images)
    masks = dataset.masked if isinstance(dataset, DetectionData) else 0
    return PartSummary(name, len(images), readable, per_class.total(), unlabelled, dict(per_class), masks)


def _box_faults(dataset: DetectionData) -> list[Fault]:
    """Return what is odd about valid boxes: the same twice, or too small to be seen."""
    faults, small = [], []
    for sample in dataset:
        image, objects = sample.image, sample.objects
        boxes = objects.boxes_xyxy
        sides = (boxes[:, 2:] - boxes[:, :2]) * (REFERENCE_SIDE / max(image.width, image.height))
        small += [image.path.name] * int((sides < SMALL_SIDE).any(1).sum())
        close = np.abs(boxes[:, None] - boxes[None]).max(-1, initial=0) < SAME_BOX
        same = int(np.triu(close & (objects.class_ids[:, None] == objects.class_ids), 1).sum())
        if same:
            text = f"{same} box{'es' * (same > 1)} stand{'s' * (same == 1)} twice, with one class"
            faults.append(Fault(image.path, None, text, broken=False))
    if small:
        where = f"at an input of {REFERENCE_SIDE}, the first in {small[0]}"
        text = f"{len(small)} boxes are below {SMALL_SIDE:g} pixels {where}"
        faults.append(Fault(dataset.path, None, text, broken=False))
    return faults


def _mask_faults(dataset: DetectionData) -> list[Fault]:
    """Return what is odd about valid masks: that some objects have none, or one that is empty or not in its box."""
    if not dataset.has_masks:
        return []
    faults = []
    labels = int(dataset.counts.sum())
    if dataset.masked < labels:
        missing = f"{labels - dataset.masked} of {labels} boxes have no mask"
        text = f"{missing}; training takes the box for it, and mask AP leaves them out"
        faults.append(Fault(dataset.path, None, text, broken=False))
    for sample in dataset:
        size = sample.image.height, sample.image.width
        for mask, box, crowd in zip(sample.masks or (), sample.boxes_xyxy.tolist(), sample.crowd, strict=True):
            if mask is not None and not crowd and (text := _odd_mask(mask, box, size)):
                faults.append(Fault(sample.image.path, None, text, broken=False))
    return faults


def _odd_mask(mask: Sequence[NDArray[np.float64]] | str, box: Sequence[float], size: tuple[int, int]) -> str | None:
    left, top, right, bottom = hull(mask, size)
    width, height = min(right, box[2]) - max(left, box[0]), min(bottom, box[3]) - max(top, box[1])
    shared = max(0.0, width) * max(0.0, height)
    both = (right - left) * (bottom - top) + (box[2] - box[0]) * (box[3] - box[1]) - shared
    shown = ", ".join(f"{side:.0f}" for side in box)
    if min(right - left, bottom - top) < THIN and not rle.area(packed(mask, size), size):
        return f"the mask of box {shown} has no pixel"
    if shared < MATCHING * both:
        return f"the mask of box {shown} lies at {left:.0f}, {top:.0f}, {right:.0f}, {bottom:.0f}"
    return None


def _duplicates(images: Sequence[_Seen]) -> list[Fault]:
    """Return files with equal content: between parts they make a measure too good; with two labels, one is wrong."""
    groups: dict[str, list[_Seen]] = defaultdict(list)
    for seen in images:
        if seen.digest:
            groups[seen.digest].append(seen)
    faults = []
    for group in groups.values():
        first = group[0]
        for other in group[1:]:
            if other.place == first.place and other.part == first.part:
                continue
            where = (
                "in this part, too" if other.part == first.part else f"in {first.part!r}, and this is {other.part!r}"
            )
            text = f"the same image as {first.place} ({where})"
            if other.label != first.label:
                text += f", labelled {first.label!r} there and {other.label!r} here"
            faults.append(Fault(other.place, None, text, broken=False))
    return faults


def _balance(path: Path, parts: Sequence[PartSummary]) -> list[Fault]:
    faults = []
    for part in parts:
        missing = [name for name, count in part.per_class.items() if not count]
        if missing and part.labels:
            text = f"{part.name}: no label of {', '.join(missing[:8])}" + (" ..." if len(missing) > 8 else "")
            faults.append(Fault(path, None, text, broken=False))
        present = {name: count for name, count in part.per_class.items() if count}
        if part.name == "train" and present:
            most, least = max(present, key=lambda n: present[n]), min(present, key=lambda n: present[n])
            if present[most] > UNBALANCED * present[least]:
                found = f"train: {present[most]} labels of {most}, {present[least]} of {least}"
                text = f"{found}; class_weights=balanced may help"
                faults.append(Fault(path, None, text, broken=False))
    return faults


def print_check(report: CheckReport, console: Console) -> None:
    """Print a report: a table of the parts, then what is odd and what is broken."""
    from rich.table import Table

    console.print(f"{report.path}: {report.format}", highlight=False, markup=False, soft_wrap=True)
    table = Table("part", box=None, pad_edge=False)
    masks = any(part.masks for part in report.parts)
    for column in ("images", "readable", "labels", *(["masks"] if masks else []), "without labels"):
        table.add_column(column, justify="right")
    for part in report.parts:
        counts = part.images, part.readable, part.labels, *([part.masks] if masks else []), part.unlabelled
        table.add_row(part.name, *map(str, counts))
    console.print(table)
    for what, chosen in (
        ("odd", [fault for fault in report.faults if not fault.broken]),
        ("broken", [fault for fault in report.faults if fault.broken]),
    ):
        if chosen:
            console.print(f"\n{len(chosen)} {what}", style="bold", highlight=False)
            for fault in chosen:
                console.print(f"  {fault}", highlight=False, markup=False, soft_wrap=True)
    if not report.faults:
        console.print("nothing wrong was found", highlight=False)
