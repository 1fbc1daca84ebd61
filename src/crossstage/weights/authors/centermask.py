"""Checkpoints of CenterMask's authors (youngwanLEE/centermask2), such as ``torch.load(file)["model"]``.

The names are those of detectron2's modules and of FCOS's and CenterMask's heads for it. Those of the heads' layers are
a reconstruction from the modules' structure, not read off a released file. The backbone's norms are frozen.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.from_detectron2 import DETECTRON2
from crossstage.weights.peers.renaming import Rules, rename

_FCOS, _MASK, _IOU = r"proposal_generator\.fcos_head\.", r"roi_heads\.mask_head\.", r"roi_heads\.maskiou_head\."
_RULES: Rules = (
    *((rf"backbone\.bottom_up\.{theirs}", ours) for theirs, ours in DETECTRON2),
    (r"backbone\.fpn_lateral(\d+)\.", "neck.fpn.inner_blocks.{0:-3}.0."),
    (r"backbone\.fpn_output(\d+)\.", "neck.fpn.layer_blocks.{0:-3}.0."),
    (r"backbone\.top_block\.", "neck.fpn.extra_blocks."),
    (_FCOS + r"cls_tower\.", "head.class_tower."),
    (_FCOS + r"bbox_tower\.", "head.box_tower."),
    (_FCOS + r"cls_logits\.", "head.classes."),
    (_FCOS + r"bbox_pred\.", "head.distances."),
    (_FCOS + r"ctrness\.", "head.centreness."),
    *((rf"{_MASK}mask_fcn{number}\.", f"head.mask.convs.{2 * number - 2}.") for number in range(1, 5)),
    (_MASK + r"spatialAtt\.conv\.", "head.mask.attention.conv."),
    (_MASK + r"deconv\.", "head.mask.enlarge."),
    (_MASK + r"predictor\.", "head.mask.predict."),
    *((rf"{_IOU}maskiou_fcn{number}\.", f"head.mask_iou.convs.{2 * number - 2}.") for number in range(1, 5)),
    *((rf"{_IOU}maskiou_fc{number}\.", f"head.mask_iou.hidden.{2 * number - 1}.") for number in (1, 2)),
    (_IOU + r"maskiou\.", "head.mask_iou.predict."),
)
_SCALE = re.compile(_FCOS + r"scales\.(\d+)\.scale$")
_UNUSED = ("pixel_mean", "pixel_std")  # how images are normalised, which a network of ours knows without tensors


def _adapt(state: State, source: str) -> dict[str, Tensor]:
    """Rename, and join the factors of the levels, each of which is a tensor of its own there."""
    scales = {int(match[1]): tensor for key, tensor in state.items() if (match := _SCALE.match(key))}
    rest = {key: tensor for key, tensor in state.items() if key not in _UNUSED and not _SCALE.match(key)}
    renamed = rename(rest, _RULES, source)
    if scales:
        renamed["head.scales"] = torch.cat([scales[level].flatten() for level in sorted(scales)])
    return renamed


def _count_classes(state: State) -> int:
    return len(state["head.classes.bias"]) if "head.classes.bias" in state else 0


AUTHORS: dict[str, Release] = {
    name: Release(_adapt, _count_classes, {"norm": "frozen"})
    for name in (
        "centermask_vovnet39_v2",
        "centermask_vovnet57_v2",
        "centermask_vovnet99_v2",
        "centermask_lite_vovnet19_slim_dw_v2",
        "centermask_lite_vovnet19_slim_v2",
        "centermask_lite_vovnet19_v2",
        "centermask_lite_vovnet39_v2",
    )
}
