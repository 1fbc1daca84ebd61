"""Everything that is wrong or odd about a dataset, in one report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossstage.data.alike import equal_images, parts_of, similar_images
from crossstage.data.box_faults import box_faults, mask_faults
from crossstage.data.class_names import distinct, odd_names
from crossstage.data.faults import Fault, grouped
from crossstage.data.find import DataSource, without_labels
from crossstage.data.looks import Looks, look_at
from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.files import write_text
from crossstage.reading.text import visible

if TYPE_CHECKING:
    from rich.console import Console

UNBALANCED = 20  # times as many labels of the most frequent class as of the rarest
SHOWN_ALIKE = 10  # faults of one kind on a terminal
SHOWN_KINDS = 20


@dataclass(frozen=True)
class PartSummary:
    """A summary of one part of a dataset.

    Attributes:
        name: The part's name, such as "train".
        images: How many images it lists.
        readable: How many of the images can be read.
        labels: How many boxes, or labelled images, are sound.
        unlabelled: How many images have no box.
        per_class: How many labels each class has, by its name; of several classes of one name, the later have a number.
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
        why: By what that was recognised.
        parts: A summary of each part.
        faults: Everything that is wrong or odd.
    """

    path: str
    format: str
    why: str
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
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str)
        write_text(path, text.encode("utf-8", "backslashreplace").decode() + "\n")


@dataclass(frozen=True, eq=False)
class _Images:
    """The images of a part: what to call them, their labels if each has one, and what they look like."""

    part: str
    names: Sequence[str]
    labels: Sequence[str]
    looks: Looks


def check_data(source: DataSource, *, progress: bool = False) -> CheckReport:
    """Read every label and every image of a dataset, and report what is wrong or odd.

    Args:
        source: The dataset.
        progress: Whether a progress bar is shown on stderr.
    """
    parts, faults, seen = [], list(source.notes), []
    told: set[str] = set()
    for name, read in source.parts.items():
        with _working(f"reading the labels of {name}", progress):
            reading = read()
        faults += reading.faults
        data = reading.data
        if data is None:
            parts.append(PartSummary(name, 0, 0, 0, 0, {}))
            if not any(fault.broken for fault in reading.faults):
                faults.append(Fault(source.path, None, f"{name}: no image with labels that are read; expected some"))
            continue
        images = _look(name, data, progress)
        seen.append(images)
        faults += _image_faults(data, images)
        parts.append(_summary(name, data, images))
        faults += [
            Fault(source.path, None, text, broken=False) for text in odd_names(data.class_names) if text not in told
        ]
        told.update(odd_names(data.class_names))
        if isinstance(data, DetectionData):
            faults += [*_labelled_twice(data), *_unlabelled(source, name, data)]
            faults += [*box_faults(data), *mask_faults(data)]
    with _working("comparing images", progress):
        faults += _duplicates(seen)
    faults += _balance(source.path, parts)
    return CheckReport(str(source.path), source.format, source.why, tuple(parts), tuple(faults))


def _working(what: str, shown: bool) -> AbstractContextManager[object]:
    """Return a context in which stderr says what is being done, if it is a terminal."""
    from rich.console import Console

    return Console(stderr=True, quiet=not shown).status(what)


def _look(part: str, data: Dataset, progress: bool) -> _Images:
    if isinstance(data, ClassificationData):
        names, images = data.names, data.images
        labels: Sequence[str] = [data.class_names[label] for label in data.labels]
    else:
        images = [image.path for image in data.images]
        names, labels = [str(path) for path in images], []
    return _Images(part, names, labels, look_at(images, names, part, progress=progress))


def _image_faults(data: Dataset, images: _Images) -> Iterator[Fault]:
    for position, reason in sorted(images.looks.reasons.items()):
        yield Fault(Path(images.names[position]), None, reason)
    if isinstance(data, DetectionData):
        stated = np.array([(image.height, image.width) for image in data.images])
        differ = (images.looks.sizes != stated).any(1) & images.looks.readable
        for position in np.flatnonzero(differ).tolist():
            (height, width), image = images.looks.sizes[position].tolist(), data.images[position]
            text = f"{width} x {height} pixels; its labels are for {image.width} x {image.height}"
            yield Fault(image.path, None, text)


def _summary(name: str, data: Dataset, images: _Images) -> PartSummary:
    detection = data if isinstance(data, DetectionData) else None
    per_class = dict(zip(distinct(data.class_names), data.counts.tolist(), strict=True))
    readable = int(images.looks.readable.sum())
    unlabelled = int((~detection.labelled).sum()) if detection else 0
    masks = detection.masked if detection else 0
    return PartSummary(name, len(images.names), readable, sum(per_class.values()), unlabelled, per_class, masks)


def _labelled_twice(data: DetectionData) -> Iterator[Fault]:
    counts = Counter(image.path for image in data.images)
    for path, count in counts.items():
        if count > 1:
            yield Fault(path, None, f"{count} entries of this part label this image; each is used", broken=False)


def _unlabelled(source: DataSource, part: str, data: DetectionData) -> Iterator[Fault]:
    if why := without_labels(data):
        # A training refuses these; the labels of a test part may be kept back.
        used = part in (
            "train",
            source.val_split(),
        )
        yield Fault(source.path, None, f"{part}: {why}: there is nothing to learn or to measure by", broken=used)


def _duplicates(parts: Sequence[_Images]) -> Iterator[Fault]:
    """Yield files that are alike: between parts they make a measure too good; with two labels, one is wrong."""
    if not parts:
        return
    of_part = parts_of([len(part.names) for part in parts])
    first = np.concatenate([[0], np.cumsum([len(part.names) for part in parts])])

    def place(position: int) -> tuple[str, str, str]:
        part = parts[of_part[position]]
        inner = position - int(first[of_part[position]])
        return part.part, part.names[inner], part.labels[inner] if part.labels else ""

    looks = Looks(
        np.concatenate([part.looks.sizes for part in parts]),
        np.concatenate([part.looks.digests for part in parts]),
        np.concatenate([part.looks.sketches for part in parts]),
        {},
    )
    for group in equal_images(looks):
        part, name, label = place(group[0])
        for position in group[1:]:
            other, its, own = place(position)
            if (other, its) == (part, name):
                continue
            where = "in this part, too" if other == part else f"in {part!r}, and this is {other!r}"
            labels = f", labelled {label!r} there and {own!r} here" if own != label else ""
            yield Fault(Path(its), None, f"the same image as {name} ({where}){labels}", broken=False)
    for earlier, later in similar_images(looks, of_part):
        (part, name, _), (other, its, _) = place(earlier), place(later)
        text = f"nearly the same image as {name} (in {part!r}, and this is {other!r})"
        yield Fault(Path(its), None, text, broken=False)


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
    """Print a report: a table of the parts, then what is odd and what is broken, some of each kind."""
    from rich.table import Table

    def line(text: str, style: str | None = None) -> None:
        console.print(visible(text), style=style, highlight=False, markup=False, soft_wrap=True)

    line(f"{report.path}: {report.format} ({report.why})" if report.why else f"{report.path}: {report.format}")
    table = Table("part", box=None, pad_edge=False)
    masks = any(part.masks for part in report.parts)
    for column in ("images", "readable", "labels", *(["masks"] if masks else []), "without labels"):
        table.add_column(column, justify="right")
    for part in report.parts:
        counts = part.images, part.readable, part.labels, *([part.masks] if masks else []), part.unlabelled
        table.add_row(part.name, *map(str, counts))
    console.print(table)
    cut = False
    for what, chosen in (
        ("odd", [fault for fault in report.faults if not fault.broken]),
        ("broken", [fault for fault in report.faults if fault.broken]),
    ):
        if chosen:
            console.print()
            line(f"{len(chosen)} {what}", style="bold")
        kinds = grouped(chosen)
        for alike in kinds[:SHOWN_KINDS]:
            for fault in alike[:SHOWN_ALIKE]:
                line(f"  {fault}")
            if len(alike) > SHOWN_ALIKE:
                line(f"  ... and {len(alike) - SHOWN_ALIKE} more of this kind")
        if len(kinds) > SHOWN_KINDS:
            line(f"  ... and {sum(map(len, kinds[SHOWN_KINDS:]))} more of {len(kinds) - SHOWN_KINDS} other kinds")
        cut = cut or len(kinds) > SHOWN_KINDS or any(len(alike) > SHOWN_ALIKE for alike in kinds)
    if cut:
        console.print()
        line("--json FILE writes all of them")
    if not report.faults:
        line("nothing wrong was found")
