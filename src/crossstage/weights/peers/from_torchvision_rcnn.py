"""torchvision's Faster R-CNN and Mask R-CNN in ours.

The backbones of their first versions have frozen norms, those of the second ones batch norms. In the first versions'
released weights these norms have an epsilon of 0, which is not among the tensors: torchvision sets it when it loads
them. :func:`without_epsilon` scales such norms so that ours, whose epsilon is 1e-5, compute the same.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from crossstage.models.detectors.rcnn import PREPROCESSING
from crossstage.nn.conv import BN_EPS
from crossstage.weights.peers.base import State, Twin
from crossstage.weights.peers.renaming import FC, RESNET, Rules, rename

_BODY: Rules = tuple((rf"backbone\.body\.{pattern}", ours) for pattern, ours in RESNET if (pattern, ours) not in FC)
_RCNN: Rules = (
    *_BODY,
    # Files of before torchvision 0.13 have other names, which its modules translate, too.
    (r"backbone\.fpn\.inner_blocks\.(\d+)\.(?=weight|bias)", "neck.fpn.inner_blocks.{0}.0."),
    (r"backbone\.fpn\.layer_blocks\.(\d+)\.(?=weight|bias)", "neck.fpn.layer_blocks.{0}.0."),
    (r"rpn\.head\.conv\.(?=weight|bias)", "head.rpn.head.conv.0.0."),
    (r"roi_heads\.mask_head\.mask_fcn(\d+)\.", "head.roi_heads.mask_head.{0:-1}.0."),
    (r"backbone\.fpn\.", "neck.fpn."),
    (r"rpn\.", "head.rpn."),
    (r"roi_heads\.", "head.roi_heads."),
)
_CLASSES = "head.roi_heads.box_predictor.cls_score.bias"
_COUNT = ".num_batches_tracked"


def without_epsilon(state: State) -> dict[str, Tensor]:
    """Scale the backbone's norms so that they compute with an epsilon of 1e-5 what they did with one of 0.

    Args:
        state: torchvision's tensors, of a network whose norms it gave an epsilon of 0: its released ``COCO_V1`` weights
            of ``fasterrcnn_resnet50_fpn`` and ``maskrcnn_resnet50_fpn``.
    """
    scaled = dict(state)
    for key, variance in state.items():
        if key.startswith("backbone.body.") and key.endswith(".running_var"):
            weight = key.replace(".running_var", ".weight")
            scaled[weight] = state[weight] * ((variance.double() + BN_EPS) / variance.double()).sqrt().to(variance)
    return scaled


def _from_rcnn(state: State, source: str) -> dict[str, Tensor]:
    return rename(state, _RCNN, source)


def _frozen(state: State, source: str) -> dict[str, Tensor]:
    """Rename; of batch norms, such as of a network that did not start from weights, the counts of batches go."""
    counted = {key for key in state if key.startswith("backbone.body.") and key.endswith(_COUNT)}
    return _from_rcnn({key: tensor for key, tensor in state.items() if key not in counted}, source)


def _count_classes(state: State) -> int:
    return len(state[_CLASSES]) - 1 if _CLASSES in state else 0


_FIRST = Twin(
    "fasterrcnn_resnet50_torchvision_fpn",
    _frozen,
    {"norm": "frozen"},
    _count_classes,
    class_names=tuple(FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"][1:]),  # the first is background
    preprocessing=replace(PREPROCESSING, resample="sharp"),
    released=without_epsilon,
)
_SECOND = replace(_FIRST, model="fasterrcnn_resnet50_torchvision_fpn_v2", adapt=_from_rcnn, settings={}, released=None)
PEERS: dict[str, Twin] = {
    "torchvision:fasterrcnn_resnet50_fpn": _FIRST,
    "torchvision:fasterrcnn_resnet50_fpn_v2": _SECOND,
    "torchvision:maskrcnn_resnet50_fpn": replace(_FIRST, model="maskrcnn_resnet50_torchvision_fpn"),
    "torchvision:maskrcnn_resnet50_fpn_v2": replace(_SECOND, model="maskrcnn_resnet50_torchvision_fpn_v2"),
}
