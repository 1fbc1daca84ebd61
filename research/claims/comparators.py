"""Detectors of others that the papers compare with or are measured in: published cost and size, and ours.

Tables 2 and 4 of VoVNet (arXiv 1904.09730), the tables of its authors' detectron2 release and of CenterMask
(1911.06667), and the rows of table 4 of CSPNet (1911.11929) that :mod:`research.claims.detectors` leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import nn

from crossstage.analysis import count_flops
from crossstage.models.registry import find
from crossstage.weights.loading import create_model


@dataclass(frozen=True)
class Comparator:
    """A row of a table.

    Attributes:
        model: As the paper calls it.
        ours: Our detector.
        size: Height and width of the input in pixels that the cost is of.
        classes: Classes of the published detector.
        flops: Published billions of operations, in the paper's own unit; None if the table has none.
        parameters: Published millions of parameters; None if the table has none.
        figures: What else the table holds, by its column.
    """

    model: str
    ours: str
    size: tuple[int, int]
    classes: int = 80
    flops: float | None = None
    parameters: float | None = None
    figures: dict[str, str] = field(default_factory=dict)

    @property
    def reconstruction(self) -> bool:
        """Whether parts of the structure are ours."""
        return find(self.ours).reconstruction


@cache
def counted(name: str, size: tuple[int, int], classes: int) -> tuple[float, float]:
    """Multiply-adds in billions of the first stage, and all parameters in millions."""
    with torch.device("meta"):
        model = create_model(name, num_classes=classes).eval()
    assert isinstance(model, nn.Module)
    return count_flops(model, (1, 3, *size)) / 2e9, sum(p.numel() for p in model.parameters()) / 1e6


def _voc(model: str, ours: str, size: int, flops: float, parameters: float, fps: int, map50: float) -> Comparator:
    figures = {"fps, Titan X": str(fps), "mAP, VOC 2007": f"{map50}"}
    return Comparator(model, ours, (size, size), 20, flops, parameters, figures)


def _refinedet(backbone: str, ours: str, flops: float, parameters: float, fps: float, ap: float) -> Comparator:
    figures = {"fps, Titan X": str(fps), "AP, COCO": str(ap)}
    return Comparator(f"RefineDet320, {backbone}", f"refinedet320_{ours}", (320, 320), 80, flops, parameters, figures)


VOVNET_2 = (
    _voc("Pelee304", "pelee_ssd304", 304, 1.2, 5.4, 35, 70.9),
    _voc("DSOD300, DenseNet-67", "dsod300_densenet67", 300, 5.3, 5.9, 35, 73.6),
    _voc("DSOD300, VoVNet-27-slim", "dsod300_vovnet27_slim", 300, 5.6, 5.9, 71, 74.8),
)
VOVNET_4 = (
    _refinedet("ResNet-50", "resnet50", 25.43, 63.46, 23.2, 30.3),
    _refinedet("DenseNet-201", "densenet201", 24.65, 56.13, 12.0, 32.5),
    _refinedet("VoVNet-39", "vovnet39", 32.6, 56.28, 25.0, 33.5),
    _refinedet("ResNet-101", "resnet101", 33.02, 82.45, 17.5, 32.0),
    _refinedet("DenseNet-161", "densenet161", 32.74, 66.76, 12.8, 33.5),
    _refinedet("VoVNet-57", "vovnet57", 36.45, 70.32, 21.2, 33.9),
)


def _rcnn(backbone: str, ours: str, box: float, seconds: str) -> Comparator:
    figures = {"box AP": str(box), "s an image, V100": seconds}
    return Comparator(f"Faster R-CNN, {backbone}", ours, (800, 1088), figures=figures)


def _mask(
    family: str,
    backbone: str,
    ours: str,
    mask: float | None,
    box: float | None,
    seconds: str = "",
    parameters: float | None = None,
) -> Comparator:
    figures = {"mask AP": str(mask or ""), "box AP": str(box or ""), "s an image": seconds}
    size = (608, 832) if "lite" in ours else (800, 1088)
    return Comparator(f"{family}, {backbone}", ours, size, parameters=parameters, figures=figures)


DETECTRON2 = (
    _rcnn("V2-19 FPNLite", "fasterrcnn_vovnet19_v2_fpn_lite", 38.9, ".034"),
    _rcnn("V2-19-DW FPNLite", "fasterrcnn_vovnet19_dw_v2_fpn_lite", 36.7, ""),
    _rcnn("V2-19-Slim FPNLite", "fasterrcnn_vovnet19_slim_v2_fpn_lite", 35.2, ".023"),
    _rcnn("V2-19-Slim-DW FPNLite", "fasterrcnn_vovnet19_slim_dw_v2_fpn_lite", 32.4, ""),
    _rcnn("V2-19", "fasterrcnn_vovnet19_v2_fpn", 38.9, ""),
    _rcnn("R-50", "fasterrcnn_resnet50_torchvision_fpn", 40.2, ".047"),
    _rcnn("V2-39", "fasterrcnn_vovnet39_v2_fpn", 42.7, ".047"),
    _rcnn("V2-57", "fasterrcnn_vovnet57_v2_fpn", 43.3, ".054"),
    _rcnn("V2-99", "fasterrcnn_vovnet99_v2_fpn", 44.1, ".073"),
    _mask("Mask R-CNN", "V2-19", "maskrcnn_vovnet19_v2_fpn", 36.6, 40.1),
    _mask("Mask R-CNN", "V2-39", "maskrcnn_vovnet39_v2_fpn", 39.3, 43.8, ".052"),
    _mask("Mask R-CNN", "V2-57", "maskrcnn_vovnet57_v2_fpn", 39.7, 44.2, ".058"),
    _mask("Mask R-CNN", "V2-99", "maskrcnn_vovnet99_v2_fpn", 40.3, 44.9, ".076"),
    _mask("Mask R-CNN", "R-50", "maskrcnn_resnet50_torchvision_fpn", 37.2, 41.0, ".055"),
)
CENTERMASK = (
    _mask("CenterMask", "R-50", "centermask_resnet50_torchvision", None, None, "", 51.2),
    _mask("CenterMask", "V2-19", "centermask_vovnet19_v2", None, None, "", 37.6),
    _mask("CenterMask", "V2-39", "centermask_vovnet39_v2", 39.7, 44.2, ".050, V100", 52.6),
    _mask("CenterMask", "V2-57", "centermask_vovnet57_v2", 40.5, 45.1, ".058, V100", 68.9),
    _mask("CenterMask", "V2-99", "centermask_vovnet99_v2", 41.4, 46.0, ".077, V100", 96.9),
    _mask("CenterMask-Lite", "V-19", "centermask_lite_vovnet19_v2", 32.8, 35.9, ".023, Titan Xp"),
    _mask("CenterMask-Lite", "V-39", "centermask_lite_vovnet39_v2", 36.7, 40.9, ".028, Titan Xp"),
    _mask("CenterMask-Lite", "V-19-Slim", "centermask_lite_vovnet19_slim_v2", 29.8, 32.5, ".021, Titan Xp"),
)


def _cspnet(
    model: str, ours: str, size: int, fps: int, ap: float, flops: float | None = None, parameters: float | None = None
) -> Comparator:
    figures = {"fps, GTX 1080 Ti": str(fps), "AP, COCO": str(ap)}
    return Comparator(model, ours, (size, size), 80, flops, parameters, figures)


CSPNET_4 = (
    _cspnet("RefineDet, VGG16", "refinedet320_vgg16", 320, 40, 29.4),
    _cspnet("SSD, VGG16", "ssd300_vgg16", 300, 44, 25.7, 70.4, 34.3),
    _cspnet("CenterNet, R101", "centernet_resnet101", 512, 45, 34.6),
    _cspnet("Pelee (SSD)", "pelee_ssd304", 304, 106, 22.4, 2.58, 5.98),
    _cspnet("CenterNet, R18", "centernet_resnet18", 512, 129, 28.1),
    _cspnet("ThunderNet, SNet535", "thundernet_snet535", 320, 214, 28.0, 2.60),
    _cspnet("ThunderNet, SNet146", "thundernet_snet146", 320, 248, 23.6, 0.95),
    _cspnet("ThunderNet, SNet49", "thundernet_snet49", 320, 267, 19.1, 0.52),
)

TABLES: dict[str, Sequence[Comparator]] = {
    "VoVNet, table 2": VOVNET_2,
    "VoVNet, table 4": VOVNET_4,
    "VoVNetV2 in Faster and Mask R-CNN, its authors' release": DETECTRON2,
    "CenterMask": CENTERMASK,
    "CSPNet, table 4, detectors of others": CSPNET_4,
}
