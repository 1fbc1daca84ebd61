"""Datasets in memory: a sequence of samples with boxes, or images with one label each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from crossstage.data.masks import Mask, Masks, MasksBuilder, joined_masks, no_masks, packed
from crossstage.errors import DataError
from crossstage.ops import rle


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image of a dataset, which has not been read.

    Attributes:
        id: The source's number of the image: COCO's image id, elsewhere its position counted from 1.
        path: The image file.
        width: Width in pixels that the labels are for.
        height: Height in pixels that the labels are for.
    """

    id: int
    path: Path
    width: int
    height: int


class Box(NamedTuple):
    """One object of an image.

    Attributes:
        class_id: The class's id.
        xyxy: Corners in pixels.
        difficult: Whether it is too hard to be counted (PASCAL VOC's "difficult"), or a crowd.
        mask: Its mask, which makes its area; None where it has none.
    """

    class_id: int
    xyxy: tuple[float, float, float, float]
    difficult: bool = False
    mask: Mask = None


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one image that a detector is to find, ``n`` of them.

    Attributes:
        boxes_xyxy: ``(n, 4)`` corners in pixels of the image.
        class_ids: ``(n,)`` class ids.
        masks: The ``n`` masks; None where the dataset has none.
    """

    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    masks: Masks | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a detection dataset and all its ``n`` boxes.

    Attributes:
        image: The image, which has not been read.
        boxes_xyxy: ``(n, 4)`` corners in pixels of the image, clipped to it.
        class_ids: ``(n,)`` class ids.
        crowd: ``(n,)`` true where finding it is neither wanted nor wrong: COCO's crowds, VOC's difficult objects.
        areas: ``(n,)`` areas in square pixels, by which COCO's metrics tell small objects from large ones.
        masks: The ``n`` masks; None where the dataset has none.
    """

    image: ImageRef
    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    masks: Masks | None = None

    @property
    def objects(self) -> Objects:
        """The objects that are to be found: all but the crowds."""
        wanted = ~self.crowd
        masks = None if self.masks is None else self.masks[wanted]
        return Objects(self.boxes_xyxy[wanted], self.class_ids[wanted], masks)


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of a whole dataset as columns, image after image: a million of them are a few arrays.

    Attributes:
        starts: ``(images + 1,)`` int64: the boxes of image ``i`` are those from ``starts[i]`` to ``starts[i + 1]``.
        xywh: ``(m, 4)`` left, top, width and height in pixels: COCO's own numbers, so that its metrics are exact.
        class_ids: ``(m,)`` class ids.
        crowd: ``(m,)`` see :class:`Sample`.
        areas: ``(m,)`` areas in square pixels.
        masks: The ``m`` masks, as their source states them; None where the dataset has none.
    """

    starts: NDArray[np.int64]
    xywh: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    masks: Masks | None = None

    @property
    def image_index(self) -> NDArray[np.int64]:
        """``(m,)`` position of each box's image in the dataset."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def take(self, positions: Sequence[int]) -> Boxes:
        """Return the boxes of some images, in the order of ``positions``."""
        first, last = self.starts[:-1][list(positions)], self.starts[1:][list(positions)]
        chosen = np.concatenate([np.zeros(0, np.int64), *map(np.arange, first, last)])
        return Boxes(
            np.concatenate([np.zeros(1, np.int64), np.cumsum(last - first)]),
            self.xywh[chosen],
            self.class_ids[chosen],
            self.crowd[chosen],
            self.areas[chosen],
            None if self.masks is None else self.masks[chosen],
        )


