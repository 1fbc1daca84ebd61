"""DAMO-YOLO's small networks (arXiv 2211.15444, and its release), of which the paper's larger ones are others."""

from __future__ import annotations

from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads.zero import ZeroConfig
from crossstage.models.necks.giraffe import GiraffeConfig
from crossstage.structures import Preprocessing

DETECTORS: dict[str, DetectorConfig] = {
    f"damo_yolo_{size}": DetectorConfig(
        About(f"DAMO-YOLO-{size.capitalize()}", "DAMO-YOLO, arXiv 2211.15444, and its release", classes=80),
        BACKBONES[f"tinynas_{size}"],
        GiraffeConfig(),
        ZeroConfig(),
        416,
        preprocessing=Preprocessing((416, 416), scale=255.0, resample="sharp"),
    )
    for size in ("ns", "nm", "nl")
}
