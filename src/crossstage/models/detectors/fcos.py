"""FCOS (arXiv 1904.01355, improved in 2006.09214) on a feature pyramid, with any backbone.

Maps of strides 8, 16 and 32 are fused, and P6 and P7 are made of P5. ``fcos_resnet50_torchvision_fpn`` takes the
weights of torchvision's ``fcos_resnet50_fpn``, which differs in some settings of the head, see
:mod:`crossstage.models.heads.fcos`.
"""

from __future__ import annotations

from crossstage.models.detectors.base import Family
from crossstage.models.heads.fcos import FcosConfig
from crossstage.models.necks import NECKS
from crossstage.structures import Preprocessing

IMAGENET = Preprocessing((800, 1333), "shortest", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

FAMILIES: dict[str, Family] = {
    "fcos_{}_fpn": Family(
        "{} with FPN and FCOS",
        "FCOS, arXiv 1904.01355 and 2006.09214",
        NECKS["retina_fpn"],
        FcosConfig(),
        size=800,
        size_divisor=32,
        preprocessing=IMAGENET,
    )
}
