"""RTMDet (arXiv 2212.07784), as released."""

from __future__ import annotations

from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads.rtmdet import RTMDetConfig
from crossstage.models.necks.cspnext_pafpn import CSPNeXtPAFPNConfig
from crossstage.structures import Preprocessing

_PREPROCESSING = Preprocessing(
    (640, 640),
    "letterbox",
    colour_order="bgr",
    scale=255.0,
    mean=(103.53, 116.28, 123.675),
    std=(57.375, 57.12, 58.395),
    fill=114 / 255,
    align="top-left",
    resample="sharp",
)


def _row(size: str, neck_blocks: int, *, exp_distances: bool = False) -> DetectorConfig:
    return DetectorConfig(
        About(f"RTMDet-{size}", "RTMDet, arXiv 2212.07784, and its release", classes=80),
        BACKBONES[f"cspnext_{size}"],
        CSPNeXtPAFPNConfig(neck_blocks=neck_blocks),
        RTMDetConfig(exp_distances=exp_distances),
        640,
        preprocessing=_PREPROCESSING,
    )


DETECTORS: dict[str, DetectorConfig] = {
    "rtmdet_tiny": _row("tiny", 1),
    "rtmdet_s": _row("s", 1),
    "rtmdet_m": _row("m", 2),
    "rtmdet_l": _row("l", 3, exp_distances=True),
    "rtmdet_x": _row("x", 4, exp_distances=True),
}
