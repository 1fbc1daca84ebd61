"""Images to network input: the one resize, letterbox, crop and padding of prediction, training and all else.

:func:`place` says where an image lies in the input, from sizes alone; :func:`prepare` puts its pixels there;
:func:`stack` makes a batch of them. What follows, the order and scale of colours and their mean, is
:meth:`~crossstage.structures.Preprocessing.normalise`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossstage.inference.images import Pixels
from crossstage.structures import Colour, Placement, Preprocessing, Resample


def place(image_size: tuple[int, int], preprocessing: Preprocessing) -> Placement:
    """Return where an image of some size lies in the input.

    Args:
        image_size: Height and width of the image in pixels.
        preprocessing: How images become input.
    """
    height, width = image_size
    rows, columns = preprocessing.size
    if preprocessing.resize == "shortest":
        resized = (_floored if preprocessing.resampling == "sharp" else _shortest)(image_size, preprocessing.size)
        rows, columns = (-(-side // preprocessing.divisor) * preprocessing.divisor for side in resized)
    elif preprocessing.resize == "stretch":
        resized = rows, columns
    elif preprocessing.resize == "crop":
        ratio = max(rows / height, columns / width) / preprocessing.crop
        resized = max(rows, round(height * ratio)), max(columns, round(width * ratio))
    elif rows * width < columns * height:  # whole numbers, as in Darknet: a float ratio can lose the last row
        resized = rows, max(1, width * rows // height)
    else:
        resized = max(1, height * columns // width), columns
    top, left = (rows - resized[0]) // 2, (columns - resized[1]) // 2
    if preprocessing.resize == "crop":  # of an odd rest, the larger half is cut off below and to the right
        top, left = -((resized[0] - rows) // 2), -((resized[1] - columns) // 2)
    elif preprocessing.resize == "shortest" or preprocessing.align == "top-left":
        top, left = 0, 0
    scale = resized[0] / height, resized[1] / width
    return Placement((height, width), scale, (top, left), (rows, columns))


def _shortest(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width that make the shorter side ``size[0]``, or the longer one ``size[1]`` if that is less."""
    shorter, longer = min(image_size), max(image_size)
    wanted, side = (size[0], shorter) if size[0] * longer <= size[1] * shorter else (size[1], longer)
    height, width = (max(1, (2 * length * wanted + side) // (2 * side)) for length in image_size)  # to the nearest
    return height, width


def _floored(image_size: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the same as torchvision's detectors round it: down, of a product of floats."""
    factor = min(size[0] / min(image_size), size[1] / max(image_size))
    height, width = (max(1, math.floor(length * factor)) for length in image_size)
    return height, width


def prepare(image: Pixels, preprocessing: Preprocessing) -> tuple[Tensor, Placement]:
    """Resize an image and lay it into the input.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        preprocessing: How images become input.

    Returns:
        ``(3, H, W)`` float32 RGB in [0, 1], and where the image lies in it. Unless images are resized to their
        ``"shortest"`` side, all have ``preprocessing.size``.
    """
    placement = place((image.shape[0], image.shape[1]), preprocessing)
    pixels = _resized(image, placement.resized, preprocessing)
    (top, left), (rows, columns) = placement.offset, placement.input_size
    if preprocessing.resize == "crop":
        return (pixels[:, -top : rows - top, -left : columns - left] / 255).clamp_(0, 1), placement
    return pad(_to_unit(pixels), (rows, columns), preprocessing.padding, (top, left)), placement


def resize(image: Pixels, size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    """Resize an image, or a piece of one, by the rule of its preprocessing.

    Unless its ``resample`` says otherwise, images that are stretched or letterboxed are resized as Darknet does it:
    bilinear between corner-aligned pixels, without smoothing. Crops, and images that are resized to their shortest
    side, are resized as torchvision, timm and detectron2 do it: bilinear, smoothed where they shrink.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        size: Height and width to resize to.
        preprocessing: How images become input; its way of resizing counts here, not its size.

    Returns:
        ``(3, *size)`` float32 RGB in [0, 1].
    """
    return _to_unit(_resized(image, size, preprocessing))


def pad(image: Tensor, size: tuple[int, int], colour: Colour, offset: tuple[int, int] = (0, 0)) -> Tensor:
    """Lay an image onto a canvas of one colour.

    Args:
        image: ``(3, H, W)``.
        size: Height and width of the canvas.
        colour: Colour of the canvas, in the order and scale of the image's.
        offset: Rows and columns of the canvas before the image.

    Returns:
        ``(3, *size)``; the image itself where it fills the canvas.
    """
    if image.shape[1:] == size:
        return image.contiguous()
    (height, width), (top, left) = image.shape[1:], offset
    canvas = image.new_tensor(colour).view(3, 1, 1).repeat(1, *size)
    canvas[:, top : top + height, left : left + width] = image
    return canvas


def stack(images: Sequence[Tensor], preprocessing: Preprocessing) -> Tensor:
    """Return a batch ``(N, 3, H, W)`` of prepared images; smaller ones are padded below and to the right."""
    if len(images) == 1:
        return images[0].unsqueeze(0)
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(shapes) > 1:
        height, width = (max(sides) for sides in zip(*shapes, strict=True))
        images = [pad(image, (height, width), preprocessing.padding) for image in images]
    return torch.stack(list(images))


def _resized(image: Pixels, size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    """Return ``(3, *size)`` float32 of bytes, from 0 to 255 but for rounding."""
    resampling = preprocessing.resampling
    return _aligned(image, size) if resampling == "corners" else _between_areas(image, size, resampling)


def _to_unit(pixels: Tensor) -> Tensor:
    """Scale bytes to [0, 1] in place; interpolated white can exceed 1 by a rounding error."""
    return pixels.div_(255).clamp_(0, 1)


def _between_areas(image: Pixels, size: tuple[int, int], resampling: Resample) -> Tensor:
    """Resize between areas of pixels, smoothed where the image shrinks unless that is to stay sharp."""
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1).unsqueeze(0).float()
    if size != image.shape[:2]:
        mode = "bicubic" if resampling == "cubic" else "bilinear"
        pixels = F.interpolate(pixels, size=size, mode=mode, align_corners=False, antialias=resampling != "sharp")
    return pixels[0]


def _aligned(image: Pixels, size: tuple[int, int]) -> Tensor:
    """Resize between corner-aligned pixels; only the rows that are needed leave uint8, which matters for photos."""
    height = image.shape[0]
    if size[0] < height:
        position = torch.linspace(0, height - 1, size[0], dtype=torch.float64) if size[0] > 1 else torch.zeros(1)
        upper = position.floor().long()
        lower = (upper + 1).clamp(max=height - 1)
        weight = (position - upper).float().view(-1, 1, 1)
        rows = torch.from_numpy(image[upper.numpy()]).float()
        rows.lerp_(torch.from_numpy(image[lower.numpy()]).float(), weight)
    else:
        rows = torch.from_numpy(np.require(image, requirements=["C", "W"])).float()
    chw = rows.permute(2, 0, 1)
    if chw.shape[1] != size[0]:
        chw = F.interpolate(chw.unsqueeze(0), size=size, mode="bilinear", align_corners=True)[0]
    elif chw.shape[2] != size[1]:
        chw = F.interpolate(chw, size=size[1], mode="linear", align_corners=True)  # the same numbers in half the time
    return chw
