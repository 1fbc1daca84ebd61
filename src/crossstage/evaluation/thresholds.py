"""From which score on detections are worth keeping: precision, recall and F1 by confidence, of each class.

Average precision integrates over all scores; who uses a detector takes one. A detection is right if it belongs to an
object of its class by COCO's rule at IoU 0.5: of an image, the best detection first, each takes the object that it
overlaps most and that is still free; one on a crowd is neither right nor wrong.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossstage.data.class_names import as_label
from crossstage.data.records import DetectionData
from crossstage.evaluation.plots import LISTED_CLASSES, figure_of
from crossstage.evaluation.report import ClassThreshold, Thresholds
from crossstage.files import whole_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVERLAP = 0.5
NO_OBJECT, ON_CROWD = -1, -2  # of a detection that takes no object
GRID = np.linspace(0, 1, 101)
"""The thresholds of a curve; detections that score more than one are kept."""

DIGITS = 4  # of a threshold, where these tell the scores on its sides apart


class Judged(NamedTuple):
    """The detections of a class, those on crowds left out, and how many objects there are.

    Attributes:
        scores: ``(n,)`` in [0, 1].
        right: ``(n,)`` whether each is an object's.
        objects: Objects of the class, crowds left out.
    """

    scores: NDArray[np.float64]
    right: NDArray[np.bool_]
    objects: int


@dataclass(frozen=True, eq=False)
class ConfidenceCurve:
    """Precision, recall and F1 of a class, or of all objects, at each threshold of :data:`GRID`.

    Attributes:
        best: The threshold with the largest F1.
        precision: ``(101,)`` share of the kept detections that are right; NaN where none is kept.
        recall: ``(101,)`` share of the objects that are found; NaN if there is none.
        f1: ``(101,)`` their harmonic mean: twice the right ones over objects and kept detections; NaN without objects.
    """

    best: ClassThreshold
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def confidence_curves(results: Sequence[Mapping[str, Any]], dataset: DetectionData) -> list[ConfidenceCurve]:
    """Return the curve of all objects together, and then that of each class, by class id.

    Args:
        results: Detections in COCO's result format, weak ones among them.
        dataset: The images and the boxes that are to be found in them.
    """
    judged = _judged(results, dataset)
    scores, right, objects = zip(*judged, strict=True)
    together = Judged(np.concatenate(scores), np.concatenate(right), sum(objects))
    return [curve_of(name, each) for name, each in zip(("all", *dataset.class_names), (together, *judged), strict=True)]


def thresholds_of(curves: Sequence[ConfidenceCurve]) -> Thresholds:
    """Return the suggested thresholds alone, see :func:`confidence_curves`."""
    return Thresholds(curves[0].best, tuple(curve.best for curve in curves[1:]))


def curve_of(name: str, judged: Judged) -> ConfidenceCurve:
    """Return the curve of some detections.

    Args:
        name: What they are called.
        judged: The detections.
    """
    order = np.argsort(-judged.scores, kind="stable")
    scores, found = judged.scores[order], np.cumsum(judged.right[order], dtype=np.int64)
    kept = np.searchsorted(-scores, -GRID, side="left")  # those that score more
    right = np.concatenate([[0], found])[kept]
    objects = np.float64(judged.objects)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall = right / kept.astype(float), right / objects
        f1 = 2 * right / (kept + objects) if judged.objects else np.full(len(GRID), np.nan)
    return ConfidenceCurve(_best(name, scores, found, judged.objects), precision, recall, f1)


def _best(name: str, scores: NDArray[np.float64], found: NDArray[np.int64], objects: int) -> ClassThreshold:
    """Return the threshold with the largest F1: it lies amid the last score that is kept and the first that is not."""
    last = np.flatnonzero(np.append(np.diff(scores) < 0, np.ones(min(1, len(scores)), bool)))  # of equal scores
    if not objects or not len(scores) or not found[-1]:
        return ClassThreshold(name, None, None, None, None)
    f1 = 2 * found[last] / (last + 1 + objects)
    chosen = int(f1.argmax())
    index = last[chosen]
    above, below = float(scores[index]), float(scores[index + 1]) if index + 1 < len(scores) else 0.0
    middle = (above + below) / 2
    rounded = round(middle, DIGITS)
    threshold = rounded if below <= rounded < above else middle
    right = int(found[index])
    return ClassThreshold(name, threshold, right / (int(index) + 1), right / objects, float(f1[chosen]))


def _judged(results: Sequence[Mapping[str, Any]], dataset: DetectionData) -> list[Judged]:
    """Return the detections of each class with what they are worth."""
    class_of = {id_: number for number, id_ in enumerate(dataset.category_ids)}
    position_of = {image.id: position for position, image in enumerate(dataset.images)}
    groups: dict[tuple[int, int], list[tuple[float, Sequence[float]]]] = defaultdict(list)
    for entry in results:
        if entry["category_id"] in class_of:
            key = class_of[entry["category_id"]], position_of[entry["image_id"]]
            groups[key].append((entry["score"], entry["bbox"]))
    found: list[list[tuple[NDArray[np.float64], NDArray[np.bool_]]]] = [[] for _ in dataset.class_names]
    for (class_id, position), entries in groups.items():
        entries.sort(key=lambda entry: -entry[0])
        rows = np.arange(dataset.boxes.starts[position], dataset.boxes.starts[position + 1])
        rows = rows[dataset.boxes.class_ids[rows] == class_id]
        boxes = np.array([box for _, box in entries], np.float64).reshape(-1, 4)
        worth = matched(boxes, dataset.boxes.xywh[rows], dataset.boxes.crowd[rows])
        counted = worth != 0
        found[class_id].append((np.array([score for score, _ in entries])[counted], worth[counted] > 0))
    none = [(np.zeros(0), np.zeros(0, bool))]
    joined = [[np.concatenate(column) for column in zip(*(parts or none), strict=True)] for parts in found]
    return [Judged(scores, right, int(count)) for (scores, right), count in zip(joined, dataset.counts, strict=True)]


def matched(boxes: NDArray[np.float64], objects: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Match the detections of one class in one image to its objects, by COCO's rule at IoU 0.5.

    Args:
        boxes: ``(n, 4)`` left, top, width and height of the detections, best first.
        objects: ``(m, 4)`` the same of the objects.
        crowd: ``(m,)`` which of them are crowds.

    Returns:
        ``(n,)``: 1 for a detection that is right, -1 for one that is wrong, 0 for one on a crowd, which counts for
        nothing.
    """
    taken = assigned(boxes, objects, crowd)
    return np.where(taken >= 0, 1, np.where(taken == ON_CROWD, 0, -1))


