"""CenterNet (Objects as Points, arXiv 1904.07850) with the ResNets and DLA-34 of its release, and with any backbone."""

from __future__ import annotations

from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig, Family
from crossstage.models.heads.centernet import CenterNetConfig
from crossstage.models.necks import NECKS
from crossstage.structures import Preprocessing

_SOURCE = "Objects as Points, arXiv 1904.07850, and its authors' release"
_RESDCN = Family(
    "{} with CenterNet's deformable up-sampling and heat maps of centres",
    _SOURCE,
    NECKS["deform_deconv"],
    CenterNetConfig(),
    512,
    size_divisor=32,
    preprocessing=Preprocessing(
        (512, 512),
        "letterbox",
        mean=(0.40789654, 0.44719302, 0.47026115),
        std=(0.28863828, 0.27408164, 0.27809835),
        colour_order="bgr",
        fill=0.0,
    ),
)
_DLA = CenterNetConfig(branch_channels=256)

FAMILIES: dict[str, Family] = {"centernet_{}": _RESDCN}
DETECTORS: dict[str, DetectorConfig] = {
    "centernet_resnet18": _RESDCN.of(BACKBONES["resnet18_torchvision"]),
    "centernet_resnet101": _RESDCN.of(BACKBONES["resnet101_torchvision"]),
    "centernet_dla34": DetectorConfig(
        About("DLA-34 with CenterNet's deep aggregation and heat maps of centres", _SOURCE, classes=80),
        BACKBONES["dla34"],
        NECKS["deform_dla"],
        _DLA,
        512,
        32,
        _RESDCN.preprocessing,
    ),
}
