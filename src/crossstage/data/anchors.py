"""Anchors fitted to boxes: k-means with IoU for a distance (YOLOv2, arXiv 1612.08242, section 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crossstage.data.records import DetectionData
from crossstage.errors import DataError
from crossstage.inference.preprocessing import place
from crossstage.ops.boxes import shape_iou
from crossstage.structures import Preprocessing

ROUNDS = 300
RESTARTS = 5
RECALLED = 0.5  # IoU of shapes from which an anchor is said to fit a box

Sizes = NDArray[np.float64]


@dataclass(frozen=True)
class AnchorFit:
    """How well anchors fit boxes.

    Attributes:
        mean_iou: Mean over the boxes of the IoU with the anchor that fits best, shapes laid on one corner.
        recall: Share of boxes whose best IoU is above 0.5.
        used: Share of boxes that each anchor fits best.
    """

    mean_iou: float
    recall: float
    used: tuple[float, ...]


def scaled_sizes(dataset: DetectionData, preprocessing: Preprocessing) -> Sizes:
    """Return widths and heights ``(n, 2)`` of all boxes, in pixels of the network's input.

    Args:
        dataset: The images, of which only the sizes are read, and their boxes.
        preprocessing: How images become input.

    Raises:
        DataError: There is no box.
    """
    sizes = []
    for sample in dataset:
        vertical, horizontal = place((sample.image.height, sample.image.width), preprocessing).scale
        boxes = sample.objects.boxes_xyxy.astype(np.float64)
        sizes.append((boxes[:, 2:] - boxes[:, :2]) * (horizontal, vertical))
    found = np.concatenate(sizes) if sizes else np.zeros((0, 2))
    if not len(found):
        raise DataError(f"{dataset.path}: no boxes to fit anchors to")
    return found


def judge(sizes: Sizes, anchors: Sizes) -> AnchorFit:
    """Measure how well anchors fit boxes.

    Args:
        sizes: ``(n, 2)`` widths and heights of boxes.
        anchors: ``(anchors, 2)`` widths and heights of anchors, in the same pixels.
    """
    ious = _ious(sizes, anchors)
    best = ious.max(1)
    used = np.bincount(ious.argmax(1), minlength=len(anchors)) / len(sizes)
    return AnchorFit(float(best.mean()), float((best > RECALLED).mean()), tuple(used.tolist()))


def fit_anchors(sizes: Sizes, count: int, *, seed: int = 0) -> Sizes:
    """Fit anchors to boxes: the best of a few runs of k-means.

    Args:
        sizes: ``(n, 2)`` widths and heights of boxes.
        count: How many anchors to fit.
        seed: Chooses where the runs begin.

    Returns:
        ``(count, 2)`` widths and heights, in the order of their areas.

    Raises:
        DataError: There are fewer different boxes than anchors.
    """
    distinct = np.unique(sizes, axis=0)
    if len(distinct) < count:
        raise DataError(f"{len(distinct)} different sizes of boxes; expected at least {count} for {count} anchors")
    random = np.random.default_rng(seed)
    runs = [_k_means(sizes, distinct[random.choice(len(distinct), count, replace=False)]) for _ in range(RESTARTS)]
    best = max(runs, key=lambda anchors: judge(sizes, anchors).mean_iou)
    return best[best.prod(1).argsort()]


def _ious(sizes: Sizes, anchors: Sizes) -> Sizes:
    return shape_iou(torch.from_numpy(sizes), torch.from_numpy(anchors)).numpy()


def _k_means(sizes: Sizes, anchors: Sizes) -> Sizes:
    """Move anchors to the medians of the boxes nearest to each, again and again; one that is nearest to none stays."""
    anchors = anchors.copy()
    nearest = np.full(len(sizes), -1)
    for _ in range(ROUNDS):
        now = _ious(sizes, anchors).argmax(1)
        if (now == nearest).all():
            break
        nearest = now
        for index in range(len(anchors)):
            if (mine := nearest == index).any():
                anchors[index] = np.median(sizes[mine], axis=0)
    return anchors
