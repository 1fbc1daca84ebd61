"""CenterMask and CenterMask-Lite (arXiv 1911.06667) with VoVNetV2, and with any other backbone.

Sources: the paper and the configurations of its authors' detectron2 release (centermask2). Lite has half as wide a
pyramid, and two convolutions where CenterMask has four. Published rows take images as detectron2 does, and so the
authors' checkpoints; others as torchvision and timm do, whose classifiers backbones start from.
"""

from __future__ import annotations

from dataclasses import replace

from crossstage.models.backbones import BACKBONES
from crossstage.models.detectors.base import DetectorConfig, Family
from crossstage.models.detectors.fcos import IMAGENET
from crossstage.models.heads.centermask import CenterMaskConfig
from crossstage.models.necks.pyramid import PyramidFPNConfig
from crossstage.structures import Preprocessing

_SOURCE = "CenterMask, arXiv 1911.06667, and its authors' release"
_DETECTRON2 = Preprocessing((800, 1333), "shortest", mean=(103.53, 116.28, 123.675), colour_order="bgr", scale=255)
_LITE_SIZE = (600, 1000)
_NECK = PyramidFPNConfig(reads=(8, 16, 32), extra="convolve")

FAMILIES: dict[str, Family] = {
    "centermask_{}": Family(
        "{} with FPN and CenterMask",
        _SOURCE,
        _NECK,
        CenterMaskConfig(),
        size=800,
        size_divisor=32,
        preprocessing=IMAGENET,
    ),
    "centermask_lite_{}": Family(
        "{} with FPN and CenterMask-Lite",
        _SOURCE,
        replace(_NECK, pyramid_channels=128),
        CenterMaskConfig(tower_convs=2, mask_convs=2, iou_convs=2),
        size=600,
        size_divisor=32,
        preprocessing=replace(IMAGENET, size=_LITE_SIZE),
    ),
}


def _published(template: str, backbone: str) -> DetectorConfig:
    row = FAMILIES[template].of(BACKBONES[backbone])
    assert row.preprocessing is not None
    return replace(row, preprocessing=replace(_DETECTRON2, size=row.preprocessing.size))


DETECTORS: dict[str, DetectorConfig] = {
    template.format(backbone): _published(template, backbone)
    for template, backbones in (
        ("centermask_{}", ("vovnet39_v2", "vovnet57_v2", "vovnet99_v2")),
        ("centermask_lite_{}", ("vovnet19_slim_dw_v2", "vovnet19_slim_v2", "vovnet19_v2", "vovnet39_v2")),
    )
    for backbone in backbones
}
