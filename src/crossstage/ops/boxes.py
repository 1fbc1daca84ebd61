"""Box arithmetic shared by heads and by Darknet's output layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image


def cell_grid(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Column and row indices of a map: two ``(H, W)`` tensors of ``like``'s type and device."""
    rows = torch.arange(height, device=like.device, dtype=like.dtype)
    columns = torch.arange(width, device=like.device, dtype=like.dtype)
    row, column = torch.meshgrid(rows, columns, indexing="ij")
    return column, row


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size to corners, along the last dimension: ``(..., 4) -> (..., 4)``."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_to(boxes_xyxy: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Clip the boxes of each image to it.

    Args:
        boxes_xyxy: ``(N, K, 4)`` corners in pixels.
        sizes: Height and width of each of the ``N`` images in pixels.
    """
    return torch.stack([clip_boxes_to_image(boxes, size) for boxes, size in zip(boxes_xyxy, sizes, strict=True)])


def shape_iou(sizes: Tensor, anchors: Tensor) -> Tensor:
    """IoU of boxes laid on one corner: widths and heights ``(M, 2)`` and ``(A, 2)`` to ``(M, A)``."""
    inter = torch.minimum(sizes[:, None], anchors[None]).prod(-1)
    return inter / (sizes.prod(-1)[:, None] + anchors.prod(-1)[None] - inter)


def decode_yolo(
    raw: Tensor,
    anchors: Sequence[tuple[float, float]],
    *,
    input_size: tuple[int, int],
    scale_x_y: float = 1.0,
    new_coords: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Decode one YOLO map (YOLOv3 section 2.1; ``scale_x_y`` from YOLOv4 section 3.4).

    With :math:`c` the cell, :math:`s` the stride, :math:`p` the anchor and :math:`k` ``scale_x_y``:

    .. math::
        b_{xy} &= s\,(k\,\sigma(t_{xy}) - (k - 1) / 2 + c_{xy}) \\
        b_{wh} &= p\,e^{t_{wh}}                                 \\
        score &= \sigma(t_{obj})\,\sigma(t_{class})

    Args:
        raw: ``(N, A * (5 + classes), H, W)``, anchor-major: x, y, w, h, objectness, classes.
        anchors: ``A`` pairs of width and height in pixels of the input.
        input_size: Height and width of the network's input in pixels.
        scale_x_y: Stretch of the centre's range, 1 or a little more, so that it can reach the cell's border.
        new_coords: The raw values have passed a sigmoid already and sizes are :math:`p\,(2 t_{wh})^2` (Scaled-YOLOv4).

    Returns:
        Boxes ``(N, A * H * W, 4)`` as xyxy in pixels of the input, and scores ``(N, A * H * W, classes)`` in [0, 1];
        anchors outermost, then rows, then columns.
    """
    batch, _, height, width = raw.shape
    raw = raw.view(batch, len(anchors), -1, height, width)
    column, row = cell_grid(height, width, raw)
    sizes = raw.new_tensor(list(anchors)).view(1, len(anchors), 2, 1, 1)
    if new_coords:
        centre, size, confidence = raw[:, :, 0:2], (2 * raw[:, :, 2:4]).square() * sizes, raw[:, :, 4:]
    else:
        centre, size, confidence = raw[:, :, 0:2].sigmoid(), raw[:, :, 2:4].exp() * sizes, raw[:, :, 4:].sigmoid()
    centre = centre * scale_x_y - (scale_x_y - 1) / 2
    centre_x = (centre[:, :, 0] + column) * (input_size[1] / width)
    centre_y = (centre[:, :, 1] + row) * (input_size[0] / height)
    boxes = torch.stack([centre_x, centre_y, size[:, :, 0], size[:, :, 1]], dim=-1)
    scores = confidence[:, :, :1] * confidence[:, :, 1:]
    return cxcywh_to_xyxy(boxes).flatten(1, 3), scores.permute(0, 1, 3, 4, 2).flatten(1, 3)
