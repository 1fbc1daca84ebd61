"""Detectors with a YOLO head that were published: YOLOv3, YOLOv4 and those of CSPNet's tables 2 and 4.

Anchors, scales of centres and input sizes are those of the released cfgs where there is one (YOLOv3, YOLOv4 and
CSPNet's PANet). For the other detectors of CSPNet's tables none was published; they have YOLOv3's, of nine anchors for
three outputs, of six for two.
"""

from __future__ import annotations

from dataclasses import replace

from crossstage.models.backbones import BACKBONES, About, BackboneConfig
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads.yolo import ANCHORS_TINY, Pairs, YoloConfig, levels_of
from crossstage.models.necks import NECKS
from crossstage.models.necks.fpn import TinyFPNConfig
from crossstage.models.necks.prn import PRNConfig
from crossstage.ops.priors import AnchorLevel

ANCHORS_V4: Pairs = (
    *((12, 16), (19, 36), (40, 28)),
    *((36, 75), (76, 55), (72, 146)),
    *((142, 110), (192, 243), (459, 401)),
)
_YOLO = YoloConfig()
# Released tiny cfgs with masks 1,2,3 and 3,4,5: (10, 14) is never used and (81, 82) stands on both levels.
_TWO_SHARING = YoloConfig(levels=(AnchorLevel(16, ANCHORS_TINY[1:4]), AnchorLevel(32, ANCHORS_TINY[3:6])))


_YOLOV3 = "YOLOv3, arXiv 1804.02767, and its release"
_CSPNET = "CSPNet, arXiv 1911.11929, and its authors' release"
_TABLES = "CSPNet, arXiv 1911.11929, tables 2 and 4"
_PRN = "Partial Residual Networks, and their authors' release"


def _coco(summary: str, source: str, *, reconstruction: bool = False) -> About:
    return About(summary, source, reconstruction, classes=80)


def _paper(backbone: BackboneConfig, summary: str, neck: str, *, size: int = 416) -> DetectorConfig:
    """Return a detector of CSPNet's tables 2 and 4, of which sizes were published but no configuration."""
    row = NECKS[neck]
    exact = not backbone.about.reconstruction and neck in ("prn", "prn3l", "tiny_fpn")
    about = _coco(f"{backbone.about.summary} with {summary}", _TABLES, reconstruction=not exact)
    return DetectorConfig(about, backbone, row, _YOLO, size)


def _panet(backbone: str) -> DetectorConfig:
    row = BACKBONES[backbone]
    about = _coco(f"{row.about.summary} with PANet and SPP", _CSPNET)
    return DetectorConfig(about, row, NECKS["panet_spp"], _YOLO)


_PELEENET, _CSPPELEENET = BACKBONES["peleenet"], BACKBONES["csppeleenet"]
_CSPPELEENET_REF, _CSPDENSENETB_REF = BACKBONES["csppeleenet_ref"], BACKBONES["cspdensenetb_ref"]
# The layers that table 4's detectors want, see backbones/reference.py; table 3's classifier has others.
_CSPDENSENET_REF = replace(BACKBONES["cspdensenet_ref"], depths=(2, 4, 6), growth=(16, 24, 32))
_REFERENCE = BACKBONES["darknet_reference"]

DETECTORS: dict[str, DetectorConfig] = {
    "cspdarknet53_tiny_yolo": DetectorConfig(
        _coco("YOLOv4-tiny", "yolov4-tiny.cfg, A. Bochkovskiy and C.-Y. Wang"),
        BACKBONES["cspdarknet53_tiny"],
        TinyFPNConfig(),
        YoloConfig(levels=tuple(replace(level, scale_x_y=1.05) for level in _TWO_SHARING.levels)),
    ),
    "yolov3": DetectorConfig(_coco("YOLOv3", _YOLOV3), BACKBONES["darknet53"], NECKS["yolo_fpn"], _YOLO),
    "yolov3_spp": DetectorConfig(
        _coco("YOLOv3-SPP", _YOLOV3), BACKBONES["darknet53"], NECKS["yolo_fpn_spp"], _YOLO, 608
    ),
    "yolov3_tiny": DetectorConfig(_coco("YOLOv3-tiny", _YOLOV3), _REFERENCE, TinyFPNConfig(entry=1024), _YOLO),
    "yolov3_tiny_prn": DetectorConfig(_coco("YOLOv3-tiny-PRN", _PRN), _REFERENCE, PRNConfig(entry=True), _TWO_SHARING),
    "yolov4": DetectorConfig(
        _coco("YOLOv4", "YOLOv4, arXiv 2004.10934, and its release"),
        replace(BACKBONES["cspdarknet53"], act="mish"),
        replace(NECKS["panet_spp"], neck_act="leaky"),
        YoloConfig(levels=levels_of((8, 16, 32), ANCHORS_V4, (1.2, 1.1, 1.05))),
        608,
    ),
    "cspresnext50_panet_spp": _panet("cspresnext50"),
    "cspresnet50_panet_spp": _panet("cspresnet50"),
    "cspdarknet53_panet_spp": _panet("cspdarknet53"),
    "peleenet_yolo": replace(
        _paper(_PELEENET, "YOLOv3-tiny's neck", "tiny_fpn"), neck=TinyFPNConfig(neck_channels=(128, 512))
    ),
    "peleenet_prn": _paper(_PELEENET, "PRN", "prn"),
    "csppeleenet_prn": _paper(_CSPPELEENET, "PRN", "prn"),
    "csppeleenet_prn3l": _paper(_CSPPELEENET, "PRN of three levels", "prn3l"),
    "csppeleenet_cem": _paper(_CSPPELEENET, "ThunderNet's CEM", "cem"),
    "csppeleenet_cem_sam": _paper(_CSPPELEENET, "ThunderNet's CEM and pointwise attention", "cem_sam"),
    "csppeleenet_gfm": _paper(_CSPPELEENET, "global fusion", "gfm"),
    "csppeleenet_efm": _paper(_CSPPELEENET, "exact fusion", "efm"),
    "csppeleenet_efm_sam": _paper(_CSPPELEENET, "exact fusion and pointwise attention", "efm_sam"),
    "csppeleenet_efm_spp": _paper(_CSPPELEENET, "exact fusion and SPP", "efm_spp"),
    "csppeleenet_ref_prn": _paper(_CSPPELEENET_REF, "PRN", "prn", size=320),
    "csppeleenet_ref_prn3l": _paper(_CSPPELEENET_REF, "PRN of three levels", "prn3l", size=320),
    "csppeleenet_ref_efm_sam": _paper(_CSPPELEENET_REF, "exact fusion and pointwise attention", "efm_sam", size=320),
    "cspdensenet_ref_prn": _paper(_CSPDENSENET_REF, "PRN", "prn", size=320),
    "cspdensenet_ref_efm_sam": _paper(_CSPDENSENET_REF, "exact fusion and pointwise attention", "efm_sam", size=320),
    "cspdensenetb_ref_prn": _paper(_CSPDENSENETB_REF, "PRN", "prn", size=320),
}
