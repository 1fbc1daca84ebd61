"""Regions of interest on feature pyramids: which map a region is read from, and its features on a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

CANONICAL = (224, 16)  # pixels of a region's side, and the stride of the map that it is read from (FPN, equation 1)


def with_images(boxes_xyxy: Sequence[Tensor]) -> Tensor:
    """Put the boxes of all images into one tensor: ``(K, 4)`` each to ``(R, 5)``, the image's position first."""
    numbered = [torch.cat([torch.full_like(boxes[:, :1], i), boxes], dim=1) for i, boxes in enumerate(boxes_xyxy)]
    return torch.cat(numbered)


def levels_by_area(boxes_xyxy: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Tell which map each region is read from: by its side, one that is twice as long one map further (FPN, eq. 1).

    Args:
        boxes_xyxy: Regions ``(K, 4)`` of each image, in pixels of the input.
        strides: Strides of the maps, shallow to deep, each twice the one before.

    Returns:
        ``(R,)`` int64, positions among the maps.
    """
    first, last = strides[0].bit_length() - 1, strides[-1].bit_length() - 1
    side, stride = CANONICAL
    return LevelMapper(first, last, side, stride.bit_length() - 1)(list(boxes_xyxy))


def pool(
    features: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    strides: Sequence[int],
    size: int,
    *,
    sampling: int,
    aligned: bool,
) -> Tensor:
    """Read regions off the maps of a pyramid on a grid (RoIAlign, Mask R-CNN section 3).

    Args:
        features: Maps ``(N, C, H_i, W_i)``, shallow to deep.
        rois: ``(R, 5)``: position of the image in the batch, then corners in pixels of the input.
        levels: ``(R,)``, the map that each region is read from.
        strides: Strides of the maps.
        size: Cells of the grid in a row.
        sampling: Points in a row and in a column of a cell that are averaged; 0 takes as many as it has pixels.
        aligned: Whether the centre of the first pixel is at half a pixel (detectron2's ``ROIAlignV2``) or at 0
            (torchvision's detectors).

    Returns:
        ``(R, C, size, size)``.
    """
    pooled = features[0].new_zeros(rois.shape[0], features[0].shape[1], size, size)
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        of_level = torch.where(levels == level)[0]
        pooled[of_level] = roi_align(feature, rois[of_level], (size, size), 1 / stride, sampling, aligned)
    return pooled
