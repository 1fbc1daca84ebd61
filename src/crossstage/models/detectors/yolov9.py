"""YOLOv9 (arXiv 2402.13616) as in its MIT release, MultimediaTechLab/YOLO: sizes t, s, m and c.

``yolov9_t`` has 2,442,624 parameters, and 2,407,616 once fused; the release counts 48 numbers of bins besides. The
branch that helps in training has 1,275,024 more, and is no part of what is loaded, fused or exported.
"""

from __future__ import annotations

from crossstage.models.auxiliary import AuxiliaryConfig, CompositeConfig, TopDownConfig
from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads.yolov9 import YoloV9Config
from crossstage.models.necks.gelan import GelanPanConfig
from crossstage.structures import Preprocessing

_SIZE = 640
_GREY = 114 / 255
_PREPROCESSING = Preprocessing((_SIZE, _SIZE), "letterbox", fill=_GREY, resample="smooth")


def _row(size: str, neck: GelanPanConfig, auxiliary: AuxiliaryConfig) -> DetectorConfig:
    about = About(f"YOLOv9-{size}", "YOLOv9, arXiv 2402.13616, as in MultimediaTechLab/YOLO", classes=80)
    return DetectorConfig(
        about,
        BACKBONES[f"gelan_{size}"],
        neck,
        YoloV9Config(),
        _SIZE,
        preprocessing=_PREPROCESSING,
        auxiliary=auxiliary,
    )


DETECTORS: dict[str, DetectorConfig] = {
    "yolov9_t": _row("t", GelanPanConfig(), TopDownConfig()),
    "yolov9_s": _row("s", GelanPanConfig(), TopDownConfig()),
    "yolov9_m": _row("m", GelanPanConfig(pan_depth=1), CompositeConfig()),
    "yolov9_c": _row("c", GelanPanConfig(pan_depth=1, pan_sampling="adown"), CompositeConfig()),
}
