"""DSOD300 (arXiv 1708.01241): trained without pretrained weights, with its DenseNets and with VoVNet-27-slim.

The one with VoVNet is a reconstruction. Of it 5.9M parameters and 5.6 GFLOPs are published (multiply-adds, VOC); with
VoVNet's three maps of strides 8, 16 and 32, the second of which is half the first's, and the paper's stem, whose third
convolution does not stride, it has 5.88M and 5.63. Any other backbone is joined in the same way.

Steps and sizes of default boxes are the released ones for VOC; the last map has two rows and columns at steps of 300
pixels, so that three of its four cells lie outside of the image.
"""

from __future__ import annotations

from dataclasses import replace

from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig, Family
from crossstage.models.heads.ssd import SSD300_STEPS, SSDConfig
from crossstage.models.necks import NECKS
from crossstage.structures import Preprocessing

_DSOD = "DSOD, arXiv 1708.01241"
_HEAD = SSDConfig(
    prior_scales=(0.1, 0.2, 0.37, 0.54, 0.71, 0.88, 1.05),
    prior_steps=SSD300_STEPS,
    prior_clip=False,
    predictor="3x3_norm",
)
_BYTES = Preprocessing((300, 300), resample="sharp", scale=255.0, mean=(123.0, 117.0, 104.0))


def _densenet(name: str, summary: str) -> DetectorConfig:
    about = About(f"DSOD300 with {summary}", _DSOD, classes=20)
    return DetectorConfig(about, BACKBONES[name], NECKS["dsod"], _HEAD, 300, 1, _BYTES)


FAMILIES = {
    "dsod300_{}": Family(
        "{} with DSOD's dense prediction layers", _DSOD, NECKS["dsod_three"], _HEAD, 300, 4, _BYTES, 20
    )
}

DETECTORS: dict[str, DetectorConfig] = {
    "dsod300_densenet": _densenet("dsod_densenet", "DenseNet DS/64-192-48-1"),
    "dsod300_densenet67": _densenet("dsod_densenet67", "DenseNet-67, DS/64-64-16-1"),
    "dsod300_vovnet27_slim": replace(
        FAMILIES["dsod300_{}"].of(replace(BACKBONES["vovnet27_slim"], stem_stride="pool")),
        about=About(
            "DSOD300 with VoVNet-27-slim", "VoVNet, arXiv 1904.09730, table 2", reconstruction=True, classes=20
        ),
    ),
}
