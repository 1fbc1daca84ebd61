"""The images of a whole dataset by number, and which of them a reader of the page wants to see, in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossstage.data.box_faults import box_faults, mask_faults
from crossstage.data.class_names import distinct
from crossstage.data.faults import Fault, grouped
from crossstage.data.find import DataSource
from crossstage.data.masks import Mask
from crossstage.data.records import ClassificationData, Dataset, DetectionData
from crossstage.errors import ConfigError, DataError, one_of
from crossstage.reading.text import visible
from crossstage.viewing.judging import ERRORS, Judgement, judged_classes, judged_detections

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}
"""COCO's sizes of objects, by areas in square pixels."""
ORDERS = ("data", "worst", "faults", "objects")
ANY = "any"
MOST_BOXES = 300  # of an image that are sent
TOLD_FAULTS = 100  # of those that belong to no image


@dataclass(frozen=True)
class Wish:
    """Which images are wanted; an empty word wants all.

    Attributes:
        part: A part of the dataset.
        class_id: A class that an object, or what the model found, is of; None wants all.
        size: One of SIZES, which the same object is of.
        fault: The number of a kind of fault, or ANY.
        error: One of ERRORS, or ANY.
        order: One of ORDERS: "worst" begins with the most errors, "faults" and "objects" with the most of these.
    """

    part: str = ""
    class_id: int | None = None
    size: str = ""
    fault: str = ""
    error: str = ""
    order: str = "data"


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the dataset: its images are counted from ``first`` on; ``classes`` are the dataset's by its own."""

    name: str
    data: Dataset
    first: int
    classes: NDArray[np.int64]
    judged: Sequence[Judgement]


