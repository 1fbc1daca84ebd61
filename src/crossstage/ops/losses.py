"""Losses that heads share, each an element-wise function of predictions and targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss


def paired_iou(first: Tensor, second: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the IoU of each box with the one at the same place: ``(..., 4)`` xyxy twice to ``(...)`` in [0, 1].

    Args:
        first: Corners of boxes; a box whose sides are not positive overlaps with none.
        second: As many.
        eps: Added to the union, so that empty boxes have a gradient.
    """
    low, high = torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1)
    return overlap / (areas - overlap + eps)


def paired_ciou(first: Tensor, second: Tensor, eps: float = 1e-7) -> Tensor:
    """Return the complete IoU (arXiv 1911.08287, equation 10) of pairs of boxes: ``(..., 4)`` xyxy twice to ``(...)``.

    It is 1 less torchvision's ``complete_box_iou_loss``, but finite, and with finite gradients, for boxes without
    height as well.

    Args:
        first: Corners of boxes.
        second: As many.
        eps: Added to what is divided by.
    """
    (width, height), (other_width, other_height) = _sides(first), _sides(second)
    low, high = torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:])
    diagonal = (high - low).square().sum(-1) + eps
    apart = (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]).square().sum(-1) / 4
    iou = paired_iou(first, second, eps)
    turned = torch.atan(width / (height + eps)) - torch.atan(other_width / (other_height + eps))
    unlike = (4 / math.pi**2) * turned.square()
    with torch.no_grad():
        weight = unlike / (unlike - iou + 1 + eps)
    return iou - apart / diagonal - weight * unlike


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the widths and heights of boxes."""
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def box_iou_loss(predicted: Tensor, boxes: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """Return 1 - IoU of pairs of boxes (UnitBox, arXiv 1608.01471), called like torchvision's losses of boxes."""
    loss = 1 - paired_iou(predicted, boxes, eps)
    return loss if reduction == "none" else loss.mean() if reduction == "mean" else loss.sum()


BOX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "iou": box_iou_loss,
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}
"""Losses of boxes ``(P, 4)`` xyxy against as many, by IoU: GIoU (1902.09630), DIoU and CIoU (1911.08287)."""


def focal_bce(logits: Tensor, target: Tensor, gamma: float = 0.0) -> Tensor:
    """Return the binary cross-entropy of each logit, turned towards what is hard.

    With targets of 0 and 1 it is the focal loss (arXiv 1708.02002, equation 4); with the IoU of a predicted box as its
    class's target, the quality focal loss (arXiv 2006.04388, equation 5), whose authors' ``beta`` is ``gamma``.

    Args:
        logits: Any shape.
        target: The same shape, in [0, 1].
        gamma: Exponent of the distance between prediction and target; 0 gives the plain cross-entropy.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss * (target - logits.sigmoid()).abs().pow(gamma) if gamma else loss


def sparse_focal(
    logits: Tensor, index: tuple[Tensor, ...], target: Tensor, gamma: float, weights: Tensor | None = None
) -> Tensor:
    """Return the sum of :func:`focal_bce` over logits of which all but a few have a target of 0.

    It takes half the time, and no tensor of targets.

    Args:
        logits: ``(..., C)``.
        index: Where those few are, ``(P,)`` int64 for each dimension, no place twice; classes last.
        target: ``(P,)`` in [0, 1].
        gamma: See :func:`focal_bce`.
        weights: ``(C,)`` factors of the classes; None weighs all alike.
    """
    background = F.softplus(logits) * logits.sigmoid().pow(gamma) if gamma else F.softplus(logits)
    own = logits[index]
    change = focal_bce(own, target, gamma) - focal_bce(own, torch.zeros_like(own), gamma)
    if weights is not None:
        weights = weights.to(logits)
        background, change = background * weights, change * weights[index[-1]]
    return background.sum() + change.sum()


def varifocal(logits: Tensor, target: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """Return the varifocal loss of each logit (arXiv 2008.13367, equation 2), focal for background alone.

    Objects are weighted by their targets, so that well-placed boxes matter most.

    Args:
        logits: Any shape.
        target: The same shape, in [0, 1]: the IoU of the predicted box for an object's class, else 0.
        alpha: Weight of background against objects.
        gamma: Exponent of a background's score.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss * torch.where(target > 0, target, alpha * logits.sigmoid().pow(gamma))


def distribution_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Return the distribution focal loss (arXiv 2006.04388, equation 6): the two bins around a distance share it.

    Args:
        logits: ``(..., B)``, how likely the distance is that of each bin: 0, 1, ... B - 1.
        target: ``(...)`` distances in units of bins, in [0, B - 1].

    Returns:
        ``(...)``.
    """
    logs = logits.log_softmax(-1)
    low = target.long().clamp(0, logits.shape[-1] - 2).unsqueeze(-1)
    share = target.unsqueeze(-1) - low
    return -(logs.gather(-1, low) * (1 - share) + logs.gather(-1, low + 1) * share).squeeze(-1)
