"""Assigners: which predictions are to find which objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from crossstage.ops.boxes import shape_iou
from crossstage.ops.priors import AnchorLevel
from crossstage.structures import Targets


class Assignment(NamedTuple):
    """Which predictions of one map are to find which objects: ``P`` pairs.

    Attributes:
        object_index: ``(P,)`` int64, position in the targets.
        image_index: ``(P,)`` int64, position in the batch.
        anchor: ``(P,)`` int64, number of the anchor on its map.
        row: ``(P,)`` int64.
        column: ``(P,)`` int64.
    """

    object_index: Tensor
    image_index: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor


def assign_by_shape(
    levels: Sequence[AnchorLevel],
    shapes: Sequence[Sequence[int]],
    targets: Targets,
    *,
    iou: float | None = None,
) -> list[Assignment]:
    """Assign each object to the anchors whose shapes are like its own, at the cell that holds its centre.

    Args:
        levels: The anchors of each map.
        shapes: Height and width of each map in cells.
        targets: The objects, in pixels of the input.
        iou: None takes the anchor whose shape is most like the object's (YOLOv3); a number takes all anchors whose
            shape's IoU with the object's is above it as well (YOLOv4).

    Returns:
        The assignment of each map. An anchor that stands on two maps (as one of YOLOv4-tiny's) is responsible on both.
    """
    boxes = targets.boxes_xyxy
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    overlaps = shape_iou(sizes, boxes.new_tensor([anchor for level in levels for anchor in level.anchors]))
    chosen = overlaps >= overlaps.amax(1, keepdim=True)
    if iou is not None:
        chosen |= overlaps > iou
    assigned = []
    for level, (height, width), mine in zip(
        levels, shapes, chosen.split([len(level.anchors) for level in levels], dim=1), strict=True
    ):
        object_index, anchor = mine.nonzero(as_tuple=True)
        cells = (centres[object_index] / level.stride).long()
        assigned.append(
            Assignment(
                object_index,
                targets.image_index[object_index],
                anchor,
                cells[:, 1].clamp(0, height - 1),
                cells[:, 0].clamp(0, width - 1),
            )
        )
    return assigned
