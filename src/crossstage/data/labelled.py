"""Images with their objects, as they were read and on their way into a batch; masks drawn in pixels of the input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes

from crossstage.data.masks import Masks, no_masks, rasterise
from crossstage.data.records import Objects
from crossstage.inference.images import Pixels
from crossstage.ops.masks import resize


class LabelledPixels(NamedTuple):
    """An image as it was read, and its objects.

    Attributes:
        pixels: ``(H, W, 3)`` RGB uint8.
        boxes_xyxy: ``(n, 4)`` float32 corners in its pixels.
        class_ids: ``(n,)`` int64.
        masks: The ``n`` masks, not drawn yet; an object without one has its box for a mask. None where masks are not
            wanted.
    """

    pixels: Pixels
    boxes_xyxy: Tensor
    class_ids: Tensor
    masks: Masks | None = None


class Labelled(NamedTuple):
    """An image on its way into a batch, and its objects.

    Attributes:
        image: ``(3, H, W)`` float32 RGB in [0, 1].
        boxes: ``(n, 4)`` xyxy in its pixels; they may reach out of it.
        class_ids: ``(n,)`` int64.
        masks: ``(n, H, W)`` uint8, 1 where the object is; None where masks are not wanted.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    class_ids: Tensor
    masks: tv_tensors.Mask | None = None


def labelled(pixels: Pixels, objects: Objects, *, masks: bool = False) -> LabelledPixels:
    """Return an image as it was read, with its objects as tensors.

    Args:
        pixels: ``(H, W, 3)`` RGB uint8.
        objects: The objects.
        masks: Whether their masks are wanted.
    """
    boxes = torch.from_numpy(objects.boxes_xyxy.copy()).reshape(-1, 4)
    wanted = (objects.masks or no_masks(len(boxes))) if masks else None
    return LabelledPixels(pixels, boxes, torch.from_numpy(objects.class_ids), wanted)


def wrap(image: Tensor, boxes: Tensor, class_ids: Tensor, masks: Tensor | None) -> Labelled:
    """Wrap tensors for transforms, which are not to clip boxes: :func:`clip` has to know what went out of sight."""
    height, width = image.shape[-2:]
    wrapped = tv_tensors.BoundingBoxes(
        boxes.reshape(-1, 4), format="XYXY", canvas_size=(height, width), clamping_mode=None
    )  # pyright: ignore[reportCallIssue]
    return Labelled(tv_tensors.Image(image), wrapped, class_ids, None if masks is None else tv_tensors.Mask(masks))


def size_of(sample: LabelledPixels) -> tuple[int, int]:
    """Return height and width in pixels."""
    return sample.pixels.shape[0], sample.pixels.shape[1]


def draw_masks(
    sample: LabelledPixels,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    offset: tuple[int, int],
    canvas: tuple[int, int],
) -> Tensor | None:
    """Draw masks in pixels of their image, one at a time, and lay them onto a canvas as the image is laid.

    Args:
        sample: The image and its objects.
        window: First row and column, and rows and columns, of the piece of the image that is taken.
        size: Height and width that the piece is resized to.
        offset: Rows and columns of the canvas before the piece, which lies inside.
        canvas: Height and width of the canvas.

    Returns:
        ``(n, *canvas)`` uint8; None where masks are not wanted.
    """
    if sample.masks is None:
        return None
    (row, column, height, width), (top, left) = window, offset
    drawn = torch.zeros(len(sample.masks), *canvas, dtype=torch.uint8)
    for one, mask, box in zip(drawn, sample.masks, sample.boxes_xyxy.tolist(), strict=True):
        if box[0] >= column + width or box[1] >= row + height or box[2] <= column or box[3] <= row:
            continue  # out of sight
        whole = rasterise(mask, size_of(sample), box)
        piece = torch.from_numpy(np.ascontiguousarray(whole[row : row + height, column : column + width]))
        one[top : top + size[0], left : left + size[1]] = resize(piece, size)
    return drawn


def pad_masks(masks: Tensor, size: tuple[int, int], offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Lay masks ``(n, H, W)`` onto empty ones of a size, after some rows and columns of these."""
    if masks.shape[1:] == size:
        return masks.as_subclass(Tensor)
    (top, left), (height, width) = offset, masks.shape[1:]
    padded = masks.new_zeros(len(masks), *size).as_subclass(Tensor)
    padded[:, top : top + height, left : left + width] = masks
    return padded


def tighten(sample: Labelled) -> Labelled:
    """Make the boxes of a turned image those of its masks: a turned box holds more than its object."""
    if sample.masks is None or not len(sample.masks):
        return sample
    masks = sample.masks.as_subclass(Tensor)
    return wrap(sample.image, boxes_of(masks), sample.class_ids, masks)


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes ``(n, 4)`` of masks ``(n, H, W)``, none of which is empty."""
    return masks_to_boxes(masks) + torch.tensor([0.0, 0, 1, 1])  # which counts pixels, not their borders
