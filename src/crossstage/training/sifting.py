"""The images of a training, looked at before its first step: damaged ones are repaired, left out or refused, and told.

A training that runs for a night is not ended by an image, so all are read once before it begins. What is damaged later
is told in a line, see :class:`~crossstage.data.spares.Spares`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from crossstage.data.faults import Fault, OnBadLabel, listing
from crossstage.data.records import Dataset, DetectionData
from crossstage.data.verified import OnBadImage, Verdict, positions_of, verdicts
from crossstage.errors import DataError
from crossstage.inference.images import verify_image
from crossstage.inference.sources import IMAGE_SUFFIXES

TOLD = 3  # images that a remark names


class Sifted(NamedTuple):
    """A part of a dataset whose images were looked at.

    Attributes:
        data: The images that are used.
        remarks: What people are told of the others.
    """

    data: Dataset
    remarks: tuple[str, ...]


def sift(part: Dataset, name: str, on_bad_image: OnBadImage, on_bad_label: OnBadLabel, *, progress: bool) -> Sifted:
    """Look at every image of a part.

    Args:
        part: The images and their labels.
        name: What the part is called: "train" or "val".
        on_bad_image: What is done about damaged images.
        on_bad_label: What is done about labels that are for an image of another size.
        progress: Show a bar on stderr.

    Raises:
        DataError: Images are damaged, or of another size than their labels are for, and that is refused; or none is
            left.
    """
    found = verdicts(_sources(part), progress, f"{name} images")
    if on_bad_image == "refuse" and (faults := _faults(part, found, lambda verdict: bool(verdict.reason))):
        raise DataError(f"{listing(faults)}\n--on-bad-image repair reads such images as far as they go, skip does not")
    used = list(positions_of(found, on_bad_image=on_bad_image))
    misfits = _misfits(part, found, used)
    if misfits and on_bad_label == "refuse":
        raise DataError(listing(list(misfits.values())))
    kept = [position for position in used if position not in misfits]
    if not kept:
        faults = _faults(part, found, lambda verdict: bool(verdict.reason)) or list(misfits.values())
        raise DataError(f"no {name} image is left to use\n{listing(faults)}")
    repaired = [found[position] for position in kept if found[position].reason]
    taken = set(used)
    lost = [verdict for position, verdict in enumerate(found) if verdict.reason and position not in taken]
    remarks = [
        *_remark(repaired, name, ("is damaged and read as far as it goes", "are damaged and read as far as they go")),
        *_remark(lost, name, ("cannot be used and is left out", "cannot be used and are left out")),
    ]
    if misfits:
        are = "image is" if len(misfits) == 1 else "images are"
        first = next(iter(misfits.values()))
        remarks.append(f"{len(misfits)} {name} {are} left out, whose labels are for another size: {first}")
    data = part if len(kept) == len(part) else part.take(kept)
    return Sifted(data, tuple(remarks))


def is_damaged_image(fault: Fault) -> bool:
    """Tell whether a fault is that of an image, rather than of its label."""
    return fault.line is None and fault.file.suffix.lower() in IMAGE_SUFFIXES and verify_image(fault.file) is not None


def digest_of(data: Dataset) -> str:
    """Return a hash of what a part holds, wherever it lies: names and sizes of its images, and their labels."""
    digest = hashlib.sha256(repr(data.class_names).encode())
    if isinstance(data, DetectionData):
        for image in data.images:
            digest.update(repr((image.path.name, image.width, image.height)).encode())
        for column in (data.boxes.starts, data.boxes.class_ids, data.boxes.xywh.round(2)):
            digest.update(column.tobytes())
        return digest.hexdigest()
    digest.update(data.labels.tobytes())
    for image in data.images:
        digest.update(repr((image.name, _length(image)) if isinstance(image, Path) else len(image)).encode())
    return digest.hexdigest()


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # it is missing, which is told elsewhere
        return 0


def _sources(part: Dataset) -> list[Path | bytes]:
    return [image.path for image in part.images] if isinstance(part, DetectionData) else list(part.images)


def _faults(part: Dataset, found: list[Verdict], wanted: Callable[[Verdict], bool]) -> list[Fault]:
    """Return the faults of those images whose verdicts are wanted."""
    faults = []
    for position, verdict in enumerate(found):
        if wanted(verdict):
            file = part.images[position].path if isinstance(part, DetectionData) else Path(part.names[position])
            faults.append(Fault(file, None, verdict.reason.removeprefix(f"{file}: ")))
    return faults


def _misfits(part: Dataset, found: list[Verdict], used: list[int]) -> dict[int, Fault]:
    """Return the images, among those that are used, whose labels are for another size."""
    if not isinstance(part, DetectionData):
        return {}
    misfits = {}
    for position in used:
        image, verdict = part.images[position], found[position]
        if verdict.height and (verdict.height, verdict.width) != (image.height, image.width):
            text = f"{verdict.width} x {verdict.height} pixels; its labels are for {image.width} x {image.height}"
            misfits[position] = Fault(image.path, None, text)
    return misfits


def _remark(verdicts: list[Verdict], name: str, happens: tuple[str, str]) -> list[str]:
    """Return a line about some images, if there are any; ``happens`` is said of one of them, and of several."""
    if not verdicts:
        return []
    one = len(verdicts) == 1
    shown = "; ".join(verdict.reason for verdict in verdicts[:TOLD])
    more = f"; and {len(verdicts) - TOLD} more" if len(verdicts) > TOLD else ""
    return [f"{len(verdicts)} {name} image{'' if one else 's'} {happens[not one]}: {shown}{more}"]
