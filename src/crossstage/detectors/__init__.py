"""Detectors: backbone, neck and head composed, their decoding and post-processing."""

from crossstage.detectors.base import Detector, OneStageDetector
from crossstage.detectors.loss import YoloLoss, YoloLossConfig
from crossstage.detectors.postprocess import distance_iou, postprocess
from crossstage.detectors.yolo import YOLOS, YoloConfig, build_yolo

__all__ = [
    "YOLOS",
    "Detector",
    "OneStageDetector",
    "YoloConfig",
    "YoloLoss",
    "YoloLossConfig",
    "build_yolo",
    "distance_iou",
    "postprocess",
]
