"""Inference: pictures in, detections out, with any model that meets :class:`DetectionModel`."""

from crossstage.inference.images import load_image
from crossstage.inference.model import Detected, DetectionModel, Preprocessing, Suppression
from crossstage.inference.predictor import Prediction, Predictor, StageTimes
from crossstage.inference.preprocess import Placement, prepare
from crossstage.inference.run import Summary, predict_to_files, print_summary
from crossstage.inference.sources import Picture, Source, Unreadable

__all__ = [
    "Detected",
    "DetectionModel",
    "Picture",
    "Placement",
    "Prediction",
    "Predictor",
    "Preprocessing",
    "Source",
    "StageTimes",
    "Summary",
    "Suppression",
    "Unreadable",
    "load_image",
    "predict_to_files",
    "prepare",
    "print_summary",
]
