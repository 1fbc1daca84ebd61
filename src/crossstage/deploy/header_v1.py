"""Headers of crossstage 0.1.0, whose detectors all had a YOLO head and whose suppression had no settings but two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossstage.models.heads.base import HeadConfig
from crossstage.models.heads.yolo import YoloConfig
from crossstage.ops.nms import NMS
from crossstage.ops.priors import AnchorLevel

MAX_PER_CLASS = 300  # boxes that 0.1.0's suppression inside a graph kept of each class


def head_of_v1(content: Mapping[str, Any]) -> tuple[HeadConfig, tuple[int, ...], tuple[int, ...]] | None:
    """Return a head's settings, channels and strides; None where the outputs are not raw.

    The header does not hold the channels, and decoding does not need them: they are given as 1.

    Raises:
        ValueError, TypeError, KeyError: The levels are no such thing.
    """
    levels = tuple(_level(level) for level in content["levels"])
    if not levels:
        return None
    return YoloConfig(levels=levels), (1,) * len(levels), tuple(level.stride for level in levels)


def _level(content: Mapping[str, Any]) -> AnchorLevel:
    anchors = tuple((float(width), float(height)) for width, height in content["anchors"])
    return AnchorLevel(max(1, int(content["stride"])), anchors, float(content["scale_x_y"]))


def nms_of_v1(content: Mapping[str, Any]) -> NMS | None:
    """Return the suppression inside the graph, None if there is none.

    Raises:
        ConfigError, KeyError: The thresholds are out of range or missing.
    """
    if content["score_threshold"] is None:
        return None
    return NMS(content["score_threshold"], content["iou_threshold"], max_detections=MAX_PER_CLASS)
