"""A detection report: to read, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True)
class ClassScore:
    """Average precision of one class, from 0 to 1; None if the dataset has no box of it.

    Attributes:
        name: As the dataset spells it.
        ap: Over IoU .50:.95.
        ap50: At IoU .50.
        images: Images with a box of the class.
        boxes: Boxes of the class, crowds not counted.
    """

    name: str
    ap: float | None
    ap50: float | None
    images: int
    boxes: int


@dataclass(frozen=True)
class CocoReport:
    """COCO's twelve numbers, each class's, and the speed.

    Attributes:
        model: Name of the model.
        data: The annotation file.
        images: Images scored.
        detections: Detections scored.
        ap: Average precision over IoU .50:.95, from 0 to 1, as all the following; None if there is nothing to score on.
        ap50: At IoU .50.
        ap75: At IoU .75.
        ap_small: Of objects below 32 x 32 pixels.
        ap_medium: Of objects from 32 x 32 to 96 x 96 pixels.
        ap_large: Of larger objects.
        ar1: Average recall with 1 detection in each image.
        ar10: With 10.
        ar100: With 100.
        ar_small: Of small objects, with 100.
        ar_medium: Of medium objects.
        ar_large: Of large objects.
        classes: By class, in order of the category ids.
        unknown_classes: Classes of the dataset that the model does not know; they count as missed.
        milliseconds: Median time of each stage for one image.
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

    @staticmethod
    def metric_names() -> tuple[str, ...]:
        """The twelve fields in COCO's order."""
        return tuple(name for name in CocoReport.__annotations__ if name.startswith(("ap", "ar")))

    def to_json(self) -> str:
        """The report as indented JSON; undefined numbers are null."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False, allow_nan=False)

    def save(self, path: Path) -> None:
        """Write :meth:`to_json` beside ``path``, then move it there.

        Raises:
            DataError: The file cannot be written.
        """
        write_text(path, self.to_json() + "\n")


def print_report(report: CocoReport, console: Console, *, per_class: bool = True) -> None:
    """Print a report as tables, metrics in percent, undefined ones as a dash.

    Args:
        report: What to print.
        console: Where to.
        per_class: Print the table of the classes, too; those without a box are left out.
    """
    from rich.table import Table

    if per_class:
        console.print(_class_table(report))
        console.print()
    totals = Table(box=None, pad_edge=False)
    names = CocoReport.metric_names()
    for name in names:
        totals.add_column(_title(name), justify="right")
    totals.add_row(*(_percent(getattr(report, name)) for name in names))
    console.print(totals)
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
    for column in ("images", "boxes", "AP", "AP50"):
        table.add_column(column, justify="right")
    for row in report.classes:
        if row.boxes:
            table.add_row(Text(row.name), str(row.images), str(row.boxes), _percent(row.ap), _percent(row.ap50))
    return table


def _title(name: str) -> str:
    """``ap_small`` as ``AP S``."""
    metric, _, size = name.partition("_")
    return f"{metric.upper()} {size[:1].upper()}".strip()


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
