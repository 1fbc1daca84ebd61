"""SSD300 (arXiv 1512.02325) and Pelee's SSD for 304 pixels (1804.06882).

``ssd300_vgg16`` is torchvision's. ``pelee_ssd304`` is a reconstruction: its maps, priors and residual blocks are
published, and with these its 5.43M parameters (VOC) and 5.98M (COCO) are met; where exactly a residual block activates
is ours. Other backbones have SSD's extra maps after their own of strides 8, 16 and 32.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig, Family
from crossstage.models.heads.ssd import SSD300_STEPS, SSDConfig
from crossstage.models.necks import NECKS
from crossstage.models.necks.ssd_extras import PELEE, SSDExtrasConfig
from crossstage.structures import Preprocessing

_SSD = "SSD, arXiv 1512.02325"
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HEAD = SSDConfig(prior_steps=SSD300_STEPS)

DETECTORS: dict[str, DetectorConfig] = {
    "ssd300_vgg16": DetectorConfig(
        About("SSD300 with VGG-16", f"{_SSD}; torchvision's ssd.py", classes=90),
        replace(BACKBONES["vgg16"], fc_stride=1, fc_dilation=6),
        SSDExtrasConfig(l2_scales=(20.0,)),
        _HEAD,
        300,
        1,
        Preprocessing((300, 300), resample="sharp", mean=(0.48235, 0.45882, 0.40784), std=(1 / 255, 1 / 255, 1 / 255)),
    ),
    "pelee_ssd304": DetectorConfig(
        About("Pelee: PeleeNet with SSD's maps", "Pelee, arXiv 1804.06882", reconstruction=True, classes=20),
        replace(BACKBONES["peleenet"], round_up=True),
        SSDExtrasConfig(reads=(16, 32), extras=PELEE, split_first=True, predict_width=256),
        SSDConfig(prior_ratios=((2.0, 3.0),) * 6, prior_steps=(16.0, 16.0, 30.0, 60.0, 101.0, 304.0), predictor="1x1"),
        304,
        4,
        Preprocessing((304, 304), resample="sharp", **_IMAGENET),
    ),
}

FAMILIES = {
    "ssd300_{}": Family(
        "{} with SSD's extra maps, for 300 pixels",
        _SSD,
        NECKS["ssd_extras"],
        _HEAD,
        300,
        4,
        Preprocessing((300, 300), resample="sharp", **_IMAGENET),
    )
}
