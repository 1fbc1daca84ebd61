"""Average precision at many thresholds of suppression, from one pass over a dataset."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from crossstage.data.records import DetectionData
from crossstage.evaluation.coco import coco_metrics
from crossstage.evaluation.detection import match_classes, pixels_of, results_of
from crossstage.files import write_text
from crossstage.inference.model import DetectionModel
from crossstage.inference.predictor import Predictor
from crossstage.ops.nms import NMS, NMSKind, for_evaluation

if TYPE_CHECKING:
    from rich.console import Console

KINDS: tuple[NMSKind, ...] = ("iou", "diou", "agnostic")
THRESHOLDS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)


@dataclass(frozen=True)
class SweepRow:
    """The scores of one kind of suppression at one threshold, from 0 to 1; None if there is nothing to score on.

    Attributes:
        suppression: The kind of suppression, see :class:`~crossstage.ops.nms.NMS`.
        iou: The overlap above which the weaker of two boxes goes, from 0 to 1.
        ap: Average precision over IoU .50:.95.
        ap50: Average precision at IoU .50.
        ap75: Average precision at IoU .75.
    """

    suppression: NMSKind
    iou: float
    ap: float | None
    ap50: float | None
    ap75: float | None


@torch.inference_mode()
def nms_sweep(
    model: DetectionModel,
    dataset: DetectionData,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    imgsz: int | tuple[int, int] | None = None,
    nms: NMS | None = None,
    progress: bool = False,
) -> list[SweepRow]:
    """Score a detector at every threshold of every kind of suppression (the CSPNet authors' study: 0.45 to 0.60).

    Args:
        model: Any detector; its classes are matched to the dataset's by name.
        dataset: The images and the boxes that are to be found in them.
        thresholds: Overlaps from 0 to 1 above which the weaker of two boxes goes.
        imgsz: Side of the input in pixels, or its height and width; None takes the size the model was trained at.
        nms: Which candidates there are and how many detections are kept, None for nearly all; its kind and threshold
            are varied.
        progress: Whether a progress bar is shown on stderr.

    Raises:
        DataError: No class of the model is in the dataset, or an image cannot be read.
        ConfigError: An option is out of range.
    """
    from rich.console import Console
    from rich.progress import track

    category_of = match_classes(model.class_names, dataset.categories)
    known = replace(nms or for_evaluation(model.nms), class_ids=tuple(category_of))
    ways: dict[tuple[NMSKind, float], Predictor] = {
        (kind, threshold): Predictor(model, replace(known, kind=kind, iou=threshold), imgsz=imgsz)
        for kind in KINDS
        for threshold in thresholds
    }
    results = {way: [] for way in ways}
    first = next(iter(ways.values()))
    for image in track(dataset.images, "val", console=Console(stderr=True), transient=True, disable=not progress):
        raw, placement = first.forward(pixels_of(image, dataset))
        for way, predictor in ways.items():
            results[way] += results_of(predictor.select(raw, placement), placement, image.id, category_of)
    rows = []
    for kind, threshold in ways:
        report = coco_metrics(results[kind, threshold], dataset)
        rows.append(SweepRow(kind, threshold, report.ap, report.ap50, report.ap75))
    return rows


def save_sweep(rows: Sequence[SweepRow], path: Path) -> None:
    """Write a sweep as JSON.

    Args:
        rows: The rows of the sweep.
        path: The file to write.

    Raises:
        DataError: The file cannot be written.
    """
    write_text(path, json.dumps([asdict(row) for row in rows], indent=2) + "\n")


def print_sweep(rows: Sequence[SweepRow], console: Console) -> None:
    """Print a sweep as a table, a line for each threshold, metrics in percent, the best AP in bold."""
    from rich.table import Table
    from rich.text import Text

    table = Table("IoU", box=None, pad_edge=False)
    for kind in dict.fromkeys(row.suppression for row in rows):
        table.add_column(f"{kind}: AP AP50 AP75", justify="right", no_wrap=True)
    best = max((row.ap for row in rows if row.ap is not None), default=None)
    for threshold in dict.fromkeys(row.iou for row in rows):
        cells = []
        for row in (row for row in rows if row.iou == threshold):
            shown = "  ".join("–" if value is None else f"{100 * value:.1f}" for value in (row.ap, row.ap50, row.ap75))
            cells.append(Text(shown, "bold" if row.ap is not None and row.ap == best else ""))
        table.add_row(f"{threshold:.2f}", *cells)
    console.print(table)
