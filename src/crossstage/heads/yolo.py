"""The YOLOv3 head (arXiv 1804.02767, section 2): one 1x1 convolution on each map, and how to read its output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.nn.boxes import decode_yolo


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
        """Mean of the anchors' areas in square pixels."""
        return sum(width * height for width, height in self.anchors) / len(self.anchors)


class YoloHead(nn.Module):
    """Predict boxes, objectness and classes at every cell and anchor of each map.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to a list of raw ``(N, A_i * (5 + num_classes), H_i, W_i)``, with
    for each anchor x, y, w, h, objectness and classes.

    Args:
        channels: Channels of the neck's maps, shallow to deep.
        strides: Strides of the neck's maps, shallow to deep.
        levels: Anchors for each of these strides.
        num_classes: Classes to tell apart, at least 1.

    Raises:
        ConfigError: The levels' strides are not the maps', an anchor is not positive and finite, anchors do not grow
            with the stride (the reversed masks that make a network train to nothing), or there is no class.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], levels: Sequence[AnchorLevel], num_classes: int
    ) -> None:
        super().__init__()
        _check(strides, levels, num_classes)
        self.levels = tuple(levels)
        self.num_classes = num_classes
        self.predict = nn.ModuleList(
            nn.Conv2d(width, len(level.anchors) * (5 + num_classes), 1)
            for width, level in zip(channels, levels, strict=True)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return the raw map of each level."""
        return [predict(feature) for predict, feature in zip(self.predict, features, strict=True)]

    def decode(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Turn raw maps into boxes and scores.

        Args:
            raw: What ``forward`` returned.

        Returns:
            Boxes ``(N, K, 4)`` as xyxy in pixels of the input and scores ``(N, K, num_classes)`` in [0, 1], levels
            shallow to deep, see :func:`crossstage.nn.boxes.decode_yolo` for the order within one.
        """
        return decode_levels(raw, self.levels)


def decode_levels(raw: Sequence[Tensor], levels: Sequence[AnchorLevel]) -> tuple[Tensor, Tensor]:
    """Turn raw maps into boxes and scores: :meth:`YoloHead.decode` for maps that have left their head.

    Args:
        raw: For each level ``(N, A_i * (5 + num_classes), H_i, W_i)``.
        levels: Strides and anchors.

    Returns:
        Boxes ``(N, K, 4)`` as xyxy in pixels of the input and scores ``(N, K, num_classes)`` in [0, 1].
    """
    decoded = [
        decode_yolo(
            tensor,
            level.anchors,
            input_size=(tensor.shape[2] * level.stride, tensor.shape[3] * level.stride),
            scale_x_y=level.scale_x_y,
        )
        for tensor, level in zip(raw, levels, strict=True)
    ]
    boxes, scores = zip(*decoded, strict=True)
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)


def _check(strides: Sequence[int], levels: Sequence[AnchorLevel], num_classes: int) -> None:
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}; expected at least 1")
    found = [level.stride for level in levels]
    if found != list(strides):
        raise ConfigError(f"anchors are bound to strides {found}; expected those of the neck's maps, {list(strides)}")
    for level in levels:
        if not level.anchors or not all(math.isfinite(side) and side > 0 for pair in level.anchors for side in pair):
            raise ConfigError(f"anchors {level.anchors} at stride {level.stride}; expected positive, finite sizes")
    for finer, coarser in pairwise(levels):
        if coarser.mean_area <= finer.mean_area:
            raise ConfigError(
                f"anchors at stride {coarser.stride} (mean area {coarser.mean_area:.0f}) are not larger than those at "
                f"stride {finer.stride} ({finer.mean_area:.0f}); are the masks in reverse order?"
            )
