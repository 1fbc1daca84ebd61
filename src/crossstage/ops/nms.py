"""From decoded boxes to detections: the one post-processing function of every detector, and its settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

from crossstage.errors import ConfigError, one_of
from crossstage.structures import Instances

MAX_CANDIDATES = 30_000  # boxes that enter suppression, best first: bounds its time at thresholds near 0
PIECE = 1024  # candidates that are compared with each other at once

NMSKind = Literal["iou", "diou", "agnostic", "none"]


@dataclass(frozen=True)
class NMS:
    """How decoded boxes become detections: the same settings from the command line to :func:`postprocess`.

    Attributes:
        score: Detections score more than this, in [0, 1].
        iou: The overlap, in [0, 1], above which the one of two boxes with the lower score goes.
        kind: ``"iou"`` lets boxes of a class suppress each other; ``"diou"`` does the same with distance-IoU (arXiv
            1911.08287), which spares boxes whose centres are apart; ``"agnostic"`` lets boxes of all classes suppress
            each other; ``"none"`` suppresses none, for heads that predict each object once.
        max_detections: The most detections of an image, at least 1.
        class_ids: Ids of the classes to keep; None keeps all.

    Raises:
        ConfigError: A value is out of range.
    """

    score: float = 0.25
    iou: float = 0.45
    kind: NMSKind = "iou"
    max_detections: int = 300
    class_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for option, value in (("conf", self.score), ("iou", self.iou)):
            if not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 <= value <= 1:
                raise ConfigError(f"{option}={value}; expected a number from 0 to 1")
        if self.kind not in get_args(NMSKind):
            raise ConfigError(f"nms={self.kind!r}; {one_of(self.kind, get_args(NMSKind))}")
        if not isinstance(self.max_detections, int) or self.max_detections < 1:
            raise ConfigError(f"max_detections={self.max_detections}; expected a whole number of at least 1")


def changed(own: NMS, **given: Any) -> NMS:
    """Return settings with other values where they are given.

    Args:
        own: The settings.
        given: Values for their fields; None keeps that of ``own``.

    Raises:
        ConfigError: A value is out of range.
    """
    return replace(own, **{name: value for name, value in given.items() if value is not None})


def for_evaluation(own: NMS) -> NMS:
    """Return what a detector is scored with: average precision integrates over all scores, COCO counts 100 detections.

    Args:
        own: The detector's own settings, whose kind of suppression and overlap stay.
    """
    return replace(own, score=0.001, max_detections=100)


def postprocess(boxes_xyxy: Tensor, scores: Tensor, settings: NMS | None = None) -> list[Instances]:
    """Filter by score, suppress overlapping boxes, keep the best.

    A box is a candidate for each class whose score exceeds the threshold, as in Darknet and torchvision.

    Args:
        boxes_xyxy: ``(N, K, 4)`` corners in pixels.
        scores: ``(N, K, C)`` in [0, 1].
        settings: Thresholds and kind of suppression; by default those of :class:`NMS`.

    Returns:
        For each image its detections, best score first.
    """
    settings = settings or NMS()
    scores = of_wanted(scores, settings)
    return [_select(*image, settings) for image in zip(boxes_xyxy, scores, strict=True)]


def of_wanted(scores: Tensor, settings: NMS) -> Tensor:
    """Return scores ``(..., C)`` with -1 for the classes that are not to be kept."""
    if settings.class_ids is None:
        return scores
    wanted = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    wanted[list(settings.class_ids)] = True
    return scores.masked_fill(~wanted, -1.0)


def best_of_classes(scores: Tensor, count: int) -> Tensor:
    """Zero all scores of an image but the ``count`` best of each class, as SSD does before suppression.

    Args:
        scores: ``(N, K, C)`` in [0, 1].
        count: How many boxes of each class stay.
    """
    if scores.shape[1] <= count:
        return scores
    best, index = scores.topk(count, dim=1)
    return torch.zeros_like(scores).scatter(1, index, best)


def best_of_levels(scores: Tensor, lengths: Sequence[int], count: int) -> Tensor:
    """Zero all scores of an image but the ``count`` best of each level, whatever their class, as RetinaNet and FCOS do.

    Args:
        scores: ``(N, K, C)`` in [0, 1], level after level.
        lengths: Number of boxes of each level, ``K`` in all.
        count: How many pairs of box and class stay of each level.
    """
    kept = []
    for level in scores.split(list(lengths), dim=1):
        flat = level.flatten(1)
        most: Any = torch.sym_min(count, flat.shape[1])  # no branch on sizes, which vary in exported graphs
        best, index = flat.topk(most, dim=1)
        kept.append(torch.zeros_like(flat).scatter(1, index, best).view_as(level))
    return torch.cat(kept, dim=1)


def _select(boxes: Tensor, scores: Tensor, settings: NMS) -> Instances:
    box_index, class_index = (scores > settings.score).nonzero(as_tuple=True)
    candidates, boxes = scores[box_index, class_index], boxes[box_index]
    kept = kept_of(boxes, candidates, class_index, settings, num_classes=scores.shape[1])
    return Instances(boxes[kept], candidates[kept], class_index[kept])


def kept_of(boxes_xyxy: Tensor, scores: Tensor, class_ids: Tensor, settings: NMS, *, num_classes: int) -> Tensor:
    """Return which of an image's candidates are detections: their indices, best score first.

    A graph that is exported keeps all candidates for suppression, however many they are.

    Args:
        boxes_xyxy: ``(K, 4)`` corners in pixels, of candidates that score enough.
        scores: ``(K,)``.
        class_ids: ``(K,)`` int64, the class that each is a candidate for.
        settings: Overlap and kind of suppression, and the most detections.
        num_classes: Number of classes that there are.
    """
    if torch.compiler.is_exporting() or scores.shape[0] <= MAX_CANDIDATES:
        return _kept(boxes_xyxy, scores, class_ids, settings, num_classes)[: settings.max_detections]
    best = scores.topk(MAX_CANDIDATES).indices
    kept = _kept(boxes_xyxy[best], scores[best], class_ids[best], settings, num_classes)
    return best[kept[: settings.max_detections]]


def _kept(boxes: Tensor, scores: Tensor, class_ids: Tensor, settings: NMS, num_classes: int) -> Tensor:
    """Return the indices of the boxes that are kept, best score first; there may be more than are wanted."""
    if settings.kind == "none":
        return scores.argsort(descending=True, stable=True)
    if settings.kind == "diou":
        return _batched_diou_nms(boxes, scores, class_ids, settings)
    if settings.kind == "agnostic":
        return grouped_nms(boxes, scores, torch.zeros_like(class_ids), settings.iou, num_groups=1)
    return grouped_nms(boxes, scores, class_ids, settings.iou, num_groups=num_classes)


def grouped_nms(boxes_xyxy: Tensor, scores: Tensor, groups: Tensor, iou: float, *, num_groups: int) -> Tensor:
    """Let boxes of a group suppress each other; return the indices of the kept ones, best score first.

    It is torchvision's function; a graph that is exported gets one operation, :func:`exported_nms`, instead.

    Args:
        boxes_xyxy: ``(K, 4)`` corners in pixels.
        scores: ``(K,)``, at least 0.
        groups: ``(K,)`` int64 from 0 to below ``num_groups``.
        iou: The overlap above which the one of two boxes with the lower score goes.
        num_groups: Number of groups that there are.
    """
    if torch.compiler.is_exporting():
        return exported_nms(boxes_xyxy, scores, groups, iou, num_groups)
    return batched_nms(boxes_xyxy, scores, groups, iou)


@torch.library.custom_op("crossstage::nms", mutates_args=())
def exported_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, num_groups: int) -> Tensor:
    """See :func:`grouped_nms`; an operation that exporters of graphs translate as a whole."""
    del num_groups
    return batched_nms(boxes, scores, groups, iou)


@exported_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, num_groups: int) -> Tensor:
    del scores, groups, iou, num_groups
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def _batched_diou_nms(boxes: Tensor, scores: Tensor, groups: Tensor, settings: NMS) -> Tensor:
    """Suppress greedily by distance-IoU inside each group; return the indices of the kept boxes, best score first.

    Candidates are met a piece at a time, best first, until there are as many detections as are wanted: so time grows
    with candidates times detections.
    """
    order = scores.argsort(descending=True, stable=True)
    kept = order[:0]
    for piece in order.split(PIECE):
        rest = piece
        for earlier in kept.split(PIECE):
            rest = rest[~_suppressed(boxes, groups, earlier, rest, settings.iou).any(0)]
        suppressed = _suppressed(boxes, groups, rest, rest, settings.iou).cpu().numpy()
        alive = np.ones(len(rest), bool)
        for number in range(len(rest)):
            if alive[number]:
                alive[number + 1 :] &= ~suppressed[number, number + 1 :]
        kept = torch.cat([kept, rest[torch.from_numpy(alive).to(rest.device)]])
        if len(kept) >= settings.max_detections:
            break
    return kept


def _suppressed(boxes: Tensor, groups: Tensor, better: Tensor, worse: Tensor, threshold: float) -> Tensor:
    """Return for each of some boxes ``(A,)`` and of others ``(B,)`` whether it would suppress that: ``(A, B)``."""
    far = distance_iou(boxes[better], boxes[worse]) <= threshold
    return ~far & (groups[better, None] == groups[None, worse])


def distance_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return IoU less squared distance of centres over squared diagonal of the enclosing box (1911.08287, eq. 7).

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
