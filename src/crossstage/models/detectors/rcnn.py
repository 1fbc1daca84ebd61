"""Faster R-CNN and Mask R-CNN on a feature pyramid (FPN, arXiv 1612.03144), with any backbone.

Maps of strides 4, 8, 16 and 32 are fused, and P6 is every second pixel of P5. The forms:

========================  ==============================================================================
``maskrcnn_{}_fpn``       as in torchvision and detectron2: two linear layers for boxes, no norms
``maskrcnn_{}_fpn_lite``  a pyramid of 128 channels (VoVNet's authors call it FPNLite)
``maskrcnn_{}_fpn_v2``    torchvision's second version: batch norms, two convolutions more for proposals, four for boxes
``maskrcnn_{}_fpn_gn``    group norms everywhere, to train without pretrained weights (VoVNet's table 5)
========================  ==============================================================================

Backbones have batch norm, which is torchvision's rule for those that start at random: frozen norms could not learn
what they normalise. Pretrained ones are frozen in the published trainings, for batches of two images on a device;
``norm="frozen"`` does so, and detectors with weights of torchvision or of VoVNet's authors come with it.
"""

from __future__ import annotations

from dataclasses import replace

from crossstage.models.detectors.base import Family
from crossstage.models.heads.rcnn import FasterRCNNConfig
from crossstage.models.heads.rcnn_masks import MaskRCNNConfig
from crossstage.models.necks.pyramid import PyramidFPNConfig
from crossstage.structures import Preprocessing

PREPROCESSING = Preprocessing((800, 1333), "shortest", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

_FASTER = Family(
    "{} with FPN and Faster R-CNN",
    "Faster R-CNN, arXiv 1506.01497, with FPN, 1612.03144",
    PyramidFPNConfig(),
    FasterRCNNConfig(),
    size=800,
    size_divisor=32,
    preprocessing=PREPROCESSING,
)
_MASK = replace(
    _FASTER,
    summary="{} with FPN and Mask R-CNN",
    source="Mask R-CNN, arXiv 1703.06870, with FPN, 1612.03144",
    head=MaskRCNNConfig(),
)


def _forms(name: str, family: Family, head: type[FasterRCNNConfig]) -> dict[str, Family]:
    about = family.summary
    return {
        f"{name}_{{}}_fpn": family,
        f"{name}_{{}}_fpn_lite": replace(
            family, summary=f"{about}, 128 channels", neck=PyramidFPNConfig(pyramid_channels=128)
        ),
        f"{name}_{{}}_fpn_v2": replace(
            family,
            summary=f"{about}, torchvision's second version",
            neck=PyramidFPNConfig(pyramid_norm="batch"),
            head=head(rpn_convs=2, box_convs=4, head_norm="batch"),
        ),
        f"{name}_{{}}_fpn_gn": replace(
            family,
            summary=f"{about}, group norms",
            neck=PyramidFPNConfig(pyramid_norm="group"),
            head=head(box_convs=4, head_norm="group"),
            settings={"norm": "group"},
        ),
    }


FAMILIES: dict[str, Family] = {
    **_forms("fasterrcnn", _FASTER, FasterRCNNConfig),
    **_forms("maskrcnn", _MASK, MaskRCNNConfig),
}