def assigned(boxes: NDArray[np.float64], objects: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Do what :func:`matched` does, with the same arguments, and return whose object each detection is.

    Returns:
        ``(n,)``: the position of the object that a detection takes, :data:`NO_OBJECT`, or :data:`ON_CROWD`.
    """
    taken = np.full(len(boxes), NO_OBJECT)
    if not len(objects):
        return taken
    overlaps = _overlaps(boxes, objects, crowd)
    free = ~crowd
    for number, row in enumerate(overlaps):
        wanted = np.where(free, row, -1.0)
        best = int(wanted.argmax())
        if wanted[best] >= OVERLAP:
            taken[number], free[best] = best, False
        elif (row[crowd] >= OVERLAP).any():
            taken[number] = ON_CROWD
    return taken


def _overlaps(boxes: NDArray[np.float64], objects: NDArray[np.float64], crowd: NDArray[np.bool_]) -> NDArray:
    """Return ``(n, m)`` IoU of boxes; with a crowd, the share of the detection that lies in it."""
    corners, others = (np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], 1) for b in (boxes, objects))
    low = np.maximum(corners[:, None, :2], others[None, :, :2])
    high = np.minimum(corners[:, None, 2:], others[None, :, 2:])
    common = (high - low).clip(0).prod(2)
    areas, wanted = boxes[:, 2:].prod(1)[:, None], objects[:, 2:].prod(1)[None]
    return common / np.maximum(np.where(crowd[None], areas, areas + wanted - common), 1e-12)


def save_curves(curves: Sequence[ConfidenceCurve], path: Path) -> None:
    """Write curves as a table, one line for each class and threshold; what is not defined is empty.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "conf", "precision", "recall", "F1"])
        for curve in curves:
            columns = (GRID, curve.precision, curve.recall, curve.f1)
            for values in zip(*columns, strict=True):
                writer.writerow([curve.best.name, *("" if np.isnan(each) else f"{each:.6g}" for each in values)])


def plot_curves(curves: Sequence[ConfidenceCurve]) -> Figure:
    """Draw precision, recall and F1 by confidence: a line for each class, and a thick one for all objects.

    Args:
        curves: See :func:`confidence_curves`.
    """
    figure, panels = figure_of(14, 4.4, columns=3)
    whole, *classes = curves
    shown = [curve for curve in classes if curve.best.threshold is not None][:LISTED_CLASSES]
    for axes, title in zip(panels, ("precision", "recall", "f1"), strict=True):
        for curve in shown:
            label = f"{as_label(curve.best.name)} {curve.best.threshold:.2f}"
            axes.plot(GRID, getattr(curve, title), linewidth=1, label=label)
        axes.plot(GRID, getattr(whole, title), color="black", linewidth=2.5, label="all")
        if whole.best.threshold is not None:
            axes.axvline(whole.best.threshold, color="grey", linewidth=1, linestyle="--")
        axes.set(xlabel="confidence", title=title.replace("f1", "F1"), xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    best = whole.best
    if best.threshold is not None:
        panels[2].set_title(f"F1, at best {best.f1:.3f} from {best.threshold:.2f} on")
    panels[2].legend(fontsize="small", title="class, and its threshold", loc="lower left")
    return figure
