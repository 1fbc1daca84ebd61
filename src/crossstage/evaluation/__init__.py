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
    Measured,
    coco_result,
    coco_results,
    evaluate,
    match_classes,
    measure,
    results_of,
    save_found,
    scores_masks,
)
from crossstage.evaluation.report import ClassScore, ClassThreshold, CocoReport, Thresholds, print_report
from crossstage.evaluation.sweep import SweepRow, nms_sweep, print_sweep
from crossstage.evaluation.thresholds import ConfidenceCurve, confidence_curves, thresholds_of

__all__ = [
    "ClassAccuracy",
    "ClassScore",
    "ClassThreshold",
    "ClassificationReport",
    "CocoReport",
    "ConfidenceCurve",
    "Measured",
    "SweepRow",
    "Thresholds",
    "classification_report",
    "coco_metrics",
    "coco_result",
    "coco_results",
    "confidence_curves",
    "evaluate",
    "evaluate_classifier",
    "match_classes",
    "measure",
    "nms_sweep",
    "print_classification",
    "print_report",
    "print_sweep",
    "results_of",
    "save_found",
    "scores_masks",
    "thresholds_of",
]
