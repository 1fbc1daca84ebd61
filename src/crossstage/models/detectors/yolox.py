"""YOLOX (arXiv 2107.08430) in the sizes of its release."""

from __future__ import annotations

from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads.yolox import YoloxConfig
from crossstage.models.necks.csp_pafpn import CSPPAFPNConfig
from crossstage.structures import Preprocessing

_SOURCE = "YOLOX, arXiv 2107.08430, and its authors' release"


def preprocessing(size: int) -> Preprocessing:
    """Return how YOLOX takes its images: BGR bytes, to the upper left of a square that is padded with 114."""
    return Preprocessing(
        (size, size),
        "letterbox",
        colour_order="bgr",
        scale=255.0,
        fill=114 / 255,
        align="top-left",
        resample="sharp",
    )


def _row(size: str, side: int, width: int, blocks: int, *, depthwise: bool = False) -> DetectorConfig:
    return DetectorConfig(
        About(f"YOLOX-{size.capitalize() if len(size) > 1 else size}", _SOURCE, classes=80),
        BACKBONES[f"cspdarknet_x_{size}"],
        CSPPAFPNConfig(neck_blocks=blocks, neck_depthwise=depthwise),
        YoloxConfig(branch_width=width, head_depthwise=depthwise),
        side,
        preprocessing=preprocessing(side),
    )


DETECTORS: dict[str, DetectorConfig] = {
    "yolox_nano": _row("nano", 416, 64, 1, depthwise=True),
    "yolox_tiny": _row("tiny", 416, 96, 1),
    "yolox_s": _row("s", 640, 128, 1),
    "yolox_m": _row("m", 640, 192, 2),
    "yolox_l": _row("l", 640, 256, 3),
    "yolox_x": _row("x", 640, 320, 4),
}
