"""Masks on a grid over each box, and in the pixels of an image."""

from __future__ import annotations

from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

THRESHOLD = 0.5  # what is likelier than this belongs to the object


def paste(masks: Tensor, boxes_xyxy: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Lay masks that cover their boxes into images, as torchvision and detectron2 do.

    Args:
        masks: ``(K, S, S)`` in [0, 1], a grid over each box, see :class:`~crossstage.structures.Instances`.
        boxes_xyxy: ``(K, 4)`` corners in pixels of the image.
        image_size: Height and width of the image in pixels.

    Returns:
        ``(K, *image_size)`` in [0, 1], 0 outside of the boxes; pixels above :data:`THRESHOLD` belong to the object.
    """
    if not len(masks):
        return masks.new_zeros(0, *image_size)
    return paste_masks_in_image(masks.unsqueeze(1), boxes_xyxy, image_size).squeeze(1)
