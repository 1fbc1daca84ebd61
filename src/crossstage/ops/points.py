"""Points that predictions without anchors start from, distances from them to the sides of boxes, and who finds what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.ops.boxes import cell_grid

NO_OBJECT = -1  # what a point is assigned to that is background


def cell_points(map_size: tuple[int, int], stride: int, like: Tensor) -> Tensor:
    """Return the centres of a map's cells.

    Args:
        map_size: Height and width of the map in cells.
        stride: Pixels of the input per cell.
        like: A tensor of the type and device of the result.

    Returns:
        ``(H * W, 2)`` x and y in pixels of the input, row after row.
    """
    column, row = cell_grid(*map_size, like)
    return (torch.stack([column, row], dim=-1).flatten(0, 1) + 0.5) * stride


def cell_corners(map_size: tuple[int, int], image_size: tuple[int, int], like: Tensor) -> Tensor:
    """Return the upper left corners of a map's cells as torchvision's anchors lie.

    Their spacing is the whole number of pixels of the input per cell, which is less than the stride where the input is
    no multiple of it.

    Args:
        map_size: Height and width of the map in cells.
        image_size: Height and width of the input in pixels.
        like: A tensor of the type and device of the result.

    Returns:
        ``(H * W, 2)`` x and y in pixels of the input, row after row.
    """
    column, row = cell_grid(*map_size, like)
    across, down = image_size[1] // map_size[1], image_size[0] // map_size[0]
    return torch.stack([column * across, row * down], dim=-1).flatten(0, 1)


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Return the boxes whose left, top, right and lower sides are so far from points.

    Args:
        points: ``(..., 2)`` x and y.
        distances: ``(..., 4)`` in the same unit; negative ones lead past the point.

    Returns:
        ``(..., 4)`` as xyxy.
    """
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def boxes_to_distances(points: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Return how far the left, top, right and lower sides of boxes are from points: ``(..., 4)``.

    All are positive where the point lies inside of the box.
    """
    return torch.cat([points - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points], dim=-1)


def expected_distances(logits: Tensor) -> Tensor:
    """Return the means of distributions over the distances 0, 1, ... B - 1: logits ``(..., B)`` to ``(...)``.

    They are in units of bins (arXiv 2006.04388, equation 4).
    """
    bins = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return logits.softmax(-1) @ bins


def centreness(distances: Tensor) -> Tensor:
    """Return how close to its box's centre a point is: 1 there, 0 at a side (FCOS, arXiv 1904.01355, equation 3).

    Args:
        distances: ``(..., 4)`` to left, top, right and lower side, all positive.

    Returns:
        ``(...)`` in (0, 1].
    """
    across, down = distances[..., [0, 2]], distances[..., [1, 3]]
    return (across.amin(-1) / across.amax(-1) * (down.amin(-1) / down.amax(-1))).sqrt()


def assign_by_reach(
    points: Sequence[Tensor],
    strides: Sequence[int],
    boxes_xyxy: Tensor,
    *,
    radius: float,
    reach: float,
    closed: bool = True,
) -> Tensor:
    """Assign an image's objects to points as FCOS does (arXiv 1904.01355, section 3.2; 2006.09214 for the radius).

    An object is found by the points inside of its box that are less than ``radius`` strides from its centre, both
    horizontally and vertically, on the level that its size belongs to: the largest of the distances to the sides is at
    most ``reach`` strides there, and at least what the level below reaches. Where boxes overlap, the smallest wins, of
    boxes of one size the first.

    Args:
        points: ``(K_i, 2)`` x and y in pixels of each level's points, shallow to deep.
        strides: Strides of the levels in pixels.
        boxes_xyxy: ``(M, 4)`` corners of the objects in pixels.
        radius: In strides; 0 takes all points inside of the box, as FCOS did at first.
        reach: In strides; the last level has no limit, the first no lower one.
        closed: Whether a distance of exactly a limit belongs to both levels, as in FCOS, or to none, as in torchvision.

    Returns:
        ``(sum of K_i,)`` int64: the index of each point's object, or :data:`NO_OBJECT`.
    """
    count = sum(len(level) for level in points)
    if not len(boxes_xyxy):
        return torch.full((count,), NO_OBJECT, device=boxes_xyxy.device)
    at = torch.cat(list(points))
    stride, low, high = (_by_point(points, values, at) for values in _limits(strides, reach))
    distances = boxes_to_distances(at.unsqueeze(1), boxes_xyxy)  # (K, M, 4)
    longest = distances.amax(-1)
    matches = distances.amin(-1) > 0
    matches &= ((longest >= low) & (longest <= high)) if closed else ((longest > low) & (longest < high))
    if radius:
        centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
        matches &= (at.unsqueeze(1) - centres).abs().amax(-1) < radius * stride
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1)
    smallest, index = torch.where(matches, areas, torch.inf).min(dim=1)
    return torch.where(smallest.isinf(), NO_OBJECT, index)


def _limits(strides: Sequence[int], reach: float) -> tuple[list[float], list[float], list[float]]:
    """Return each level's stride, and the least and the most of its longest distances, in pixels."""
    upper = [reach * stride for stride in strides[:-1]]
    return [float(stride) for stride in strides], [0.0, *upper], [*upper, torch.inf]


def _by_point(points: Sequence[Tensor], values: Sequence[float], like: Tensor) -> Tensor:
    """Repeat a level's value for each of its points: ``(K, 1)``."""
    return torch.cat([like.new_full((len(level), 1), value) for level, value in zip(points, values, strict=True)])
