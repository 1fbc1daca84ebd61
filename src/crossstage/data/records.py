"""Datasets in memory: detection in COCO's terms, classification as labels and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossstage.data.formats.coco import CocoDataset, CocoImage
from crossstage.errors import DataError


class Box(NamedTuple):
    """One object: class id, corners in pixels, and whether it is too hard to be counted (PASCAL VOC's "difficult")."""

    class_id: int
    xyxy: tuple[float, float, float, float]
    difficult: bool = False


def assemble(
    path: Path, class_names: Sequence[str], found: Sequence[tuple[Path, tuple[int, int], Sequence[Box]]]
) -> CocoDataset:
    """A detection dataset in COCO's terms from images, their heights and widths, and their boxes.

    Boxes are clipped to the image. Difficult ones become COCO's crowds, which are neither wanted nor wrong.
    """
    images = tuple(CocoImage(number, file, columns, rows) for number, (file, (rows, columns), _) in enumerate(found, 1))
    annotations = []
    for image, (_, _, boxes) in zip(images, found, strict=True):
        for box in boxes:
            left, top = max(0.0, box.xyxy[0]), max(0.0, box.xyxy[1])
            width, height = min(image.width, box.xyxy[2]) - left, min(image.height, box.xyxy[3]) - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.id,
                    "category_id": box.class_id + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": int(box.difficult),
                }
            )
    categories = dict(enumerate(class_names, 1))
    content = {
        "images": [
            {"id": image.id, "file_name": image.path.name, "width": image.width, "height": image.height}
            for image in images
        ],
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in categories.items()],
    }
    return CocoDataset(path, images, categories, content)


@dataclass(frozen=True)
class Objects:
    """The objects of one image: corners ``(n, 4)`` in its pixels, and class ids ``(n,)``."""

    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]


def objects_of(dataset: CocoDataset) -> list[Objects]:
    """What there is to learn in each image; class ids count the categories in their order; crowds are left out."""
    index = {id_: number for number, id_ in enumerate(dataset.categories)}
    by_image: dict[int, list[tuple[int, list[float]]]] = {image.id: [] for image in dataset.images}
    for entry in dataset.content["annotations"]:
        if not entry.get("iscrowd"):
            by_image[entry["image_id"]].append((index[entry["category_id"]], entry["bbox"]))
    objects = []
    for image in dataset.images:
        boxes = np.array([box for _, box in by_image[image.id]], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        limit = np.array([image.width, image.height] * 2, np.float32)
        classes = np.array([class_id for class_id, _ in by_image[image.id]], np.int64)
        objects.append(Objects(boxes.clip(0, limit), classes))
    return objects


def class_names_of(dataset: CocoDataset | ClassificationData) -> tuple[str, ...]:
    """Names by class id."""
    return dataset.class_names if isinstance(dataset, ClassificationData) else tuple(dataset.categories.values())


@dataclass(frozen=True)
class ClassificationData:
    """Images with one label each.

    Attributes:
        path: Where they come from.
        class_names: Names by class id.
        names: What to call each image in messages.
        labels: Class id of each.
        images: Paths, or the content of files.
    """

    path: Path
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.int64]
    images: Sequence[Path | bytes]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Images of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))


def with_classes(dataset: ClassificationData, class_names: tuple[str, ...]) -> ClassificationData:
    """The dataset with its labels counted in other names.

    Raises:
        DataError: It has a class that is not among them.
    """
    if dataset.class_names == class_names:
        return dataset
    if unknown := [name for name in dataset.class_names if name not in class_names]:
        raise DataError(
            f"{dataset.path}: no class of {', '.join(unknown[:8])} to learn from; expected the same classes"
        )
    numbers = np.array([class_names.index(name) for name in dataset.class_names], np.int64)
    return replace(dataset, class_names=class_names, labels=numbers[dataset.labels])


class Chosen(Sequence):
    """Some entries of a sequence, without a copy of it."""

    def __init__(self, entries: Sequence, chosen: Sequence[int]) -> None:
        self.entries, self.chosen = entries, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index):  # noqa: ANN001, ANN204 (one entry or a slice, as Sequence has it)
        return self.entries[self.chosen[index]]


def subset(dataset: CocoDataset | ClassificationData, chosen: Sequence[int]) -> CocoDataset | ClassificationData:
    """A dataset of some of the images, by position."""
    if isinstance(dataset, ClassificationData):
        return replace(
            dataset,
            names=Chosen(dataset.names, chosen),
            labels=dataset.labels[list(chosen)],
            images=Chosen(dataset.images, chosen),
        )
    images = tuple(dataset.images[index] for index in chosen)
    kept = {image.id for image in images}
    content = {
        **dataset.content,
        "images": [entry for entry in dataset.content["images"] if entry["id"] in kept],
        "annotations": [entry for entry in dataset.content["annotations"] if entry["image_id"] in kept],
    }
    return replace(dataset, images=images, content=content)


def split_off(
    dataset: CocoDataset | ClassificationData, share: float, seed: int
) -> tuple[CocoDataset | ClassificationData, CocoDataset | ClassificationData]:
    """Hold out a random share of the images, at least one: what remains, and what is held out.

    Classes keep their shares in a classification dataset.
    """
    random = np.random.default_rng(seed)
    if isinstance(dataset, ClassificationData):
        groups = [np.flatnonzero(dataset.labels == label) for label in range(len(dataset.class_names))]
    else:
        groups = [np.arange(len(dataset.images))]
    held = np.concatenate([random.permutation(group)[: max(1, round(share * len(group)))] for group in groups])
    total = len(dataset.labels) if isinstance(dataset, ClassificationData) else len(dataset.images)
    rest = np.setdiff1d(np.arange(total), held)
    return subset(dataset, rest.tolist()), subset(dataset, sorted(held.tolist()))
