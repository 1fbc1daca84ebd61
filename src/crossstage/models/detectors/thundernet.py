"""ThunderNet (arXiv 1903.11752) with its own SNets, and with any backbone."""

from __future__ import annotations

from crossstage.models.detectors.base import Family
from crossstage.models.heads.thundernet import ThunderNetConfig
from crossstage.models.necks import NECKS
from crossstage.structures import Preprocessing

FAMILIES: dict[str, Family] = {
    "thundernet_{}": Family(
        "{} with ThunderNet's context enhancement, RPN and spatial attention",
        "ThunderNet, arXiv 1903.11752, as in its public codes",
        NECKS["context"],
        ThunderNetConfig(),
        320,
        size_divisor=32,
        preprocessing=Preprocessing((320, 320), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
}
