"""Plots that show how good a model is. Each function returns a figure, which :func:`save` writes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossstage.data.class_names import as_label, distinct
from crossstage.data.records import DetectionData
from crossstage.evaluation.coco import run_coco
from crossstage.files import whole_file
from crossstage.ops import rle

if TYPE_CHECKING:
    import supervision as sv
    from matplotlib.figure import Figure

CONFIDENCE = 0.25  # of the detections in a confusion matrix
OVERLAP = 0.5
LISTED_CLASSES = 12  # a longer legend hides the curves
NUMBERED_CLASSES = 30  # a larger matrix has no room for numbers


def precision_recall(results: Sequence[Mapping[str, Any]], dataset: DetectionData) -> dict[str, NDArray[np.float64]]:
    """Return the precision at the 101 recalls from 0 to 1, at IoU 0.5, by class; classes without a box are left out.

    Args:
        results: Detections in COCO's result format.
        dataset: The images and the boxes that are to be found in them.
    """
    precision = np.asarray(run_coco(results, dataset).eval["precision"])[0, :, :, 0, -1]
    names = distinct(dataset.class_names)
    return {name: precision[:, index] for index, name in enumerate(names) if precision[:, index].max() > -1}


def detection_confusion(results: Sequence[Mapping[str, Any]], dataset: DetectionData) -> NDArray[np.int64]:
    """Count objects by their class and by the class they were found as.

    Detections score at least 0.25 and belong to the object that they overlap most, by at least half.

    Args:
        results: Detections in COCO's result format.
        dataset: The images and the boxes that are to be found in them.

    Returns:
        ``(classes + 1, classes + 1)``: rows are true classes, columns found ones; the last of each stands for nothing:
        objects that were missed, and detections where nothing is.
    """
    import supervision as sv

    found: dict[int, list[Mapping[str, Any]]] = {image.id: [] for image in dataset.images}
    for entry in results:
        if entry["score"] >= CONFIDENCE:
            found[entry["image_id"]].append(entry)
    matrix = sv.ConfusionMatrix.from_detections(
        predictions=[as_detections(_boxes_alone(found[image.id]), dataset) for image in dataset.images],
        targets=_true_detections(dataset),
        classes=list(dataset.class_names),
        conf_threshold=0.0,
        iou_threshold=OVERLAP,
    )
    return np.asarray(matrix.matrix, np.int64)


def as_detections(entries: Sequence[Mapping[str, Any]], dataset: DetectionData) -> sv.Detections:
    """Return one image's detections for drawing, with their masks if all have some.

    Args:
        entries: Detections in COCO's result format, all of one image.
        dataset: The dataset, for its classes.
    """
    import supervision as sv

    index = {id_: number for number, id_ in enumerate(dataset.category_ids)}
    boxes = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = np.array([index[entry["category_id"]] for entry in entries], int)
    masks = [entry["segmentation"] for entry in entries if "segmentation" in entry]
    drawn = [rle.unpack(mask["counts"], tuple(mask["size"])) for mask in masks]
    return sv.Detections(
        boxes,
        mask=np.stack(drawn) if drawn and len(drawn) == len(entries) else None,
        confidence=np.array([entry["score"] for entry in entries], float),
        class_id=classes,
        data={"class_name": np.array(dataset.class_names)[classes]},
    )


def _boxes_alone(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key != "segmentation"} for entry in entries]


def _true_detections(dataset: DetectionData) -> list[sv.Detections]:
    """Return the boxes of each image, crowds left out."""
    import supervision as sv

    boxes = dataset.boxes
    corners = np.concatenate([boxes.xywh[:, :2], boxes.xywh[:, :2] + boxes.xywh[:, 2:]], axis=1)
    wanted = [np.arange(*bounds) for bounds in pairwise(boxes.starts)]
    wanted = [rows[~boxes.crowd[rows]] for rows in wanted]
    return [sv.Detections(corners[rows], class_id=boxes.class_ids[rows]) for rows in wanted]


def confusion_title() -> str:
    """Return what stands above a detector's confusion matrix: which detections are counted."""
    return f"objects by class: detections of at least {CONFIDENCE:g}, IoU {OVERLAP:g}"


def plot_precision_recall(curves: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Draw a line for each class, and a thick one for their mean.

    Args:
        curves: Precisions by class name, see :func:`precision_recall`.
    """
    figure, axes = figure_of(6.4, 4.8)
    recalls = np.linspace(0, 1, 101)
    for name, precision in list(curves.items())[:LISTED_CLASSES]:
        axes.plot(recalls, precision, linewidth=1, label=f"{as_label(name)} {precision.mean():.3f}")
    if curves:
        mean = np.mean(list(curves.values()), axis=0)
        axes.plot(recalls, mean, color="black", linewidth=2.5, label=f"mean {mean.mean():.3f}")
        axes.legend(fontsize="small", loc="lower left")
    axes.set(xlabel="recall", ylabel="precision", title="precision and recall at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    return figure


def plot_confusion(matrix: NDArray[np.int64], names: Sequence[str], title: str = "confusion of classes") -> Figure:
    """Draw the shares of each row as colours, and the counts as numbers.

    Args:
        matrix: Counts by true class (rows) and found class (columns).
        names: The classes' names.
        title: What stands above.
    """
    count = len(names)
    side = min(16.0, max(4.8, 0.45 * count + 2))
    figure, axes = figure_of(side + 1, side)
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    labels = [as_label(name) for name in names]
    axes.set_xticks(range(count), labels, rotation=90)
    axes.set_yticks(range(count), labels)
    axes.set(xlabel="taken for", ylabel="is", title=title)
    if count <= NUMBERED_CLASSES:
        for row, column in np.argwhere(matrix > 0):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize="small")
    return figure


def plot_history(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draw losses, scores and learning rate by epoch.

    Args:
        history: A row of figures for each epoch.
    """
    names = list(dict.fromkeys(name for row in history for name in row))
    rate = [name for name in names if name == "lr"]
    scores = [name for name in names if name.startswith(("AP", "top"))]
    losses = [name for name in names if name not in (*rate, *scores, "epoch", "images_per_second", "seconds")]
    figure, axes = figure_of(12, 3.6, columns=3)
    for place, title, chosen in zip(axes, ("loss", "score", "learning rate"), (losses, scores, rate), strict=True):
        for name in chosen:
            points = [(row["epoch"], row[name]) for row in history if name in row]
            place.plot(*zip(*points, strict=True), label=name, marker="." if len(points) < 30 else None)
        place.set(title=title, xlabel="epoch")
        if len(chosen) > 1:
            place.legend(fontsize="small")
        place.grid(alpha=0.3)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as its file's ending says.

    Args:
        figure: The figure.
        path: The file to write.

    Raises:
        DataError: The file cannot be written.
    """
    with whole_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # letters that the font lacks are boxes
        figure.savefig(temporary, dpi=120)


def figure_of(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """Return a figure of so many inches, and its axes, several if it has more than one column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)