@dataclass(frozen=True, eq=False)
class DetectionData(Sequence[Sample]):
    """A detection dataset, or a part of one: a sequence of samples, whose boxes are kept as columns.

    Attributes:
        path: The file or folder that it comes from.
        class_names: Names by class id.
        images: The images, in the order of the samples.
        boxes: The boxes of all images.
        category_ids: The source's number of each class, by class id: COCO's category ids, elsewhere counted from 1.
    """

    path: Path
    class_names: tuple[str, ...]
    images: tuple[ImageRef, ...]
    boxes: Boxes
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> DetectionData: ...
    def __getitem__(self, index: int | slice) -> Sample | DetectionData:
        positions = range(len(self.images))[index]
        if isinstance(positions, range):
            return self.take(positions)
        image, boxes = self.images[positions], self.boxes
        own = slice(boxes.starts[positions], boxes.starts[positions + 1])
        corners = boxes.xywh[own].astype(np.float32)
        corners[:, 2:] += corners[:, :2]
        limit = np.array([image.width, image.height] * 2, np.float32)
        masks = None if boxes.masks is None else boxes.masks[own]
        return Sample(image, corners.clip(0, limit), boxes.class_ids[own], boxes.crowd[own], boxes.areas[own], masks)

    @property
    def categories(self) -> dict[int, str]:
        """Names by the source's number of a class, in order of the class ids; see ``category_ids``."""
        return dict(zip(self.category_ids, self.class_names, strict=True))

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """``(classes,)`` boxes of each class, crowds left out."""
        return np.bincount(self.boxes.class_ids[~self.boxes.crowd], minlength=len(self.class_names))

    @property
    def labelled(self) -> NDArray[np.bool_]:
        """``(images,)`` whether each image has an object that is to be found: a box that is no crowd."""
        return np.bincount(self.boxes.image_index[~self.boxes.crowd], minlength=len(self.images)) > 0

    @cached_property
    def masked(self) -> int:
        """How many boxes have a mask, crowds left out."""
        masks = self.boxes.masks
        return 0 if masks is None else int((masks.present & ~self.boxes.crowd).sum())

    @property
    def has_masks(self) -> bool:
        """Whether any object has a mask."""
        return self.masked > 0

    def take(self, positions: Sequence[int]) -> DetectionData:
        """Return a dataset of some of the images, in the order of ``positions``."""
        return replace(self, images=tuple(self.images[i] for i in positions), boxes=self.boxes.take(positions))


class DetectionBuilder:
    """Collects images and their boxes, as a reader comes by them, in arrays of plain numbers."""

    def __init__(self) -> None:
        self._images: list[ImageRef] = []
        self._starts = array("q", [0])
        self._xywh, self._class_ids, self._crowd = array("d"), array("q"), array("b")
        self._areas, self._masks = array("d"), MasksBuilder()

    def add(self, image: Path, size: tuple[int, int], boxes: Sequence[Box]) -> None:
        """Add an image.

        Args:
            image: The file.
            size: Its height and width in pixels.
            boxes: Its objects. They are clipped to the image; difficult ones become COCO's crowds, which are neither
                wanted nor wrong.
        """
        height, width = size
        self._images.append(ImageRef(len(self._images) + 1, image, width, height))
        for box in boxes:
            left, top = max(0.0, box.xyxy[0]), max(0.0, box.xyxy[1])
            sides = min(width, box.xyxy[2]) - left, min(height, box.xyxy[3]) - top
            self._xywh.extend((left, top, *sides))
            self._areas.append(sides[0] * sides[1] if box.mask is None else rle.area(packed(box.mask, size), size))
            self._masks.add(box.mask)
            self._class_ids.append(box.class_id)
            self._crowd.append(box.difficult)
        self._starts.append(len(self._class_ids))

    def build(self, path: Path, class_names: Sequence[str]) -> DetectionData | None:
        """Return what was collected; None if there is no image.

        Args:
            path: The file or folder that it comes from.
            class_names: Names by class id.
        """
        if not self._images:
            return None
        xywh = np.array(self._xywh, np.float64).reshape(-1, 4)
        boxes = Boxes(
            np.array(self._starts, np.int64),
            xywh,
            np.array(self._class_ids, np.int64),
            np.array(self._crowd, np.bool_),
            np.array(self._areas, np.float64),
            self._masks.build(),
        )
        names = tuple(class_names)
        return DetectionData(path, names, tuple(self._images), boxes, tuple(range(1, len(names) + 1)))


