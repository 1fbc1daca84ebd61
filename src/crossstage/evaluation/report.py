"""A detector's report: COCO's metrics, printed as tables and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class ClassScore:
    """Average precision of one class, from 0 to 1; None if the dataset has no box, or mask, of it.

    Attributes:
        name: The class's name as the dataset spells it.
        ap: Average precision over IoU .50:.95.
        ap50: Average precision at IoU .50.
        images: How many images have a box of the class, crowds not counted.
        boxes: How many boxes of the class there are, crowds not counted.
        mask_ap: Average precision of masks over IoU .50:.95; None where masks are not scored, too.
        mask_ap50: The same at IoU .50.
    """

    name: str
    ap: float | None
    ap50: float | None
    images: int
    boxes: int
    mask_ap: float | None = None
    mask_ap50: float | None = None


@dataclass(frozen=True)
class ClassThreshold:
    """The score from which on detections of a class are best kept; all None if no object of it was found.

    Attributes:
        name: The class's name; "all" for all objects together.
        threshold: Detections that score more than this have the largest F1, at IoU 0.5.
        precision: The share of these detections that are right, from 0 to 1.
        recall: The share of the objects that are found, from 0 to 1.
        f1: The harmonic mean of both.
    """

    name: str
    threshold: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Thresholds:
    """The thresholds that suit a detector on some data, see :mod:`crossstage.evaluation.thresholds`.

    Attributes:
        together: The one for all objects together, where one is to do for all classes.
        classes: One for each class, by class id.
    """

    together: ClassThreshold
    classes: tuple[ClassThreshold, ...]


@dataclass(frozen=True)
class CocoReport:
    """COCO's twelve metrics, from 0 to 1, those of each class, and the speed.

    AP is average precision over IoU .50:.95 with 100 detections an image, AR average recall over the same; a metric is
    None if there is no object to score on.

    Attributes:
        model: The name of the model.
        data: The annotation file, or the folder of the dataset.
        images: How many images were scored.
        detections: How many detections were scored.
        ap: AP of all objects.
        ap50: AP at IoU .50.
        ap75: AP at IoU .75.
        ap_small: AP of objects below 32 x 32 pixels.
        ap_medium: AP of objects from 32 x 32 to 96 x 96 pixels.
        ap_large: AP of larger objects.
        ar1: AR with 1 detection an image.
        ar10: AR with 10 detections an image.
        ar100: AR with 100 detections an image.
        ar_small: AR of objects below 32 x 32 pixels.
        ar_medium: AR of objects from 32 x 32 to 96 x 96 pixels.
        ar_large: AR of larger objects.
        classes: A row for each class, by class id.
        unknown_classes: Classes of the dataset that the model does not know; they count as missed.
        milliseconds: The median time of each stage for one image.
        masks: The same twelve metrics of masks, by their names; None where masks are not scored.
        confidence: The suggested thresholds; None where they were not worked out.
    """

    model: str
    data: str
    images: int
    detections: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    ar1: float | None
    ar10: float | None
    ar100: float | None
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    classes: tuple[ClassScore, ...]
    unknown_classes: tuple[str, ...]
    milliseconds: Mapping[str, float]
    masks: Mapping[str, float | None] | None = None
    confidence: Thresholds | None = None

    @staticmethod
    def metric_names() -> tuple[str, ...]:
        """Return the names of the twelve metrics, in COCO's order."""
        return tuple(name for name in CocoReport.__annotations__ if name.startswith(("ap", "ar")))

    def to_json(self) -> str:
        """Return the report as indented JSON; undefined numbers are null."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            DataError: The file cannot be written.
        """
        write_text(path, self.to_json() + "\n")


def print_report(report: CocoReport, console: Console, *, per_class: bool = True) -> None:
    """Print a report as tables, metrics in percent, undefined ones as a dash.

    Args:
        report: The report.
        console: The console to print to.
        per_class: Whether the table of the classes is printed, too; classes without a box are left out.
    """
    from rich.table import Table

    if per_class:
        console.print(_class_table(report))
        console.print()
    totals = Table(box=None, pad_edge=False)
    names = CocoReport.metric_names()
    rows: dict[str, Sequence[float | None]] = {"boxes": [getattr(report, name) for name in names]}
    if report.masks is not None:
        rows["masks"] = [report.masks[name] for name in names]
        totals.add_column("")
    for name in names:
        totals.add_column(_title(name), justify="right")
    for title, values in rows.items():
        totals.add_row(*([title] if report.masks is not None else []), *map(_percent, values))
    console.print(totals)
    if report.confidence and report.confidence.together.threshold is not None:
        best = report.confidence.together
        text = f"--conf {best.threshold:.2f} has the best F1: {best.f1:.2f}"
        shares = f"precision {_percent(best.precision)}, recall {_percent(best.recall)} at IoU .5"
        console.print(f"\n{text} ({shares})", highlight=False)
    if report.unknown_classes:
        missed = ", ".join(report.unknown_classes)
        console.print(f"not known to the model, counted as missed: {missed}", highlight=False, markup=False)
    stages = ", ".join(f"{name} {value:.1f}" for name, value in report.milliseconds.items())
    console.print(f"\n{report.images} images, {report.detections} detections", highlight=False)
    if stages:
        total = sum(report.milliseconds.values())
        console.print(f"median ms: {stages}; {1000 / total:.1f} images/s", highlight=False)


def _class_table(report: CocoReport) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("class", box=None, pad_edge=False)
    masks = report.masks is not None
    limits = report.confidence.classes if report.confidence else ()
    columns = ["images", "boxes", "AP", "AP50", *(("mask AP", "mask AP50") if masks else ())]
    for column in (*columns, *(("conf", "F1") if limits else ())):
        table.add_column(column, justify="right")
    for number, row in enumerate(report.classes):
        if row.boxes:
            figures = [row.ap, row.ap50] + ([row.mask_ap, row.mask_ap50] if masks else [])
            best = [_share(limits[number].threshold), _percent(limits[number].f1)] if limits else []
            table.add_row(Text(row.name), str(row.images), str(row.boxes), *map(_percent, figures), *best)
    return table


def _title(name: str) -> str:
    """Return the title of a metric's column, such as ``AP S`` for ``ap_small``."""
    metric, _, size = name.partition("_")
    return f"{metric.upper()} {size[:1].upper()}".strip()


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
