"""RefineDet (arXiv 1711.06897) for 320 and 512 pixels, with VGG-16 and, as in VoVNet's table 4, with other networks.

``refinedet320_vgg16`` is the released form. The others follow VoVNet's authors' release; of DenseNet, the transitions'
convolutions belong to the maps that are read, as the published numbers of parameters say. All six of these are met to
the digit. Backbones are those that there are pretrained weights for; of the paper, ResNet strides in the first
convolution of a bottleneck and VoVNet pools after its stem: with ``stride_first=True`` and ``stem_stride="pool"`` the
published GFLOPs are met as well (multiply-adds), within 0.3%.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crossstage.models.backbones import BACKBONES, About, BackboneConfig
from crossstage.models.detectors.base import DetectorConfig, Family
from crossstage.models.heads.refinedet import RefineDetConfig
from crossstage.models.necks.ssd_extras import SSDExtrasConfig
from crossstage.structures import Preprocessing

_REFINEDET = "RefineDet, arXiv 1711.06897"
_TABLE_4 = "VoVNet, arXiv 1904.09730, table 4"
_NECK = SSDExtrasConfig(reads=(8, 16, 32), extras=((128, 512, 2),), extra_block="residual")
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def _family(size: int) -> Family:
    preprocessing = Preprocessing((size, size), resample="sharp", **_IMAGENET)
    summary = f"RefineDet{size} with {{}}"
    return Family(summary, _TABLE_4, _NECK, RefineDetConfig(), size, preprocessing=preprocessing)


FAMILIES = {f"refinedet{size}_{{}}": _family(size) for size in (320, 512)}


def _vgg(size: int) -> DetectorConfig:
    return DetectorConfig(
        About(f"RefineDet{size} with VGG-16", f"{_REFINEDET}, and its release", classes=20),
        BACKBONES["vgg16"],
        SSDExtrasConfig(reads=(8, 16, 32), extras=((256, 512, 2),), l2_scales=(10.0, 8.0)),
        RefineDetConfig(anchor_clip=True, transfer_norm="none", residual_width=None),
        size,
        preprocessing=Preprocessing((size, size), resample="sharp", scale=255.0, mean=(123.0, 117.0, 104.0)),
    )


def _with(size: int, backbone: BackboneConfig) -> DetectorConfig:
    return FAMILIES[f"refinedet{size}_{{}}"].of(backbone)


_TABLE: dict[str, BackboneConfig] = {
    "resnet50": BACKBONES["resnet50_torchvision"],
    "resnet101": BACKBONES["resnet101_torchvision"],
    "densenet161": replace(BACKBONES["densenet161"], compress_last=True),
    "densenet201": replace(BACKBONES["densenet201"], compress_last=True),
}

DETECTORS: dict[str, DetectorConfig] = {
    f"refinedet{size}_{name}": row
    for size in (320, 512)
    for name, row in (("vgg16", _vgg(size)), *((name, _with(size, backbone)) for name, backbone in _TABLE.items()))
}
