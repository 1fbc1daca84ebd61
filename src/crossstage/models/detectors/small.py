"""Small detectors of ours for a CPU: what ``crossstage train`` takes where no model is named.

Both are compositions of rows that stand in the other tables under names of their own. Whole 3x3 convolutions run faster
on a CPU than separable ones of as many operations, and RTMDet's head found the objects of small sets in the fewest
epochs.
"""

from __future__ import annotations

from crossstage.models.backbones import BACKBONES, About
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.heads import HEADS
from crossstage.models.necks import NECKS
from crossstage.structures import Preprocessing

SIZE = 320
_INPUT = Preprocessing((SIZE, SIZE), "letterbox", fill=114 / 255)


def _row(summary: str, backbone: str, neck: str, preprocessing: Preprocessing) -> DetectorConfig:
    about = About(f"{summary} with a slim PAFPN and RTMDet's head", "CrossStage", classes=80)
    return DetectorConfig(about, BACKBONES[backbone], NECKS[neck], HEADS["rtmdet"], SIZE, preprocessing=preprocessing)


DETECTORS: dict[str, DetectorConfig] = {
    "cspdarknet_x_micro_pafpn_rtmdet": _row("CSPDarknet-micro", "cspdarknet_x_micro", "pafpn", _INPUT),
    "cspdarknet53_tiny_pafpn_slim_rtmdet": _row("CSPDarknet53-tiny", "cspdarknet53_tiny", "pafpn_slim", _INPUT),
}
