"""Images to network input, and boxes back to images."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossstage.inference.images import Pixels
from crossstage.structures import Placement, Resize

GREY = 0.5  # around a letterboxed image


def prepare(image: Pixels, size: tuple[int, int], resize: Resize) -> tuple[Tensor, Placement]:
    """Resize an image as Darknet does: bilinear between corner-aligned pixels, without smoothing.

    A crop is resized as torchvision and timm do it instead, smoothed where it shrinks.

    Args:
        image: ``(H, W, 3)`` RGB uint8.
        size: Height and width of the input.
        resize: ``"stretch"``, ``"letterbox"`` to keep the aspect ratio, centred on grey, or ``"crop"`` for the middle.

    Returns:
        ``(3, *size)`` float32 in [0, 1], and where the image lies in it.
    """
    height, width = image.shape[:2]
    if resize == "stretch":
        return _resized(image, size), Placement((height, width), (size[0] / height, size[1] / width), (0, 0))
    if resize == "crop":
        return _cropped(image, size)
    if size[0] * width < size[1] * height:  # whole numbers, as in Darknet: a float ratio can lose the last row
        inner = size[0], max(1, width * size[0] // height)
    else:
        inner = max(1, height * size[1] // width), size[1]
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas = torch.full((3, *size), GREY)
    canvas[:, top : top + inner[0], left : left + inner[1]] = _resized(image, inner)
    return canvas, Placement((height, width), (inner[0] / height, inner[1] / width), (top, left))


def _cropped(image: Pixels, size: tuple[int, int]) -> tuple[Tensor, Placement]:
    height, width = image.shape[:2]
    ratio = max(size[0] / height, size[1] / width)
    whole = max(size[0], round(height * ratio)), max(size[1], round(width * ratio))
    top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1).unsqueeze(0).float()
    if whole != (height, width):
        pixels = F.interpolate(pixels, size=whole, mode="bilinear", align_corners=False, antialias=True)
    cut = pixels[0, :, top : top + size[0], left : left + size[1]]
    return (cut / 255).clamp_(0, 1), Placement((height, width), (whole[0] / height, whole[1] / width), (-top, -left))


def _resized(image: Pixels, size: tuple[int, int]) -> Tensor:
    """Bilinear, corner-aligned; only the rows that are needed leave uint8, which matters for large photos."""
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
    return chw.div_(255).clamp_(max=1).contiguous()  # interpolated white can exceed 1 by a rounding error
