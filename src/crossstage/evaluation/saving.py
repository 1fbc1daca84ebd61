"""A measurement as a folder: the report, and the curves and matrices behind it as tables and images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossstage.data.records import ClassificationData, DetectionData
from crossstage.evaluation.classification import ClassesFound, ClassificationReport, sureness
from crossstage.evaluation.coverage import coverage_curve, plot_coverage, save_coverage
from crossstage.evaluation.detection import Measured
from crossstage.evaluation.plots import (
    confusion_title,
    detection_confusion,
    plot_confusion,
    plot_precision_recall,
    precision_recall,
    save,
)
from crossstage.evaluation.thresholds import plot_curves, save_curves

REPORT, CURVES, CURVES_PLOT = "report.json", "confidence.csv", "confidence.png"
CONFUSION, PRECISION_RECALL = "confusion.png", "pr_curve.png"


def save_measured(measured: Measured, dataset: DetectionData, folder: Path) -> list[str]:
    """Write a detector's measurement; return the names of the files.

    Args:
        measured: The measurement.
        dataset: What was measured on.
        folder: The folder; files of these names in it are replaced.

    Raises:
        DataError: A file cannot be written.
    """
    measured.report.save(folder / REPORT)
    save_curves(measured.curves, folder / CURVES)
    save(plot_curves(measured.curves), folder / CURVES_PLOT)
    save(plot_precision_recall(precision_recall(measured.found, dataset)), folder / PRECISION_RECALL)
    matrix = detection_confusion(measured.found, dataset)
    save(plot_confusion(matrix, [*dataset.class_names, "nothing"], confusion_title()), folder / CONFUSION)
    return [REPORT, CURVES, CURVES_PLOT, PRECISION_RECALL, CONFUSION]


def save_classified(
    report: ClassificationReport, found: ClassesFound, dataset: ClassificationData, folder: Path
) -> list[str]:
    """Write a classifier's measurement; return the names of the files.

    Args:
        report: The measurement.
        found: What was found in each image.
        dataset: What was measured on.
        folder: The folder; files of these names in it are replaced.

    Raises:
        DataError: A file cannot be written.
    """
    report.save(folder / REPORT)
    coverage, accuracy = coverage_curve(*sureness(found, dataset))
    save_coverage(coverage, accuracy, folder / CURVES)
    save(plot_coverage(coverage, accuracy, report.confidence), folder / CURVES_PLOT)
    save(plot_confusion(np.array(report.confusion), dataset.class_names), folder / CONFUSION)
    return [REPORT, CURVES, CURVES_PLOT, CONFUSION]
