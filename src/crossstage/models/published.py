"""Detectors as compositions of backbone, neck and head: the published ones as a table, any other by its parts' names.

Anchors, scales of centres and input sizes are those of the released cfgs where there is one (YOLOv3, YOLOv4 and
CSPNet's PANet). For the other detectors of CSPNet's tables none was published; they have YOLOv3's, of nine anchors for
three outputs, of six for two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from crossstage.models.backbones import BACKBONES, About, BackboneConfig, build_backbone
from crossstage.models.heads import HEADS, HeadConfig
from crossstage.models.heads.yolo import ANCHORS_TINY, Pairs, YoloConfig, levels_of
from crossstage.models.necks import NECKS, NeckConfig, build_neck
from crossstage.models.necks.fpn import TinyFPNConfig
from crossstage.models.necks.prn import PRNConfig
from crossstage.models.one_stage import OneStageDetector
from crossstage.ops.priors import AnchorLevel
from crossstage.structures import Preprocessing

ANCHORS_V4: Pairs = (
    *((12, 16), (19, 36), (40, 28)),
    *((36, 75), (76, 55), (72, 146)),
    *((142, 110), (192, 243), (459, 401)),
)
_YOLO = YoloConfig()
# Released tiny cfgs with masks 1,2,3 and 3,4,5: (10, 14) is never used and (81, 82) stands on both levels.
_TWO_SHARING = YoloConfig(levels=(AnchorLevel(16, ANCHORS_TINY[1:4]), AnchorLevel(32, ANCHORS_TINY[3:6])))


@dataclass(frozen=True)
class DetectorConfig:
    """A detector of one stage: a backbone, a neck and a head.

    Attributes:
        about: What the detector is, for people.
        backbone: A row of the backbones' table.
        neck: A row of the necks' table.
        head: A row of the heads' table.
        size: Side of the square input that its published figures refer to, in pixels.
        size_divisor: The number that the input's height and width must be multiples of; None takes the largest stride.
    """

    about: About = field(compare=False)
    backbone: BackboneConfig
    neck: NeckConfig
    head: HeadConfig
    size: int = 416
    size_divisor: int | None = None

    def build(self, class_names: Sequence[str], *, preprocessing: Preprocessing | None = None) -> OneStageDetector:
        """Build the detector.

        Args:
            class_names: Names by class id.
            preprocessing: How images become input; None stretches them to the published size.

        Raises:
            ConfigError: A value of the row does not fit the others.
        """
        backbone = build_backbone(self.backbone, strides=self.neck.reads)
        neck = build_neck(self.neck, backbone.channels, backbone.strides, style=self.backbone.style)
        return OneStageDetector(
            backbone,
            neck,
            self.head.for_strides(neck.strides).build(neck.channels, neck.strides, len(class_names)),
            class_names=class_names,
            preprocessing=preprocessing or Preprocessing((self.size, self.size)),
            size_divisor=self.size_divisor,
        )


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


def compose(name: str) -> DetectorConfig | None:
    """Return the row of a composed name, ``<backbone>_<neck>_<head>``; None if the name is no such thing.

    ``<backbone>_<neck>`` has the YOLO head, for which there are anchors for maps at strides 8, 16 and 32 or 16 and 32.
    """
    for head in sorted(HEADS, key=len, reverse=True):
        parts = name.removesuffix(f"_{head}")
        if parts != name and (found := _composed(parts, head)):
            return found
    return _composed(name, "yolo")


def _composed(name: str, head: str) -> DetectorConfig | None:
    for neck in sorted(NECKS, key=len, reverse=True):
        backbone = name.removesuffix(f"_{neck}")
        if backbone != name and backbone in BACKBONES:
            parts = f"the neck {neck!r}" + (f" and the head {head!r}" if head != "yolo" else "")
            about = _coco(f"{BACKBONES[backbone].about.summary} with {parts}", "a composition of parts")
            return DetectorConfig(about, BACKBONES[backbone], NECKS[neck], HEADS[head])
    return None
