"""Heads: feature maps to raw predictions, and how to decode them."""

from crossstage.heads.classifier import Classifier
from crossstage.heads.yolo import AnchorLevel, YoloHead, decode_levels

__all__ = ["AnchorLevel", "Classifier", "YoloHead", "decode_levels"]
