"""YOLO detectors on CSP backbones: a table of compositions, and the function that builds a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crossstage.backbones import DARKNETS, BackboneConfig, build_backbone
from crossstage.detectors.base import OneStageDetector
from crossstage.heads import AnchorLevel, YoloHead
from crossstage.inference.model import Preprocessing
from crossstage.necks import TinyFPN


@dataclass(frozen=True)
class YoloConfig:
    """One detector.

    Attributes:
        backbone: A row of the backbones' table.
        out_indices: The stages whose maps the neck reads.
        neck_channels: Channels of the neck's maps, shallow to deep.
        levels: Anchors of each map, shallow to deep.
        size: Side of the square input it was published with, in pixels.
    """

    backbone: BackboneConfig
    out_indices: tuple[int, ...]
    neck_channels: tuple[int, ...]
    levels: tuple[AnchorLevel, ...]
    size: int


YOLOS: dict[str, YoloConfig] = {
    # YOLOv4-tiny. Its masks are 1,2,3 and 3,4,5 of six anchors: (10, 14) is never used and (81, 82) is used twice.
    "cspdarknet53_tiny_yolo": YoloConfig(
        backbone=DARKNETS["cspdarknet53_tiny"],
        out_indices=(2, 3),
        neck_channels=(256, 512),
        levels=(
            AnchorLevel(16, ((23, 27), (37, 58), (81, 82)), scale_x_y=1.05),
            AnchorLevel(32, ((81, 82), (135, 169), (344, 319)), scale_x_y=1.05),
        ),
        size=416,
    ),
}


def build_yolo(
    config: YoloConfig, class_names: Sequence[str], *, preprocessing: Preprocessing | None = None
) -> OneStageDetector:
    """Build a detector.

    Args:
        config: A row of ``YOLOS``, or a changed copy of one.
        class_names: Names by class id.
        preprocessing: How pictures become input; the default stretches them to the published size.

    Raises:
        ConfigError: A value of the row does not fit the others.
    """
    backbone = build_backbone(config.backbone, out_indices=config.out_indices)
    neck = TinyFPN(backbone.channels, backbone.strides, config.neck_channels, style=config.backbone.style)
    return OneStageDetector(
        backbone,
        neck,
        YoloHead(neck.channels, neck.strides, config.levels, len(class_names)),
        class_names=class_names,
        preprocessing=preprocessing or Preprocessing((config.size, config.size)),
    )
