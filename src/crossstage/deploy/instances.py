"""Detections as an exported file gives them: rows, and masks beside them, for a head whose second stage lies inside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from crossstage.ops.nms import NMS
from crossstage.structures import Instances

SAME = 0.9  # overlap from which on two boxes of a class are taken for the same detection


def to_rows(found: Instances) -> tuple[Tensor, ...]:
    """Return the detections of the first image as rows ``(M, 7)``: image, class, score, xyxy; and masks if they have.

    Args:
        found: The detections, best first.
    """
    boxes = found.boxes_xyxy
    columns = [torch.zeros_like(boxes[:, :1]), found.class_ids.unsqueeze(1).to(boxes), found.scores.unsqueeze(1), boxes]
    rows = torch.cat(columns, dim=1)
    return (rows,) if found.masks is None else (rows, found.masks)


def from_rows(outputs: Sequence[Tensor], nms: NMS) -> Instances:
    """Return the detections among rows ``(M, 7)``, best first, that settings leave.

    Args:
        outputs: The rows, and masks if there are any.
        nms: Settings of which the score, the classes and the number of detections count.
    """
    rows, masks = outputs[0], outputs[1] if len(outputs) > 1 else None
    keep = (rows[:, 2] > nms.score) & torch.isfinite(rows).all(1)
    if nms.class_ids is not None:
        keep &= torch.isin(rows[:, 1].long(), torch.tensor(nms.class_ids, dtype=torch.long))
    best = keep.nonzero().squeeze(1)[: nms.max_detections]
    rows = rows[best]
    return Instances(rows[:, 3:], rows[:, 2], rows[:, 1].long(), None if masks is None else masks[best])


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> tuple[float, float]:
    """Compare a file's detections of an image with PyTorch's.

    Which of boxes that score nearly the same suppresses the other hangs on a rounding error, so that two correct
    programs find different ones in noise. Those that both find are compared.

    Args:
        found: The file's rows ``(M, 7)``, and masks if there are any.
        expected: PyTorch's.

    Returns:
        The largest difference of scores, of masks, and of boxes relative to their largest coordinate, of the
        detections that both have; and their share in [0, 1] of those of PyTorch.
    """
    theirs, own = found[0], expected[0]
    if not len(own) or not len(theirs):
        return 0.0, float(len(own) == len(theirs))
    overlap = box_iou(own[:, 3:], theirs[:, 3:]) * (own[:, 1:2] == theirs[:, 1])
    best, partner = overlap.max(1)
    both = (best > SAME).nonzero().squeeze(1)
    if not len(both):
        return 0.0, 0.0
    one, other = own[both], theirs[partner[both]]
    parts = [(one[:, 3:] - other[:, 3:]).abs().max() / own[:, 3:].abs().max(), (one[:, 2] - other[:, 2]).abs().max()]
    parts += [
        (mine[both] - other[partner[both]]).abs().max() for mine, other in zip(expected[1:], found[1:], strict=True)
    ]
    return float(torch.stack(parts).max()), len(both) / len(own)
