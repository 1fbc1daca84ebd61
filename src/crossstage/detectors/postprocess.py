"""From decoded boxes to detections: the one post-processing function of every detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, nms

from crossstage.inference.model import Detected, Suppression

MAX_CANDIDATES = 30_000  # boxes that enter suppression, best first: bounds its time at thresholds near 0


def postprocess(
    boxes_xyxy: Tensor,
    scores: Tensor,
    *,
    score_threshold: float = 0.25,
    iou_threshold: float = 0.45,
    max_detections: int = 300,
    class_ids: Sequence[int] | None = None,
    suppression: Suppression = "iou",
) -> list[Detected]:
    """Filter by score, suppress overlapping boxes, keep the best.

    A box is a candidate for each class whose score exceeds the threshold, as in Darknet and torchvision.

    Args:
        boxes_xyxy: ``(N, K, 4)`` corners in pixels.
        scores: ``(N, K, C)`` in [0, 1].
        score_threshold: Candidates score more than this.
        iou_threshold: Of two boxes that overlap more than this, the one with the lower score goes.
        max_detections: Detections kept for each image.
        class_ids: Classes to keep; None keeps all.
        suppression: ``"iou"``: boxes of a class suppress each other; ``"diou"``: the same, overlap measured by
            distance-IoU (arXiv 1911.08287), which spares boxes whose centres are apart; ``"agnostic"``: boxes of all
            classes suppress each other.

    Returns:
        For each image its detections, best score first.
    """
    if class_ids is not None:
        wanted = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        wanted[list(class_ids)] = True
        scores = scores.masked_fill(~wanted, -1.0)
    return [
        _select(image_boxes, image_scores, score_threshold, iou_threshold, max_detections, suppression)
        for image_boxes, image_scores in zip(boxes_xyxy, scores, strict=True)
    ]


def _select(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    suppression: Suppression,
) -> Detected:
    box_index, class_index = (scores > score_threshold).nonzero(as_tuple=True)
    candidates = scores[box_index, class_index]
    if candidates.numel() > MAX_CANDIDATES:
        candidates, best = candidates.topk(MAX_CANDIDATES)
        box_index, class_index = box_index[best], class_index[best]
    boxes = boxes[box_index]
    if suppression == "diou":
        kept = _batched_diou_nms(boxes, candidates, class_index, iou_threshold)
    elif suppression == "agnostic":
        kept = nms(boxes, candidates, iou_threshold)
    else:
        kept = batched_nms(boxes, candidates, class_index, iou_threshold)
    kept = kept[:max_detections]
    return Detected(boxes[kept], candidates[kept], class_index[kept])


def _batched_diou_nms(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Greedy suppression by distance-IoU inside each group; indices of the kept boxes, best score first."""
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for group in groups.unique():
        rest = (groups == group).nonzero().squeeze(1)
        rest = rest[scores[rest].argsort(descending=True, stable=True)]
        while rest.numel():
            best, rest = rest[0], rest[1:]
            keep[best] = True
            rest = rest[distance_iou(boxes[best].unsqueeze(0), boxes[rest])[0] <= threshold]
    kept = keep.nonzero().squeeze(1)
    return kept[scores[kept].argsort(descending=True, stable=True)]


def distance_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU less squared distance of centres over squared diagonal of the enclosing box (arXiv 1911.08287, eq. 7).

    Args:
        first: ``(A, 4)`` xyxy.
        second: ``(B, 4)`` xyxy.

    Returns:
        ``(A, B)`` in (-1, 1].
    """
    low = torch.minimum(first[:, None, :2], second[None, :, :2])
    high = torch.maximum(first[:, None, 2:], second[None, :, 2:])
    diagonal = (high - low).square().sum(-1)
    centres = (first[:, None, :2] + first[:, None, 2:] - second[None, :, :2] - second[None, :, 2:]) / 2
    return box_iou(first, second) - centres.square().sum(-1) / diagonal.clamp(min=torch.finfo(first.dtype).tiny)