@dataclass(frozen=True, eq=False)
class ClassificationData:
    """Images with one label each.

    Attributes:
        path: The file or folder that they come from.
        class_names: Names by class id.
        names: What to call each image in messages.
        labels: ``(n,)`` class id of each image.
        images: Paths of the image files, or their content.
    """

    path: Path
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.int64]
    images: Sequence[Path | bytes]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """``(classes,)`` images of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    def take(self, positions: Sequence[int]) -> ClassificationData:
        """Return a dataset of some of the images, in the order of ``positions``."""
        return replace(
            self,
            names=_Taken(self.names, positions),
            labels=self.labels[list(positions)],
            images=_Taken(self.images, positions),
        )


Dataset = DetectionData | ClassificationData


class _Taken(Sequence):
    """Some entries of a sequence, without a copy of it."""

    def __init__(self, entries: Sequence, positions: Sequence[int]) -> None:
        self.entries, self.positions = entries, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Any) -> Any:
        return self.entries[self.positions[index]]


def with_classes(dataset: ClassificationData, class_names: tuple[str, ...]) -> ClassificationData:
    """Return the dataset with its labels counted in other names.

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


def split_off(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Hold out a random share of the images, at least one; classes keep their shares in a classification dataset.

    Images with labels and those without keep their shares in a detection dataset. Of a class of one image, that stays.

    Returns:
        What remains, and what is held out.

    Raises:
        DataError: There are not enough images for both.
    """
    random = np.random.default_rng(seed)
    if isinstance(dataset, ClassificationData):
        groups = [np.flatnonzero(dataset.labels == label) for label in range(len(dataset.class_names))]
        counts = [_share_of(share, len(group)) for group in groups]
    else:
        groups = [np.flatnonzero(dataset.labelled), np.flatnonzero(~dataset.labelled)]
        labelled = _share_of(share, len(groups[0]))
        counts = [labelled, min(len(groups[1]), max(0, _share_of(share, len(dataset)) - labelled))]
    held = np.concatenate([random.permutation(group)[:count] for group, count in zip(groups, counts, strict=True)])
    if not len(held):
        raise DataError(
            f"{dataset.path}: {len(dataset)} image{'s' * (len(dataset) != 1)}; expected at least 2 of a kind, "
            "one to learn from and one to measure by, or a part of their own for validation"
        )
    rest = np.setdiff1d(np.arange(len(dataset)), held)
    return dataset.take(rest.tolist()), dataset.take(sorted(held.tolist()))


def _share_of(share: float, count: int) -> int:
    """Return how many of some images are held out, so that at least one is and at least one stays."""
    return min(max(1, round(share * count)), count - 1) if count else 0


def joined(datasets: Sequence[Dataset]) -> Dataset:
    """Return one dataset of several that have the same classes, one after the other.

    Raises:
        DataError: They have other classes, or some have boxes and others have not.
    """
    first = datasets[0]
    for other in datasets[1:]:
        if type(other) is not type(first) or other.class_names != first.class_names:
            raise DataError(f"{other.path}: other classes than in {first.path}; expected the same")
    if isinstance(first, ClassificationData):
        several = [data for data in datasets if isinstance(data, ClassificationData)]
        names = [name for data in several for name in data.names]
        images = [image for data in several for image in data.images]
        return replace(first, names=names, labels=np.concatenate([d.labels for d in several]), images=images)
    several = [data for data in datasets if isinstance(data, DetectionData)]
    images = [image for data in several for image in data.images]
    if len({image.id for image in images}) < len(images):
        images = [replace(image, id=number) for number, image in enumerate(images, start=1)]
    return replace(first, images=tuple(images), boxes=_joined_boxes([data.boxes for data in several]))


def _joined_boxes(several: Sequence[Boxes]) -> Boxes:
    counts = np.concatenate([np.diff(boxes.starts) for boxes in several])
    masks = None
    if any(boxes.masks is not None for boxes in several):
        masks = joined_masks([no_masks(len(boxes.class_ids)) if (m := boxes.masks) is None else m for boxes in several])
    return Boxes(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        np.concatenate([boxes.xywh for boxes in several]),
        np.concatenate([boxes.class_ids for boxes in several]),
        np.concatenate([boxes.crowd for boxes in several]),
        np.concatenate([boxes.areas for boxes in several]),
        masks,
    )
