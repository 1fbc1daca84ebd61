"""What a model finds in the images of a dataset, and which of it is an error.

An error is an object that is missed, a detection of nothing, or an object that is found as another class, which counts
once. Detections that score more than 0.25 are judged, by the rule of :mod:`crossstage.evaluation.thresholds`: at IoU
0.5, first within each class; what is left of both sides is then matched whatever its class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossstage.data.records import ClassificationData, DetectionData
from crossstage.errors import DataError
from crossstage.evaluation.detection import match_classes, pixels_of, results_of, scores_masks
from crossstage.evaluation.thresholds import ON_CROWD, assigned
from crossstage.inference.classify import ClassPredictor
from crossstage.inference.images import load_image
from crossstage.inference.model import DetectionModel
from crossstage.inference.predictor import Predictor

SCORE = 0.25  # detections that score more are judged
RIGHT, FALSE, WRONG, IGNORED = "right", "false", "wrong", "ignored"
"""What a detection is: of an object, of nothing, of an object of another class, of a crowd."""
FOUND, MISSED, CROWD = "found", "missed", "crowd"
"""What becomes of an object, which may be WRONG as well."""
ERRORS = (MISSED, FALSE, WRONG)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a model finds in one image, ``n`` detections, beside its ``m`` objects.

    Attributes:
        class_ids: ``(n,)`` class ids of the dataset; of a classification the likeliest, best first, -1 for a class
            that the dataset lacks.
        scores: ``(n,)`` in [0, 1].
        xywh: ``(n, 4)`` left, top, width and height in pixels; ``(0, 4)`` of a classification.
        masks: Packed runs of each detection; empty if the model finds no masks.
        states: ``(n,)`` RIGHT, FALSE, WRONG or IGNORED; of a classification that of the likeliest class alone.
        objects: ``(m,)`` FOUND, MISSED, WRONG or CROWD; of a classification one of the first two.
        unread: Why the image was not looked at; empty if it was.
    """

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    xywh: NDArray[np.float64]
    masks: Sequence[str]
    states: NDArray[np.str_]
    objects: NDArray[np.str_]
    unread: str = ""

    def count(self, error: str) -> int:
        """Return how many errors of a kind, one of ERRORS, there are."""
        return int(((self.objects if error == MISSED else self.states) == error).sum())

    @property
    def errors(self) -> int:
        """How many errors of all kinds there are."""
        return sum(map(self.count, ERRORS))


def judge(
    xywh: NDArray[np.float64],
    class_ids: NDArray[np.int64],
    scores: NDArray[np.float64],
    objects: NDArray[np.float64],
    object_classes: NDArray[np.int64],
    crowd: NDArray[np.bool_],
) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Match the detections of one image to its objects.

    Args:
        xywh: ``(n, 4)`` left, top, width and height of the detections.
        class_ids: ``(n,)`` their classes.
        scores: ``(n,)`` their scores.
        objects: ``(m, 4)`` left, top, width and height of the objects.
        object_classes: ``(m,)`` their classes.
        crowd: ``(m,)`` which of them are crowds.

    Returns:
        What each detection and what each object is, see :class:`Judgement`.
    """
    order = np.argsort(-scores, kind="stable")
    states = np.full(len(order), FALSE, "U8")
    truth = np.where(crowd, CROWD, MISSED).astype("U8")
    for class_id in np.unique(class_ids):
        mine, own = order[class_ids[order] == class_id], np.flatnonzero(object_classes == class_id)
        taken = assigned(xywh[mine], objects[own], crowd[own])
        states[mine[taken >= 0]] = RIGHT
        truth[own[taken[taken >= 0]]] = FOUND
        states[mine[taken == ON_CROWD]] = IGNORED
    rest, free = order[states[order] == FALSE], np.flatnonzero(truth == MISSED)
    taken = assigned(xywh[rest], objects[free], np.zeros(len(free), bool))
    states[rest[taken >= 0]] = WRONG
    truth[free[taken[taken >= 0]]] = WRONG
    return states, truth


def judged_detections(model: DetectionModel, data: DetectionData, *, progress: bool = False) -> Iterator[Judgement]:
    """Run a detector over a dataset, and yield what it makes of each image, in order.

    Why an image cannot be read is in its judgement.

    Args:
        model: Any detector; its classes are matched to the dataset's by name.
        data: The images and their objects.
        progress: Whether a progress bar is shown on stderr.

    Raises:
        DataError: No class of the model is in the dataset.
    """
    category_of = match_classes(model.class_names, data.categories)
    predictor = Predictor(model, replace(model.nms, score=SCORE, class_ids=tuple(category_of)))
    class_of = {id_: number for number, id_ in enumerate(data.category_ids)}
    masks = scores_masks(model, data)
    for position, image in enumerate(_tracked(data.images, progress)):
        own = slice(data.boxes.starts[position], data.boxes.starts[position + 1])
        truth = data.boxes.xywh[own], data.boxes.class_ids[own], data.boxes.crowd[own]
        try:
            pixels = pixels_of(image, data)
        except DataError as error:
            yield _unread(str(error), len(truth[1]))
            continue
        found, placement, _ = predictor.detect(pixels)
        entries = results_of(found, placement, image.id, category_of, masks=masks)
        yield _of_entries(entries, [class_of[entry["category_id"]] for entry in entries], truth)


def _of_entries(entries: Sequence[dict[str, Any]], class_ids: Sequence[int], truth: tuple[Any, Any, Any]) -> Judgement:
    xywh = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    scores, classes = np.array([entry["score"] for entry in entries], np.float64), np.array(class_ids, np.int64)
    masks = [entry["segmentation"]["counts"] for entry in entries if "segmentation" in entry]
    return Judgement(classes, scores, xywh, masks, *judge(xywh, classes, scores, *truth))


def _unread(reason: str, objects: int) -> Judgement:
    none = np.zeros(0, "U8")
    crowds = np.full(objects, CROWD, "U8")  # neither found nor missed
    return Judgement(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)), (), none, crowds, reason)


def judged_classes(model: Any, data: ClassificationData, *, progress: bool = False) -> Iterator[Judgement]:
    """Run a classifier over a dataset, and yield what it makes of each image, as :func:`judged_detections` does.

    Args:
        model: Any classifier; its classes are matched to the dataset's by name, or by id if it has no names.
        data: The images and their labels.
        progress: Whether a progress bar is shown on stderr.

    Raises:
        DataError: No class of the model is in the dataset.
        ConfigError: The model has no preprocessing, as before training.
    """
    names = tuple(model.class_names or data.class_names)
    own = {index: data.class_names.index(name) for index, name in enumerate(names) if name in data.class_names}
    if not own:
        raise DataError(f"{data.path}: the model knows {', '.join(names[:8])}; expected a class of the dataset")
    predictor = ClassPredictor(model)
    for position, image in enumerate(_tracked(data.images, progress)):
        try:
            pixels = load_image(image)
        except DataError as error:
            yield _unread(str(error), 1)
            continue
        (found,) = predictor.classify_batch([pixels])
        classes = np.array([own.get(index, -1) for index in found.class_ids], np.int64)
        right = bool(classes[0] == data.labels[position])
        yield Judgement(
            classes,
            np.array(found.probabilities, np.float64),
            np.zeros((0, 4)),
            (),
            np.array([RIGHT if right else WRONG], "U8"),
            np.array([FOUND if right else WRONG], "U8"),
        )


def _tracked(images: Sequence[Any], progress: bool) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(images, "looking", console=Console(stderr=True), transient=True, disable=not progress)
