"""Metrics."""

from crossstage.evaluation.classification import (
    ClassAccuracy,
    ClassificationReport,
    classification_report,
    evaluate_classifier,
    print_classification,
)
from crossstage.evaluation.coco import coco_metrics, coco_result, coco_results, evaluate, match_classes
from crossstage.evaluation.report import ClassScore, CocoReport, print_report

__all__ = [
    "ClassAccuracy",
    "ClassScore",
    "ClassificationReport",
    "CocoReport",
    "classification_report",
    "coco_metrics",
    "coco_result",
    "coco_results",
    "evaluate",
    "evaluate_classifier",
    "match_classes",
    "print_classification",
    "print_report",
]
