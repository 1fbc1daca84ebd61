"""How good a model is: metrics, reports and plots."""

from crossstage.evaluation.classification import (
    ClassAccuracy,
    ClassificationReport,
    classification_report,
    evaluate_classifier,
    print_classification,
)
from crossstage.evaluation.coco import coco_metrics
from crossstage.evaluation.detection import (
    coco_result,
    coco_results,
    evaluate,
    match_classes,
    results_of,
    scores_masks,
)
from crossstage.evaluation.report import ClassScore, CocoReport, print_report
from crossstage.evaluation.sweep import SweepRow, nms_sweep, print_sweep

__all__ = [
    "ClassAccuracy",
    "ClassScore",
    "ClassificationReport",
    "CocoReport",
    "SweepRow",
    "classification_report",
    "coco_metrics",
    "coco_result",
    "coco_results",
    "evaluate",
    "evaluate_classifier",
    "match_classes",
    "nms_sweep",
    "print_classification",
    "print_report",
    "print_sweep",
    "results_of",
    "scores_masks",
]
