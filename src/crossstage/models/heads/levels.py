"""Raw tensors of heads that predict at every cell: a map for each part and stride, such as ``classes8``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossstage.models.heads.base import Raw
from crossstage.ops.points import cell_corners, cell_points


def rows(tensor: Tensor) -> Tensor:
    """Return a map ``(N, C, H, W)`` row by row: ``(N, H * W, C)``."""
    return tensor.flatten(2).transpose(1, 2)


def flat(raw: Raw, part: str, strides: Sequence[int]) -> Tensor:
    """Return one part of all levels, level after level, row by row: ``(N, K, C)``.

    Args:
        raw: Raw tensors, of which ``<part><stride>`` is one for each stride.
        part: Which of a level's tensors.
        strides: Strides of the levels.
    """
    return torch.cat([rows(raw[f"{part}{stride}"]) for stride in strides], dim=1)


def map_sizes(raw: Raw, part: str, strides: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width of each level's map in cells; see :func:`flat`."""
    return [(x.shape[2], x.shape[3]) for x in (raw[f"{part}{stride}"] for stride in strides)]


def centres(raw: Raw, part: str, strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the centres of all cells ``(K, 2)`` and the strides of their levels ``(K,)``, in pixels of the input."""
    like = raw[f"{part}{strides[0]}"]
    sizes = map_sizes(raw, part, strides)
    return _joined([cell_points(size, stride, like) for size, stride in zip(sizes, strides, strict=True)], strides)


def corners(raw: Raw, part: str, strides: Sequence[int], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the upper left corners of all cells ``(K, 2)`` and the strides of their levels ``(K,)``, in pixels.

    Args:
        raw: Raw tensors, see :func:`flat`.
        part: Which of a level's tensors.
        strides: Strides of the levels.
        image_size: Height and width of the input in pixels.
    """
    like = raw[f"{part}{strides[0]}"]
    return _joined([cell_corners(size, image_size, like) for size in map_sizes(raw, part, strides)], strides)


def _joined(points: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    each = [at.new_full((len(at),), float(stride)) for at, stride in zip(points, strides, strict=True)]
    return torch.cat(list(points)), torch.cat(each)
