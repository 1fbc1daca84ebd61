"""Detectors: backbone, neck and head composed, their decoding and post-processing."""

from crossstage.detectors.base import Detector, OneStageDetector
from crossstage.detectors.loss import YoloLoss, YoloLossConfig
from crossstage.detectors.postprocess import distance_iou, postprocess
from crossstage.detectors.table import DETECTORS, DetectorConfig, build_detector, compose

__all__ = [
    "DETECTORS",
    "Detector",
    "DetectorConfig",
    "OneStageDetector",
    "YoloLoss",
    "YoloLossConfig",
    "build_detector",
    "compose",
    "distance_iou",
    "postprocess",
]
