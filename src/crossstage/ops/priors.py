"""What predictions start from: anchors, bound to the stride of the map that they stand on, and SSD's default boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crossstage.ops.boxes import cell_grid

Sides = tuple[float, float]


@dataclass(frozen=True)
class AnchorLevel:
    """The anchors of one map, bound to its stride so that they cannot land on another.

    Attributes:
        stride: Pixels of the input per cell.
        anchors: Width and height of each anchor in pixels of the input.
        scale_x_y: Stretch of the centre's range (YOLOv4, section 3.4).
    """

    stride: int
    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float = 1.0

    @property
    def mean_area(self) -> float:
        """The mean of the anchors' areas in square pixels."""
        return sum(width * height for width, height in self.anchors) / len(self.anchors)


def default_sides(scales: Sequence[float], ratios: Sequence[Sequence[float]]) -> list[list[Sides]]:
    """Return widths and heights of SSD's default boxes for each level (arXiv 1512.02325, section 2.2).

    Of each level they are a square of its scale, a square of the geometric mean of its scale and the next, and for each
    ratio a box of its scale's area that lies, then one that stands.

    Args:
        scales: One for each level, and one more.
        ratios: Ratios above 1 of the longer to the shorter side, for each level.
    """
    levels = []
    for scale, following, level in zip(scales, scales[1:], ratios, strict=False):
        mean = math.sqrt(scale * following)
        sides: list[Sides] = [(scale, scale), (mean, mean)]
        for ratio in level:
            longer, shorter = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(longer, shorter), (shorter, longer)]
        levels.append(sides)
    return levels


def prior_grid(
    shapes: Sequence[Sequence[int]],
    steps: Sequence[float],
    sides: Sequence[Sequence[Sides]],
    image_size: tuple[int, int],
    like: Tensor,
) -> Tensor:
    """Lay priors over the cells of maps: level after level, within one by row, column and prior.

    It differs from :class:`torchvision.models.detection.anchor_utils.DefaultBoxGenerator` in that it takes any sides
    and can be exported for inputs of any size.

    Args:
        shapes: Height and width of each map in cells.
        steps: Pixels of the input from one cell of a map to the next; cell 0 has its centre at half a step.
        sides: Width and height of each of a map's priors, as shares of the input's.
        image_size: Height and width of the input in pixels.
        like: A tensor of the type and device that the result is to have.

    Returns:
        ``(K, 4)``: centre, width and height as shares of the input's width and height.
    """
    levels = []
    for (height, width), step, level in zip(shapes, steps, sides, strict=True):
        column, row = cell_grid(height, width, like)
        centres = torch.stack([(column + 0.5) / (image_size[1] / step), (row + 0.5) / (image_size[0] / step)], dim=-1)
        centres = centres.view(-1, 1, 2).expand(-1, len(level), 2)
        sizes = like.new_tensor(level).expand(centres.shape)
        levels.append(torch.cat([centres, sizes], dim=-1).flatten(0, 1))
    return torch.cat(levels)


def to_pixels(priors: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Turn priors ``(K, 4)``, centre and sides as shares of the input, into corners in its pixels."""
    half = 0.5 * priors[:, 2:]
    height, width = image_size
    low, high = priors[:, :2] - half, priors[:, :2] + half
    return torch.stack([low[:, 0] * width, low[:, 1] * height, high[:, 0] * width, high[:, 1] * height], dim=-1)
