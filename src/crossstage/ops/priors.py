"""What predictions start from: anchors, bound to the stride of the map that they stand on."""

from __future__ import annotations

from dataclasses import dataclass


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