class Gallery:
    """All images of a dataset, counted from 0 through all of its parts.

    Args:
        source: The dataset.
        model: A detector or classifier, whose findings are shown beside the labels; None shows labels alone.
        model_name: What the model is called.
        progress: Whether a progress bar is shown on stderr while the model looks at the images.

    Attributes:
        class_names: Names of the classes of all parts; of several of one name, the later have a number.
        kinds: The faults by kind.

    Raises:
        DataError: No image has labels that are read, or the model and the data have no class in common.
        ConfigError: The model is of another task than the data.
    """

    def __init__(self, source: DataSource, model: Any = None, *, model_name: str = "", progress: bool = False) -> None:
        self.source, self.model_name = source, model_name
        readings = [(name, read()) for name, read in source.parts.items()]
        read = [(name, reading.data) for name, reading in readings if reading.data is not None]
        if not read:
            faults = [fault for _, reading in readings for fault in reading.faults]
            raise DataError(f"{source.path}: no image with labels that are read{f': {faults[0]}' if faults else ''}")
        self.class_names = tuple(dict.fromkeys(name for _, data in read for name in distinct(data.class_names)))
        self._parts = list(self._made(read, model, progress))
        self._number_faults({name: reading.faults for name, reading in readings})
        self._columns()

    def _made(self, read: Sequence[tuple[str, Dataset]], model: Any, progress: bool) -> Iterator[_Part]:
        number = {name: position for position, name in enumerate(self.class_names)}
        first = 0
        for name, data in read:
            judged = [] if model is None else list(_judged(model, self.model_name, data, progress))
            classes = np.array([*(number[each] for each in distinct(data.class_names)), -1], np.int64)
            yield _Part(name, data, first, classes, judged)
            first += len(data)

    def _number_faults(self, told: dict[str, Sequence[Fault]]) -> None:
        """Group all faults by kind, and find the images that they are about."""
        about: list[tuple[Fault, int | None]] = [(fault, None) for fault in self.source.notes]
        for part in self._parts:
            faults = list(told.pop(part.name))
            if isinstance(part.data, DetectionData):
                faults += [*box_faults(part.data), *mask_faults(part.data)]
            places = _places(part.data)
            about += [(fault, _place(fault.file, places, part.first)) for fault in faults]
            unread = ((position, one.unread) for position, one in enumerate(part.judged) if one.unread)
            about += [(Fault(Path(self._name(part, at)), None, why), part.first + at) for at, why in unread]
        about += [(fault, None) for faults in told.values() for fault in faults]
        image_of = {id(fault): number for fault, number in about}
        self.kinds = grouped([fault for fault, _ in about])
        self._of_kind = [
            np.array(sorted({n for fault in kind if (n := image_of[id(fault)]) is not None}), np.int64)
            for kind in self.kinds
        ]
        self.homeless = [fault for fault, number in about if number is None]
        self._faults: dict[int, list[Fault]] = {}
        for fault, number in about:
            if number is not None:
                self._faults.setdefault(number, []).append(fault)

    def _columns(self) -> None:
        """Lay the objects and detections of all images into columns, which filters read."""
        images, classes, areas = [], [], []
        self._objects, self._errors = np.zeros(len(self), np.int64), np.zeros((len(self), len(ERRORS)), np.int64)
        self._doubt = np.zeros(len(self))
        for part in self._parts:
            data, last = part.data, part.first + len(part.data)
            own = np.arange(part.first, last)
            if isinstance(data, DetectionData):
                images.append(data.boxes.image_index + part.first)
                classes.append(part.classes[data.boxes.class_ids])
                areas.append(data.boxes.areas)
                self._objects[own] = np.diff(data.boxes.starts)
            else:
                images.append(own)
                classes.append(part.classes[np.asarray(data.labels)])
                areas.append(np.full(len(own), np.nan))
                self._objects[own] = 1
            for number, one in zip(own.tolist(), part.judged, strict=False):
                count = len(one.xywh) if isinstance(data, DetectionData) else min(1, len(one.class_ids))
                images.append(np.full(count, number))
                classes.append(part.classes[one.class_ids[:count]])
                areas.append(one.xywh[:, 2:].prod(1) if len(one.xywh) else np.full(count, np.nan))
                self._errors[number] = [one.count(error) for error in ERRORS]
                wrong = one.scores[: len(one.states)][np.isin(one.states, ERRORS)]
                self._doubt[number] = wrong.sum()
        self._image, self._class, self._area = map(np.concatenate, (images, classes, areas))

    def __len__(self) -> int:
        return sum(len(part.data) for part in self._parts)

    def about(self) -> dict[str, Any]:
        """Return what the page's head shows, as JSON has it."""
        told = [str(fault) for fault in self.homeless[:TOLD_FAULTS]]
        kinds = [
            {"text": visible(kind[0].text), "count": len(kind), "images": len(images)}
            for kind, images in zip(self.kinds, self._of_kind, strict=True)
        ]
        boxes = any(isinstance(part.data, DetectionData) for part in self._parts)
        return {
            "path": visible(self.source.path),
            "format": self.source.format,
            "images": len(self),
            "boxes": boxes,
            "masks": any(isinstance(part.data, DetectionData) and part.data.has_masks for part in self._parts),
            "parts": [{"name": visible(part.name), "images": len(part.data)} for part in self._parts],
            "classes": [visible(name) for name in self.class_names],
            "model": visible(self.model_name) if any(part.judged for part in self._parts) else "",
            "kinds": kinds,
            "homeless": {"count": len(self.homeless), "told": told},
        }

    def chosen(self, wish: Wish) -> NDArray[np.int64]:
        """Return the numbers of the images that are wanted, in order.

        Raises:
            ConfigError: A word of the wish is unknown.
        """
        wanted = np.ones(len(self), bool)
        if wish.part:
            wanted = np.isin(np.arange(len(self)), self._numbers_of(wish.part))
        if wish.class_id is not None or wish.size:
            wanted &= self._holding(wish)
        if wish.fault:
            wanted &= np.isin(np.arange(len(self)), self._faulty(wish.fault))
        if wish.error:
            known = {ANY: slice(None), **{error: [column] for column, error in enumerate(ERRORS)}}
            _check("error", wish.error, known)
            wanted &= self._errors[:, known[wish.error]].any(1)
        numbers = np.flatnonzero(wanted)
        return numbers[self._ranks(wish.order, numbers)]

    def _numbers_of(self, name: str) -> NDArray[np.int64]:
        parts = {part.name: part for part in self._parts}
        _check("part", name, parts)
        return np.arange(parts[name].first, parts[name].first + len(parts[name].data))

    def _holding(self, wish: Wish) -> NDArray[np.bool_]:
        rows = np.ones(len(self._image), bool)
        if wish.class_id is not None:
            if not 0 <= wish.class_id < len(self.class_names):
                raise ConfigError(f"class {wish.class_id}; expected 0 to {len(self.class_names) - 1}")
            rows &= self._class == wish.class_id
        if wish.size:
            _check("size", wish.size, SIZES)
            least, most = SIZES[wish.size]
            rows &= (self._area >= least) & (self._area < most)
        return np.bincount(self._image[rows], minlength=len(self)) > 0

    def _faulty(self, kind: str) -> NDArray[np.int64]:
        if kind == ANY:
            return np.array(list(self._faults), np.int64)
        if not kind.isdecimal() or len(kind) > 9 or int(kind) >= len(self.kinds):
            raise ConfigError(f"fault {kind!r}; expected {ANY} or a number below {len(self.kinds)}")
        return self._of_kind[int(kind)]

    def _ranks(self, order: str, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        _check("order", order, ORDERS)
        if order == "worst":  # of equally many errors those the model is surest of
            return np.lexsort((-self._doubt[numbers], -self._errors[numbers].sum(1)))
        counts = {"data": np.zeros(len(self)), "objects": self._objects}.get(order)
        if counts is None:
            counts = np.array([len(self._faults.get(number, ())) for number in range(len(self))])
        return np.argsort(-counts[numbers], kind="stable")

    def _at(self, number: int) -> tuple[_Part, int]:
        """Return the part of an image, and its position there.

        Raises:
            DataError: There is no such image.
        """
        for part in self._parts:
            if part.first <= number < part.first + len(part.data):
                return part, number - part.first
        raise DataError(f"image {number}; expected 0 to {len(self) - 1}")

    def file(self, number: int) -> Path | bytes:
        """Return the file of an image, or its content."""
        part, at = self._at(number)
        return part.data.images[at] if isinstance(part.data, ClassificationData) else part.data.images[at].path

    def _name(self, part: _Part, at: int) -> str:
        return str(part.data.names[at] if isinstance(part.data, ClassificationData) else part.data.images[at].path)

    def told(self, number: int) -> dict[str, Any]:
        """Return all that is known of an image, as JSON has it: a box is left, top, width, height, class, state, score.

        Raises:
            DataError: There is no such image.
        """
        part, at = self._at(number)
        judged = part.judged[at] if part.judged else None
        told = {
            "number": number,
            "name": visible(self._name(part, at)),
            "part": visible(part.name),
            "faults": [visible(f"line {f.line}: {f.text}" if f.line else f.text) for f in self._faults.get(number, ())],
            "errors": dict(zip(ERRORS, self._errors[number].tolist(), strict=True)) if judged else None,
        }
        if isinstance(part.data, ClassificationData):
            return told | self._label(part, at, judged)
        sample = part.data[at]
        states = judged.objects.tolist() if judged else ["crowd" if crowd else "" for crowd in sample.crowd]
        corners = sample.boxes_xyxy.astype(float)
        corners[:, 2:] -= corners[:, :2]
        found = _rows(judged.xywh, part.classes[judged.class_ids], judged.states, judged.scores) if judged else []
        return told | {
            "width": sample.image.width,
            "height": sample.image.height,
            "objects": len(corners),
            "boxes": _rows(corners, part.classes[sample.class_ids], states, np.ones(len(corners))),
            "found": found,
            "masks": [sample.masks is not None and bool(sample.masks.present.any()), bool(judged and judged.masks)],
        }

    def _label(self, part: _Part, at: int, judged: Judgement | None) -> dict[str, Any]:
        assert isinstance(part.data, ClassificationData)
        guesses = zip(part.classes[judged.class_ids].tolist(), judged.scores.tolist(), strict=True) if judged else ()
        return {"label": int(part.classes[part.data.labels[at]]), "guesses": [[i, round(p, 4)] for i, p in guesses]}

    def masks(self, number: int, *, found: bool) -> tuple[Sequence[tuple[int, Mask]], tuple[int, int]]:
        """Return the masks of an image's objects with their classes, and its height and width in pixels.

        Args:
            number: The image.
            found: Whether those that the model found are wanted.

        Raises:
            DataError: There is no such image, or none of its objects has a mask.
        """
        part, at = self._at(number)
        if isinstance(part.data, DetectionData):
            sample = part.data[at]
            judged = part.judged[at] if found and part.judged else None
            held: Iterable[Mask] = judged.masks if judged else () if found or sample.masks is None else sample.masks
            classes = part.classes[judged.class_ids if judged else sample.class_ids].tolist()
            masks = [(i, mask) for i, mask in zip(classes, held, strict=False) if mask is not None]
            if masks:
                return masks, (sample.image.height, sample.image.width)
        raise DataError(f"image {number} has no masks; expected some")


def _judged(model: Any, name: str, data: Dataset, progress: bool) -> Iterator[Judgement]:
    finds_boxes = hasattr(model, "detect")
    if finds_boxes != isinstance(data, DetectionData):
        held = "boxes" if isinstance(data, DetectionData) else "labels without boxes"
        raise ConfigError(f"{data.path} holds {held}, which {name or 'the model'} does not find; expected its task")
    if isinstance(data, DetectionData):
        return judged_detections(model, data, progress=progress)
    return judged_classes(model, data, progress=progress)


def _check(what: str, word: str, known: Iterable[str]) -> None:
    if word not in known:
        raise ConfigError(f"{what} {word!r} is unknown; {one_of(word, known)}")


def _rows(xywh: NDArray, classes: NDArray, states: Iterable[str], scores: NDArray) -> list[list[Any]]:
    rows = zip(xywh[:MOST_BOXES].round(2).tolist(), classes.tolist(), states, scores.round(4).tolist(), strict=False)
    return [[*box, class_id, str(state), score] for box, class_id, state, score in rows]


def _places(data: Dataset) -> dict[Any, int | None]:
    """Return positions of images by path, and by folder and stem or stem alone where these tell one image."""
    places: dict[Any, int | None] = {}
    for position, image in enumerate(data.images):
        path = image if isinstance(image, Path) else getattr(image, "path", None)
        if path is not None:
            for key in ((path.parent.name, path.stem), path.stem):
                places[key] = position if key not in places else None
            places.setdefault(path, position)
    return places


def _place(file: Path, places: dict[Any, int | None], first: int) -> int | None:
    """Return the number of the image that a fault's file is, or is the label file of; None if it is neither."""
    for key in (file, (file.parent.name, file.stem), file.stem):
        if (found := places.get(key)) is not None:
            return first + found
    return None
