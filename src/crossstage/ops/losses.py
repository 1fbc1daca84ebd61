"""Losses that heads share, each an element-wise function of predictions and targets."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

BOX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}
"""Losses of boxes ``(P, 4)`` xyxy against as many, by IoU: GIoU (1902.09630), DIoU and CIoU (1911.08287)."""


def focal_bce(logits: Tensor, target: Tensor, gamma: float = 0.0) -> Tensor:
    """Return the binary cross-entropy of each logit, turned towards what is hard (arXiv 1708.02002, equation 4).

    Args:
        logits: Any shape.
        target: The same shape, in [0, 1].
        gamma: Exponent of the distance between prediction and target; 0 gives the plain cross-entropy.
    """
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return loss * (target - logits.sigmoid()).abs().pow(gamma) if gamma else loss
