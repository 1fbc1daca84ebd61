"""Faster R-CNN and Mask R-CNN of VoVNetV2's authors (youngwanLEE/vovnet-detectron2), whose heads are detectron2's.

detectron2 differs from torchvision, whose layout ours is, in this:

- Background is the last class, and has neither box nor mask: here it is the first, with rows that nothing reads.
- Anchors are not rounded to whole pixels, and lie in steps of the stride.
- RoIAlign takes a pixel's centre to be at half a pixel, and averages as many points as a cell has pixels.
- Images are BGR from 0 to 255, of which a mean is subtracted alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.errors import WeightsError
from crossstage.structures import Preprocessing
from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.from_detectron2 import DETECTRON2
from crossstage.weights.peers.renaming import Rules, rename

PREPROCESSING = Preprocessing((800, 1333), "shortest", mean=(103.53, 116.28, 123.675), colour_order="bgr", scale=255.0)
SETTINGS = {"norm": "frozen", "anchor_grid": "exact", "aligned": True, "sampling": 0}

_BOXES, _MASKS = "head.roi_heads.box_predictor.", "head.roi_heads.mask_predictor."
_CLASSES = f"{_BOXES}cls_score.bias"
_RULES: Rules = (
    *((rf"backbone\.bottom_up\.{pattern}", ours) for pattern, ours in DETECTRON2),
    (r"backbone\.fpn_lateral(\d+)\.", "neck.fpn.inner_blocks.{0:-2}.0."),
    (r"backbone\.fpn_output(\d+)\.", "neck.fpn.layer_blocks.{0:-2}.0."),
    (r"proposal_generator\.rpn_head\.conv\.", "head.rpn.head.conv.0.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", "head.rpn.head.cls_logits."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", "head.rpn.head.bbox_pred."),
    (r"roi_heads\.box_head\.fc(\d+)\.", "head.roi_heads.box_head.fc{0:+5}."),
    (r"roi_heads\.box_predictor\.", _BOXES),
    (r"roi_heads\.mask_head\.mask_fcn(\d+)\.", "head.roi_heads.mask_head.{0:-1}.0."),
    (r"roi_heads\.mask_head\.deconv\.", f"{_MASKS}conv5_mask."),
    (r"roi_heads\.mask_head\.predictor\.", f"{_MASKS}mask_fcn_logits."),
)
_CONSTANTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")


def _from_detectron2(state: State, source: str) -> dict[str, Tensor]:
    """Rename, and put background first.

    Raises:
        WeightsError: A tensor has no place, or those of the classes are missing.
    """
    renamed = rename({key: x for key, x in state.items() if not key.startswith(_CONSTANTS)}, _RULES, source)
    for part in ("weight", "bias"):
        scores, boxes = f"{_BOXES}cls_score.{part}", f"{_BOXES}bbox_pred.{part}"
        if not {scores, boxes} <= renamed.keys():
            raise WeightsError(f"{source}: no tensors of classes and boxes; expected roi_heads.box_predictor's")
        renamed[scores] = renamed[scores].roll(1, 0)
        renamed[boxes] = _behind_zeros(renamed[boxes], 4)
        if (masks := f"{_MASKS}mask_fcn_logits.{part}") in renamed:
            renamed[masks] = _behind_zeros(renamed[masks], 1)
    return renamed


def _behind_zeros(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor.new_zeros(rows, *tensor.shape[1:]), tensor])


def _count_classes(state: State) -> int:
    return len(state[_CLASSES]) - 1


def _names(backbones: Sequence[str]) -> list[str]:
    families = ("fasterrcnn_{}_fpn", "fasterrcnn_{}_fpn_lite", "maskrcnn_{}_fpn", "maskrcnn_{}_fpn_lite")
    return [family.format(backbone) for family in families for backbone in backbones]


_VOVNETS = [f"vovnet{size}_v2" for size in ("19_slim_dw", "19_dw", "19_slim", "19", "39", "57", "99")]
AUTHORS: dict[str, Release] = {
    name: Release(_from_detectron2, _count_classes, SETTINGS, PREPROCESSING) for name in _names(_VOVNETS)
}
