"""Metrics."""

from crossstage.evaluation.coco import coco_metrics, coco_result, coco_results, evaluate, match_classes
from crossstage.evaluation.report import ClassScore, CocoReport, print_report

__all__ = [
    "ClassScore",
    "CocoReport",
    "coco_metrics",
    "coco_result",
    "coco_results",
    "evaluate",
    "match_classes",
    "print_report",
]
