"""Checkpoints of ThunderNet in the names of a public code (DayBreak-u/Thundernet_Pytorch)."""

from __future__ import annotations

from crossstage.weights.authors.base import Release
from crossstage.weights.peers.base import State
from crossstage.weights.peers.renaming import Rules, rename

# In a block's path: convolution, norm, ReLU; depthwise convolution, norm; convolution, norm, ReLU. The shortcut lacks
# the first three.
_PATHS = {"main": ("body", (0, 3, 5)), "proj": ("shortcut", (0, 2))}
_THUNDERNET: Rules = (
    (r"RCNN_base\.conv1\.0\.", "backbone.stem.conv."),
    (r"RCNN_base\.conv1\.1\.", "backbone.stem.bn."),
    *(
        rule
        for theirs, (ours, places) in _PATHS.items()
        for number, place in enumerate(places)
        for rule in (
            (
                rf"RCNN_base\.stage(\d+)\.(\d+)\.branch_{theirs}\.{place}\.",
                f"backbone.stages.{{0}}.{{1}}.{ours}.{number}.conv.",
            ),
            (
                rf"RCNN_base\.stage(\d+)\.(\d+)\.branch_{theirs}\.{place + 1}\.",
                f"backbone.stages.{{0}}.{{1}}.{ours}.{number}.bn.",
            ),
        )
    ),
    (r"RCNN_base\.conv5\.0\.", "backbone.stages.3.4.conv."),
    (r"RCNN_base\.conv5\.1\.", "backbone.stages.3.4.bn."),
    (r"RCNN_base\.cem\.conv4\.", "neck.fine."),
    (r"RCNN_base\.cem\.conv5\.", "neck.deep."),
    (r"RCNN_base\.cem\.convlast\.", "neck.everywhere."),
    (r"rpn\.dw5_5\.", "head.rpn.head.depthwise.conv."),
    (r"rpn\.bn0\.", "head.rpn.head.depthwise.bn."),
    (r"rpn\.con1x1\.", "head.rpn.head.pointwise.conv."),
    (r"rpn\.bn1\.", "head.rpn.head.pointwise.bn."),
    (r"sam\.conv1\.", "head.attend.conv."),
    (r"sam\.bn\.", "head.attend.bn."),
    (r"RCNN_rpn\.RPN_cls_score\.", "head.rpn.head.cls_logits."),
    (r"RCNN_rpn\.RPN_bbox_pred\.", "head.rpn.head.bbox_pred."),
    (r"RCNN_top\.0\.", "head.roi_heads.box_head.1."),
    (r"RCNN_cls_score\.", "head.roi_heads.box_predictor.cls_score."),
    (r"RCNN_bbox_pred\.", "head.roi_heads.box_predictor.bbox_pred."),
)


def _classes(state: State) -> int:
    scores = state.get("head.roi_heads.box_predictor.cls_score.weight")
    return 0 if scores is None else len(scores) - 1  # the first row is background's


AUTHORS: dict[str, Release] = {
    f"thundernet_snet{size}": Release(lambda state, source: rename(state, _THUNDERNET, source), _classes)
    for size in (49, 146, 535)
}
