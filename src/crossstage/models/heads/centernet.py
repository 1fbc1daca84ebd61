"""CenterNet's head (arXiv 1904.07850): a heat map of centres for each class, sizes and offsets; peaks instead of NMS.

As in the authors' release. Two things differ: no limit of 128 objects for an image, and decoded boxes stand in the
order of classes and cells rather than of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.ops.heatmaps import best, centre_focal_loss, draw, locate, peaks
from crossstage.ops.nms import NMS
from crossstage.structures import Targets

_MOST = 100  # boxes of an image (section 3.1)
_PRIOR = -2.19  # logit of a centre before training: a probability of 0.1 (RetinaNet, section 3.3)


@dataclass(frozen=True)
class CenterNetLossConfig:
    """How a CenterNet head is trained.

    Attributes:
        alpha: Exponent of the focal loss for what is hard.
        beta: Exponent of the focal loss for cells near a centre.
        size_gain: The weight of the loss of sizes, in cells.
        offset_gain: The weight of the loss of offsets, in cells.

    Raises:
        ConfigError: A value is negative or not finite.
    """

    alpha: float = 2.0
    beta: float = 4.0
    size_gain: float = 0.1
    offset_gain: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, *vars(self))


@dataclass(frozen=True, kw_only=True)
class CenterNetConfig(HeadConfig):
    """Settings of a CenterNet head.

    Attributes:
        branch_channels: Channels of the 3x3 convolution that opens each of the three branches.
        loss: How the head is trained.
    """

    branch_channels: int = 64
    loss: CenterNetLossConfig = field(default_factory=CenterNetLossConfig)

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> CenterNetHead:
        """See :meth:`HeadConfig.build`."""
        return CenterNetHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"centernet": CenterNetConfig()}


class CenterNetHead(Head):
    """Predict a heat map for each class, and at each cell the size and the offset of an object whose centre it holds.

    Shape: a list whose first map is ``(N, channels[0], H, W)`` to logits ``heatmap`` ``(N, num_classes, H, W)``,
    ``size`` ``(N, 2, H, W)``, width and height in cells, and ``offset`` ``(N, 2, H, W)``, right and down in cells.

    Args:
        row: The settings.
        channels: Channels of the neck's maps.
        strides: Strides of the neck's maps; the first alone is read.
        num_classes: Number of classes to tell apart, at least 1.
    """

    nms = NMS(kind="none", max_detections=_MOST)
    shared_rows = "sizes and offsets"
    row: CenterNetConfig

    def __init__(self, row: CenterNetConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        self.stride = strides[0]
        self.heatmap = _branch(channels[0], row.branch_channels, num_classes, _PRIOR)
        self.size = _branch(channels[0], row.branch_channels, 2, 0.0)
        self.offset = _branch(channels[0], row.branch_channels, 2, 0.0)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return ("heatmap", "size", "offset")

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the three maps."""
        x = features[0]
        return {"heatmap": self.heatmap(x), "size": self.size(x), "offset": self.offset(x)}

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; the 100 highest peaks of an image, each with a score for its class alone."""
        del image_size
        width = raw["heatmap"].shape[3]
        scores, class_ids, cells = best(peaks(raw["heatmap"].sigmoid()), _MOST)
        size, offset = (
            raw[name].flatten(2).transpose(1, 2).gather(1, cells.unsqueeze(-1).expand(-1, -1, 2))
            for name in ("size", "offset")
        )
        row = cells // width
        centre = torch.stack([cells - row * width, row], dim=-1) + offset
        boxes = torch.cat([centre - size / 2, centre + size / 2], dim=-1) * self.stride
        own = class_ids.unsqueeze(-1) == torch.arange(self.num_classes, device=class_ids.device)
        return boxes, scores.unsqueeze(-1) * own

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``heatmap``, ``size`` and ``offset``."""
        del image_size
        logits, gains = raw["heatmap"], self.row.loss
        batch, classes, height, width = logits.shape
        centres = locate(targets, self.stride, (height, width))
        target = draw(centres, targets.class_ids[centres.object_index], (batch, classes, height, width))
        at = (centres.image_index, slice(None), centres.row, centres.column)
        values = 2 * len(centres.row) + 1e-4  # as the authors divide, so that there may be none
        return {
            "heatmap": centre_focal_loss(logits, target.to(logits), gains.alpha, gains.beta),
            "size": gains.size_gain * F.l1_loss(raw["size"][at], centres.sizes.to(logits), reduction="sum") / values,
            "offset": gains.offset_gain
            * F.l1_loss(raw["offset"][at], centres.offsets.to(logits), reduction="sum")
            / values,
        }

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`: the heat map's last convolution has a row for each class."""
        rows = [[class_id] for class_id in range(num_classes)]
        return {"heatmap.2.weight": rows, "heatmap.2.bias": rows}


def _branch(in_channels: int, width: int, out_channels: int, bias: float) -> nn.Sequential:
    """Build a 3x3 convolution with ReLU and a 1x1 convolution; biases start at 0, the last at ``bias``."""
    first, last = nn.Conv2d(in_channels, width, 3, padding=1), nn.Conv2d(width, out_channels, 1)
    assert first.bias is not None and last.bias is not None
    nn.init.zeros_(first.bias)
    nn.init.constant_(last.bias, bias)
    return nn.Sequential(first, nn.ReLU(inplace=True), last)
