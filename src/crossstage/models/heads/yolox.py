"""YOLOX's head (arXiv 2107.08430, section 2.1): decoupled branches, without anchors, trained by SimOTA.

Each map has layers of its own: a 1x1 convolution, then one branch for classes and one for boxes and objectness. A point
predicts one box: its centre in strides from the upper left corner of its cell, and the logarithms of its sides in
strides.

Deliberately different: a box may be found for several classes, as with every head here, where the authors keep its best
class alone; and memory of the assignment does not grow with objects times points times classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.models.heads.levels import centres, flat
from crossstage.nn import ConvNormAct, ConvStyle, spatial_conv
from crossstage.ops.boxes import cxcywh_to_xyxy
from crossstage.ops.losses import paired_iou
from crossstage.ops.matching import SIM_OTA, Predictions, match_dynamically
from crossstage.ops.nms import NMS
from crossstage.structures import Targets

PRIOR = 0.01  # score of every class, and of there being an object, before training
MOST_DERIVED = 256  # channels of branches whose width is not given
MAX_CONVS = 100
_LEAST_SIDE = 1e-8  # strides, so that a box without area has a logarithm


@dataclass(frozen=True)
class YoloxLoss:
    """How a YOLOX head is trained.

    Attributes:
        radius: Points less than so many strides from an object's centre are its candidates.
        top: How many of an object's highest IoUs say how many points it takes.
        box_gain: The weight of the loss of boxes, 1 - IoU².
        l1: The weight of the distance of raw values to what they should be; 1 in the last epochs of the authors, which
            have neither mosaic nor mixup, 0 before.

    Raises:
        ConfigError: A value is out of range.
    """

    radius: float = SIM_OTA.radius
    top: int = SIM_OTA.top
    box_gain: float = 5.0
    l1: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "box_gain", "l1")
        check_numbers(self, "radius", positive=True)
        check_numbers(self, "top", least=1, whole=True)


@dataclass(frozen=True, kw_only=True)
class YoloxConfig(HeadConfig):
    """Settings of a YOLOX head.

    Attributes:
        branch_width: Channels of the branches; None takes those of the shallowest map, as YOLOX does, 256 at most.
        branch_convs: 3x3 convolutions of each branch.
        head_depthwise: Whether they are separable.
        head_act: Activation of the convolutions.
        loss: How the head is trained.

    Raises:
        ConfigError: A value is out of range.
    """

    branch_width: int | None = None
    branch_convs: int = 2
    head_depthwise: bool = False
    head_act: str = "silu"
    loss: YoloxLoss = field(default_factory=YoloxLoss)

    def __post_init__(self) -> None:
        if self.branch_width is not None and self.branch_width < 1:
            raise ConfigError(f"branch_width is {self.branch_width}; expected at least 1, or None")
        if not 0 <= self.branch_convs <= MAX_CONVS:
            raise ConfigError(f"branch_convs is {self.branch_convs}; expected 0 to {MAX_CONVS}")
        _ = self.style.activate()

    @property
    def style(self) -> ConvStyle:
        """Normalisation and activation of every convolution but the last ones."""
        return ConvStyle(self.head_act, momentum=0.03, eps=1e-3)

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> YoloxHead:
        """See :meth:`HeadConfig.build`."""
        return YoloxHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"yolox": YoloxConfig()}


class YoloxHead(Head):
    """Predict classes, a box and whether there is an object, at every cell of each map.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to raw maps, for each stride ``boxes8`` ``(N, 4, H, W)`` (centre and
    logarithms of the sides, in strides), ``objectness8`` ``(N, 1, H, W)`` and ``classes8`` ``(N, num_classes, H, W)``
    logits.

    Args:
        row: The head's settings.
        channels: Channels of the neck's maps.
        strides: Strides of the neck's maps.
        num_classes: Number of classes to tell apart, at least 1.
    """

    nms: ClassVar[NMS] = NMS(iou=0.65)
    weighs_classes = True
    shared_rows = "boxes and objectness"
    row: YoloxConfig

    def __init__(self, row: YoloxConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        width = row.branch_width or min(channels[0], MOST_DERIVED)
        self.stems = nn.ModuleList(ConvNormAct(wide, width, style=row.style) for wide in channels)
        self.class_branches = nn.ModuleList(_branch(width, row) for _ in channels)
        self.box_branches = nn.ModuleList(_branch(width, row) for _ in channels)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in channels)
        self.objectness = nn.ModuleList(_logits(width, 1) for _ in channels)
        self.classes = nn.ModuleList(_logits(width, num_classes) for _ in channels)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"{part}{stride}" for stride in self.strides for part in ("boxes", "objectness", "classes"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See :meth:`Head.forward`."""
        raw: dict[str, Tensor] = {}
        for level, (stride, feature) in enumerate(zip(self.strides, features, strict=True)):
            x = self.stems[level](feature)
            boxes, classes = self.box_branches[level](x), self.class_branches[level](x)
            raw[f"boxes{stride}"] = self.boxes[level](boxes)
            raw[f"objectness{stride}"] = self.objectness[level](boxes)
            raw[f"classes{stride}"] = self.classes[level](classes)
        return raw

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; level after level, row after row. A score is objectness times class."""
        del image_size
        points, strides = centres(raw, "boxes", self.strides)
        scores = flat(raw, "objectness", self.strides).sigmoid() * flat(raw, "classes", self.strides).sigmoid()
        return _boxes(flat(raw, "boxes", self.strides), points, strides), scores

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`."""
        rows = [[index] for index in range(num_classes)]
        return {f"classes.{level}.{kind}": rows for level in range(len(self.strides)) for kind in ("weight", "bias")}

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``boxes``, ``objectness``, ``classes`` and ``l1``.

        All are sums over the batch, divided by the number of points that find an object, at least 1.
        """
        del image_size
        settings = self.row.loss
        points, strides = centres(raw, "boxes", self.strides)
        predicted, objectness, logits = (flat(raw, part, self.strides) for part in ("boxes", "objectness", "classes"))
        objectness = objectness.squeeze(-1)
        targets = targets._replace(boxes_xyxy=targets.boxes_xyxy.to(predicted))
        with torch.no_grad():
            rule = replace(SIM_OTA, radius=settings.radius, top=settings.top)
            predictions = Predictions(points, strides, _boxes(predicted, points, strides), logits, objectness)
            index, overlaps = match_dynamically(rule, predictions, targets)
        found = index >= 0
        image, point = found.nonzero(as_tuple=True)
        mine = index[image, point]
        boxes, class_ids, own = targets.boxes_xyxy[mine], targets.class_ids[mine], predicted[image, point]
        apart = 1 - paired_iou(_boxes(own, points[point], strides[point]), boxes).square()
        wanted = F.one_hot(class_ids, self.num_classes) * overlaps[image, point].unsqueeze(-1)
        classes = F.binary_cross_entropy_with_logits(logits[image, point], wanted, reduction="none")
        if self.class_weights is not None:
            classes = classes * self.class_weights.to(classes)
        parts = {
            "boxes": settings.box_gain * apart.sum(),
            "objectness": F.binary_cross_entropy_with_logits(objectness, found.to(objectness), reduction="sum"),
            "classes": classes.sum(),
            "l1": settings.l1 * (own - _raw_boxes(boxes, points[point], strides[point])).abs().sum(),
        }
        count = max(len(mine), 1)
        return {name: part / count for name, part in parts.items()}


def _boxes(raw: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Decode raw boxes ``(..., K, 4)`` of points ``(K, 2)``, the centres of cells, to xyxy in pixels."""
    stride = strides.unsqueeze(-1)
    centres = raw[..., :2] * stride + (points - stride / 2)
    return cxcywh_to_xyxy(torch.cat([centres, raw[..., 2:].exp() * stride], dim=-1))


def _raw_boxes(boxes_xyxy: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Return the raw boxes that points ``(P, 2)``, the centres of cells, should predict: ``(P, 4)``."""
    stride = strides.unsqueeze(-1)
    low, high = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    centres = ((low + high) / 2 - points) / stride + 0.5
    return torch.cat([centres, ((high - low) / stride + _LEAST_SIDE).log()], dim=-1)


def _branch(width: int, row: YoloxConfig) -> nn.Sequential:
    convs = (spatial_conv(width, width, depthwise=row.head_depthwise, style=row.style) for _ in range(row.branch_convs))
    return nn.Sequential(*convs)


def _logits(width: int, count: int) -> nn.Conv2d:
    """Build a 1x1 convolution whose logits start at :data:`PRIOR`."""
    layer = nn.Conv2d(width, count, 1)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, -math.log((1 - PRIOR) / PRIOR))
    return layer
