"""SSD's way from priors to objects (arXiv 1512.02325): which prior is to find which, box codes, and the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.ops import box_iou

from crossstage.structures import Targets

CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
"""Codes of a box by its prior: 10 offsets of the centre in sides of the prior, 5 logarithms of the ratios of sides."""


def encode_boxes(boxes_xyxy: Tensor, priors_xyxy: Tensor, epsilon: float = 0.0) -> Tensor:
    """Turn boxes into codes.

    Args:
        boxes_xyxy: ``(P, 4)`` corners in pixels.
        priors_xyxy: ``(P, 4)`` corners in pixels.
        epsilon: What is added to the ratios of the sides before their logarithms are taken.
    """
    codes = CODER.encode_single(boxes_xyxy, priors_xyxy)
    if not epsilon:
        return codes
    sides = ((codes[:, 2:] * 0.2).exp() + epsilon).log() / 0.2
    return torch.cat([codes[:, :2], sides], dim=1)


def decode_boxes(codes: Tensor, priors_xyxy: Tensor) -> Tensor:
    """Turn codes into boxes.

    Args:
        codes: ``(N, K, 4)``.
        priors_xyxy: ``(K, 4)`` corners in pixels, or ``(N, K, 4)`` where each image has its own.

    Returns:
        ``(N, K, 4)`` corners in pixels.
    """
    priors = priors_xyxy.expand(codes.shape).reshape(-1, 4)
    return CODER.decode_single(codes.reshape(-1, 4), priors).view(codes.shape)


@torch.no_grad()
def match_priors(priors_xyxy: Tensor, targets: Targets, batch: int, iou: float) -> Tensor:
    """Tell which object each prior is to find: the one it overlaps most, if by at least ``iou``.

    The prior that overlaps an object most finds it in any case.

    Args:
        priors_xyxy: ``(K, 4)`` corners in pixels, or ``(N, K, 4)`` where each image has its own.
        targets: The objects, in pixels of the input.
        batch: Number of images.
        iou: The least overlap, in [0, 1].

    Returns:
        ``(N, K)`` int64 positions in the targets; -1 for background.
    """
    matcher = SSDMatcher(iou)
    priors = priors_xyxy.expand(batch, -1, 4)
    objects = torch.full(priors.shape[:2], -1, dtype=torch.int64, device=priors.device)
    for image in targets.image_index.unique().tolist():
        own = (targets.image_index == image).nonzero().squeeze(1)
        chosen = matcher(box_iou(targets.boxes_xyxy[own].to(priors), priors[image]))
        objects[image] = torch.where(chosen >= 0, own[chosen.clamp(min=0)], -1)
    return objects


def multibox_loss(
    logits: Tensor,
    codes: Tensor,
    priors_xyxy: Tensor,
    objects: Tensor,
    targets: Targets,
    *,
    negatives: float,
    epsilon: float = 0.0,
    kept: Tensor | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the losses of boxes and of classes, each a sum over the number of positive priors.

    Boxes have the smooth L1 loss of their codes, classes a cross-entropy over the positive priors and the negative ones
    that are hardest, of which there are ``negatives`` for each positive one of the image.

    Args:
        logits: ``(N, K, 1 + classes)``, background first.
        codes: ``(N, K, 4)``.
        priors_xyxy: ``(K, 4)`` corners in pixels, or ``(N, K, 4)`` where each image has its own.
        objects: ``(N, K)``, see :func:`match_priors`.
        targets: The objects, in pixels of the input.
        negatives: Negative priors for each positive one.
        epsilon: See :func:`encode_boxes`.
        kept: ``(N, K)`` bool, whether a prior may be positive; None lets all. One that has an object and may not be
            positive can be among the hardest, and is then to tell the object's class (the released RefineDet).
        weights: ``(1 + classes,)`` factors of the classes' losses; None weighs all alike.
    """
    positive = objects >= 0
    labels = torch.zeros_like(objects)
    labels[positive] = targets.class_ids[objects[positive]] + 1
    if kept is not None:
        positive = positive & kept
    wanted = targets.boxes_xyxy[objects[positive]].to(codes)
    references = priors_xyxy.expand(codes.shape)[positive].to(codes)
    box = F.smooth_l1_loss(codes[positive], encode_boxes(wanted, references, epsilon), reduction="sum")
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weights, reduction="none").view(labels.shape)
    counted = positive | hardest(loss, positive, negatives)
    count = positive.sum().clamp(min=1)
    return box / count, loss[counted].sum() / count


@torch.no_grad()
def hardest(loss: Tensor, positive: Tensor, negatives: float) -> Tensor:
    """Choose the negative priors of each image whose loss is largest.

    Args:
        loss: ``(N, K)``.
        positive: ``(N, K)`` bool.
        negatives: How many there are for each positive prior of the image.

    Returns:
        ``(N, K)`` bool.
    """
    rank = loss.masked_fill(positive, -torch.inf).argsort(stable=True, dim=1, descending=True).argsort(1)
    return (rank < negatives * positive.sum(1, keepdim=True)) & ~positive
