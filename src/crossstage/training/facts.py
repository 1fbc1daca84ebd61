"""What a plan goes by: the data that a training is to use, counted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossstage.data.faults import Fault, Reading, listing
from crossstage.data.find import find_data, training_parts
from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.errors import DataError
from crossstage.inference.images import load_image
from crossstage.models.registry import TaskName
from crossstage.training.options import TrainOptions
from crossstage.training.sifting import TOLD, digest_of, is_damaged_image, sift

LOOKED_AT = 16  # images of a classification dataset, whose sizes no label tells


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The data of a training, read.

    Attributes:
        format: Name of the dataset's format.
        description: Where the val images come from.
        train: The images to train on.
        val: The images that the model is measured on.
        skipped: Broken labels that were left out.
        remarks: What people are told of images that are damaged.
        digests: Hashes of both parts as their source has them, by which a run knows its data again.
    """

    format: str
    description: str
    train: Dataset
    val: Dataset
    skipped: int
    remarks: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()

    @property
    def task(self) -> TaskName:
        """What a model for this data does."""
        return "detect" if isinstance(self.train, DetectionData) else "classify"


@dataclass(frozen=True)
class DataFacts:
    """What a plan goes by.

    Attributes:
        task: What a model for the data does.
        images: Number of training images.
        val_images: Number of val images.
        classes: Number of classes.
        image_side: The longer side of the median image in pixels.
        boxes: Number of boxes to train on.
        box_share: The side of a small box, as a share of its image's longer side: a tenth of all are smaller.
    """

    task: TaskName
    images: int
    val_images: int
    classes: int
    image_side: int
    boxes: int = 0
    box_share: float = 0.0

    def __str__(self) -> str:
        boxes = f", {self.boxes} boxes" if self.task == "detect" else ""
        return f"{self.images} images{boxes}, {self.classes} {'class' if self.classes == 1 else 'classes'}"


def read_data(options: TrainOptions, *, progress: bool = False) -> TrainingData:
    """Read the data of a training: its labels, and once each of its images.

    Args:
        options: The options of the training.
        progress: Show a bar on stderr while images are looked at.

    Raises:
        DataError: There is none, there is nothing to learn, or labels or images are broken that are not to be skipped.
    """
    source = find_data(options.data, options.format)
    accepted = {} if options.on_bad_image == "refuse" else {"tolerated": is_damaged_image}
    train, val, description = training_parts(source, on_bad_label=options.on_bad_label, seed=options.seed, **accepted)
    readings: tuple[Reading[Dataset], ...] = (train, val)
    if options.on_bad_image == "refuse" and (lost := _damaged(readings)):
        raise DataError(listing(lost))
    if not train.data or not val.data:
        raise DataError(f"{options.data}: too few sound images to train on some and measure on others")
    if isinstance(train.data, DetectionData) and not train.data.counts.sum():
        raise DataError(f"{options.data}: no box in the images to train on; there is nothing to learn")
    digests = tuple(digest_of(part) for part in (train.data, val.data))
    settings = (options.on_bad_image, options.on_bad_label)
    sifted = [
        sift(part, name, *settings, progress=progress) for part, name in ((train.data, "train"), (val.data, "val"))
    ]
    kept = TrainingData(
        source.format,
        description,
        sifted[0].data,
        sifted[1].data,
        sum(each.skipped for each in readings),
        (*_unlisted(readings), *sifted[0].remarks, *sifted[1].remarks),
        digests,
    )
    if isinstance(kept.train, DetectionData) and not kept.train.counts.sum():
        raise DataError(f"{options.data}: no box in the images that can be used; there is nothing to learn")
    return kept


def _unlisted(readings: Sequence[Reading[Dataset]]) -> list[str]:
    """Return remarks on images that are so damaged that their labels could not be read."""
    found = _damaged(readings)
    return [f"left out: {fault}" for fault in found[:TOLD]] + (
        [f"left out: {len(found) - TOLD} more images that cannot be read"] if len(found) > TOLD else []
    )


def _damaged(readings: Sequence[Reading[Dataset]]) -> list[Fault]:
    return [fault for reading in readings for fault in reading.faults if fault.broken and is_damaged_image(fault)]


def facts_of(data: TrainingData) -> DataFacts:
    """Count and measure."""
    train, counts = data.train, (len(data.train), len(data.val), len(data.train.class_names))
    if isinstance(train, ClassificationData):
        return DataFacts(data.task, *counts, _median_side(train.images))
    sides = np.array([max(image.width, image.height) for image in train.images], np.float64)
    wanted = ~train.boxes.crowd
    areas = train.boxes.xywh[wanted, 2:].prod(1).clip(min=0)
    shares = np.sqrt(areas) / sides[train.boxes.image_index[wanted]]
    small = float(np.quantile(shares, 0.1)) if len(shares) else 0.0
    return DataFacts(data.task, *counts, int(np.median(sides)), int(wanted.sum()), small)


def _median_side(images: Sequence[Path | bytes]) -> int:
    """Return the longer side of the median of some images; those that cannot be read are passed over here."""
    sides = []
    for position in np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).round().astype(int).tolist():
        try:
            sides.append(max(load_image(images[position]).shape[:2]))
        except DataError:  # named when it is trained on
            continue
    return int(np.median(sides)) if sides else 0
