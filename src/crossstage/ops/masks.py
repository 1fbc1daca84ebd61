"""Masks on a grid over each box, and in the pixels of images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection.roi_heads import (
    expand_boxes,
    expand_masks,
    paste_mask_in_image,
    paste_masks_in_image,
)

from crossstage.ops.rle import pack_columns

THRESHOLD = 0.5  # what is likelier than this belongs to the object


def resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks, each pixel taking the value of the one that its centre falls into.

    Args:
        masks: ``(..., H, W)`` of any type.
        size: Height and width to resize to.

    Returns:
        ``(..., *size)``; the masks themselves where they have that size.
    """
    if masks.shape[-2:] == size:
        return masks
    rows, columns = (
        ((2 * torch.arange(wanted, device=masks.device) + 1) * length // (2 * wanted))
        for wanted, length in zip(size, masks.shape[-2:], strict=True)
    )
    return masks.index_select(-2, rows).index_select(-1, columns)


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


def in_image(mask: Tensor, box_xyxy: Tensor, image_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels of an image that belong to an object, ``(H, W)``.

    Args:
        mask: ``(S, S)`` in [0, 1], a grid over the box.
        box_xyxy: ``(4,)`` corners in pixels of the image.
        image_size: Height and width of the image in pixels.
    """
    piece, top, left = _piece(mask, box_xyxy, image_size)
    laid = np.zeros(image_size, np.bool_)
    laid[top : top + piece.shape[0], left : left + piece.shape[1]] = piece
    return laid


def packed_in_image(mask: Tensor, box_xyxy: Tensor, image_size: tuple[int, int]) -> str:
    """Return the same, packed as :mod:`crossstage.ops.rle` does; the columns beside the box are never made."""
    piece, top, left = _piece(mask, box_xyxy, image_size)
    columns = np.zeros((image_size[0], piece.shape[1]), np.uint8, order="F")
    columns[top : top + piece.shape[0]] = piece
    return pack_columns(columns, left, image_size)


def _piece(mask: Tensor, box_xyxy: Tensor, image_size: tuple[int, int]) -> tuple[NDArray[np.bool_], int, int]:
    """Return the part of a pasted mask that may have pixels of the object, and the row and column it begins at."""
    padded, scale = expand_masks(mask[None, None], padding=1)
    box = expand_boxes(box_xyxy.unsqueeze(0), scale).to(torch.int64)[0]
    left, top, right, bottom = box.tolist()
    left, right = (min(max(side, 0), image_size[1]) for side in (left, right + 1))
    top, bottom = (min(max(side, 0), image_size[0]) for side in (top, bottom + 1))
    if right <= left or bottom <= top:
        return np.zeros((0, 0), np.bool_), 0, 0
    own = box - torch.tensor([left, top, left, top])
    piece = paste_mask_in_image(padded[0, 0], own, bottom - top, right - left)
    return (piece > THRESHOLD).numpy(), top, left
