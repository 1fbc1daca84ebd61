"""How good a classifier is: its accuracy, and which classes it confuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crossstage.data.records import ClassificationData
from crossstage.errors import DataError
from crossstage.evaluation.coverage import Coverage, coverages
from crossstage.files import write_text
from crossstage.inference.classify import ClassPredictor
from crossstage.inference.images import load_image
from crossstage.inference.model import ClassificationModel

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ClassAccuracy:
    """How well one class is recognised.

    Attributes:
        name: The class's name.
        images: How many images are of the class.
        recall: The share of these images that were recognised, from 0 to 1; None if there is no such image.
        precision: The share of images of the class among those taken for it, from 0 to 1; None if none was.
    """

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class ClassificationReport:
    """A classifier's results.

    Attributes:
        model: The name of the model.
        data: The file or folder of the dataset.
        images: How many images were scored.
        top1: The share of images whose likeliest class is right, from 0 to 1.
        top5: The share of images whose five likeliest classes have the right one among them, from 0 to 1.
        classes: A row for each class, by class id.
        confusion: Counts of images by true class (rows) and likeliest class (columns).
        confidence: How sure the classifier has to be for some accuracies.
    """

    model: str
    data: str
    images: int
    top1: float
    top5: float
    classes: tuple[ClassAccuracy, ...]
    confusion: tuple[tuple[int, ...], ...]
    confidence: tuple[Coverage, ...] = ()

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)

    def save(self, path: Path) -> None:
        """Write the report as JSON.

        Raises:
            DataError: The file cannot be written.
        """
        write_text(path, self.to_json() + "\n")


ClassesFound = Sequence[tuple[Sequence[int], Sequence[float]]]
"""For each image, in order, the dataset's ids of the likeliest classes, best first, and their probabilities."""


def evaluate_classifier(
    model: ClassificationModel,
    dataset: ClassificationData,
    *,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    progress: bool = False,
    model_name: str = "",
) -> ClassificationReport:
    """Run a classifier over a dataset and score it.

    Args:
        model: Any classifier; its classes are matched to the dataset's by name, or by id if it has no names.
        dataset: The images and their labels.
        imgsz: Side of the input in pixels, or its height and width; None takes the size the model was trained at.
        batch: How many images share a forward pass.
        progress: Whether a progress bar is shown on stderr.
        model_name: The model's name in the report.

    Raises:
        DataError: A class of the dataset is unknown to the model, or an image cannot be read.
        ConfigError: The model has no preprocessing, as before training.
    """
    how = {"progress": progress, "model_name": model_name}
    return measure_classifier(model, dataset, imgsz=imgsz, batch=batch, **how)[0]


def measure_classifier(
    model: ClassificationModel,
    dataset: ClassificationData,
    *,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    progress: bool = False,
    model_name: str = "",
) -> tuple[ClassificationReport, ClassesFound]:
    """Do what :func:`evaluate_classifier` does, with the same arguments, and return what was found as well."""
    from rich.console import Console
    from rich.progress import track

    names = model.class_names or dataset.class_names
    if unknown := [name for name in dataset.class_names if name not in names]:
        raise DataError(f"{dataset.path}: the model does not know {', '.join(unknown[:8])}; expected classes it has")
    predictor = ClassPredictor(model, imgsz=imgsz, batch=batch)
    own = {index: dataset.class_names.index(name) for index, name in enumerate(names) if name in dataset.class_names}
    found = []
    console = Console(stderr=True)
    images = iter(track(dataset.images, "val", console=console, transient=True, disable=not progress))
    while group := list(islice(images, batch)):
        for classified in predictor.classify_batch([load_image(image) for image in group]):
            known = [(own.get(i, -1), p) for i, p in zip(classified.class_ids, classified.probabilities, strict=True)]
            found.append(([i for i, _ in known], [p for _, p in known]))
    return classification_report(found, dataset, model_name=model_name), found


def print_classification(report: ClassificationReport, console: Console) -> None:
    """Print a report as tables, in percent.

    Args:
        report: The report.
        console: The console to print to.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table("class", box=None, pad_edge=False)
    for column in ("images", "recall", "precision"):
        table.add_column(column, justify="right")
    for row in report.classes:
        shares = ("–" if share is None else f"{100 * share:.1f}" for share in (row.recall, row.precision))
        table.add_row(Text(row.name), str(row.images), *shares)
    console.print(table)
    console.print(
        f"\ntop-1 {100 * report.top1:.2f}  top-5 {100 * report.top5:.2f}  of {report.images} images",
        highlight=False,
    )
    for each in report.confidence:
        if each.threshold:
            kept = f"{100 * each.coverage:.1f}% of the images"
            console.print(
                f"{100 * each.wanted:g}% are right where it is more than {each.threshold:.3f} sure: {kept}",
                highlight=False,
            )


def sureness(found: ClassesFound, dataset: ClassificationData) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the probability of each image's likeliest class, and whether that is right."""
    likeliest = np.array([probabilities[0] for _, probabilities in found], np.float64)
    return likeliest, np.array([ids[0] for ids, _ in found]) == np.asarray(dataset.labels)


def classification_report(
    found: ClassesFound, dataset: ClassificationData, *, model_name: str = ""
) -> ClassificationReport:
    """Score what a classifier found.

    Args:
        found: For each image, in order, the likeliest class ids, best first, and their probabilities.
        dataset: The images and their labels.
        model_name: The model's name in the report.
    """
    count = len(dataset.class_names)
    labels = np.asarray(dataset.labels)
    best = np.array([ids[0] for ids, _ in found])
    confusion = np.zeros((count, count), np.int64)
    known = best >= 0  # a class that the dataset lacks has no column
    np.add.at(confusion, (labels[known], best[known]), 1)
    right, true, taken = confusion.diagonal(), np.bincount(labels, minlength=count), confusion.sum(0)
    classes = tuple(
        ClassAccuracy(
            name,
            int(true[index]),
            float(right[index] / true[index]) if true[index] else None,
            float(right[index] / taken[index]) if taken[index] else None,
        )
        for index, name in enumerate(dataset.class_names)
    )
    top5 = np.mean([label in ids[:5] for label, (ids, _) in zip(labels.tolist(), found, strict=True)])
    return ClassificationReport(
        model=model_name,
        data=str(dataset.path),
        images=len(labels),
        top1=float(right.sum() / len(labels)),
        top5=float(top5),
        classes=classes,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        confidence=coverages(*sureness(found, dataset)),
    )
