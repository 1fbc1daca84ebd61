"""Position-sensitive pooling of regions (R-FCN, arXiv 1605.06409; bilinear as in Light-Head R-CNN, 1711.07264)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import ps_roi_align, roi_align


def position_sensitive_pool(feature: Tensor, rois: Tensor, stride: int, size: int, *, sampling: int) -> Tensor:
    """Read regions off a map on a grid, each cell of the grid from channels of its own.

    Where a graph is recorded it consists of operations that other runtimes know: :func:`pool_by_cells`.

    Args:
        feature: ``(N, C * size * size, H, W)``; for each of ``C`` channels one for each cell, row after row.
        rois: ``(R, 5)``: position of the image in the batch, then corners in pixels of the input.
        stride: Pixels of the input per pixel of the map; the centre of its first pixel is at half a stride.
        size: Cells of the grid in a row.
        sampling: Points in a row and in a column of a cell that are averaged, at least 1.

    Returns:
        ``(R, C, size, size)``.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        return pool_by_cells(feature, rois, stride, size, sampling=sampling)
    return ps_roi_align(feature, rois, size, 1 / stride, sampling)


def pool_by_cells(feature: Tensor, rois: Tensor, stride: int, size: int, *, sampling: int) -> Tensor:
    """Compute :func:`position_sensitive_pool` by RoIAlign, for which each cell is a region of one cell.

    The channels of each cell become an image of their own.
    """
    images, channels, height, width = feature.shape
    cells, own = size * size, channels // (size * size)
    maps = feature.view(images, own, cells, height, width).transpose(1, 2).reshape(images * cells, own, height, width)
    cell = torch.arange(cells, device=feature.device, dtype=rois.dtype)
    row = (cell / size).floor()
    column = cell - row * size
    image, left, top, right, bottom = (value.unsqueeze(1) for value in rois.unbind(1))  # (R, 1)
    wide, high = (right - left) / size, (bottom - top) / size
    x, y = left + column * wide, top + row * high  # (R, size * size)
    regions = torch.stack([image * cells + cell, x, y, x + wide, y + high], dim=-1)
    pooled = roi_align(maps, regions.view(-1, 5), 1, 1 / stride, sampling, aligned=True)
    return pooled.view(-1, cells, own).transpose(1, 2).reshape(-1, own, size, size)
