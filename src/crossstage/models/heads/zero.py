"""DAMO-YOLO's head (arXiv 2211.15444, section 3.3): one 1x1 convolution for each task, nothing before it.

Distances to the sides are distributions over a few distances (generalised focal loss, arXiv 2006.04388), from the upper
left corner of a cell. Objects are matched to points by AlignOTA (:data:`~crossstage.ops.matching.ALIGN_OTA`), and a
class's target is the IoU of the predicted box. There is no objectness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.models.heads.levels import corners, flat
from crossstage.ops.losses import distribution_focal, sparse_focal
from crossstage.ops.matching import ALIGN_OTA, Matches, Predictions, match_dynamically
from crossstage.ops.nms import NMS
from crossstage.ops.points import boxes_to_distances, distances_to_boxes, expected_distances
from crossstage.structures import Targets

PRIOR = 0.01  # score of every class before training
MAX_BINS = 256
MARGIN = 0.1  # bins that targets of distances stay below the last one


@dataclass(frozen=True)
class ZeroLoss:
    """How a zero head is trained.

    Attributes:
        class_gain: Weight of the quality focal loss of classes.
        box_gain: Weight of the GIoU loss of boxes.
        distribution_gain: Weight of the distribution focal loss of distances.
        focal_gamma: Exponent that turns the loss of classes towards what is hard.
        top: How many of an object's highest IoUs say how many points find it.
        radius: Points so many strides around an object's centre are candidates as well as those in its box.

    Raises:
        ConfigError: A value is out of range.
    """

    class_gain: float = 1.0
    box_gain: float = 2.0
    distribution_gain: float = 0.25
    focal_gamma: float = 2.0
    top: int = ALIGN_OTA.top
    radius: float = ALIGN_OTA.radius

    def __post_init__(self) -> None:
        check_numbers(self, "class_gain", "box_gain", "distribution_gain", "focal_gamma")
        check_numbers(self, "radius", positive=True)
        check_numbers(self, "top", least=1, whole=True)


@dataclass(frozen=True, kw_only=True)
class ZeroConfig(HeadConfig):
    """Settings of a zero head.

    Attributes:
        bins: Distances that a distribution is over: 0 to ``bins - 1`` strides.
        loss: How the head is trained.

    Raises:
        ConfigError: There are too few or too many bins.
    """

    bins: int = 8
    loss: ZeroLoss = field(default_factory=ZeroLoss)

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= MAX_BINS:
            raise ConfigError(f"bins is {self.bins}; expected 2 to {MAX_BINS}")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> ZeroHead:
        """See :meth:`HeadConfig.build`."""
        return ZeroHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"zero": ZeroConfig()}


class ZeroHead(Head):
    """Predict classes of each cell's upper left corner, and distributions of the distances to the sides of a box.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to raw maps ``classes8`` ``(N, num_classes, H, W)``, logits, and
    ``boxes8`` ``(N, 4 * bins, H, W)``, logits of the distances to left, top, right and lower side in strides, side
    after side, and so on for each stride.

    Args:
        row: The settings.
        channels: Channels of the neck's maps, shallow to deep.
        strides: Strides of the neck's maps, shallow to deep.
        num_classes: Number of classes to tell apart, at least 1.
    """

    nms: ClassVar[NMS] = NMS(iou=0.65)
    weighs_classes = True
    shared_rows = "boxes"
    row: ZeroConfig

    def __init__(self, row: ZeroConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        self.classes = nn.ModuleList(
            _drawn(nn.Conv2d(width, num_classes, 1), math.log(PRIOR / (1 - PRIOR))) for width in channels
        )
        self.boxes = nn.ModuleList(_drawn(nn.Conv2d(width, 4 * row.bins, 1), 0.0) for width in channels)
        self.scales = nn.ParameterList(torch.ones(()) for _ in self.strides)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"{part}{stride}" for stride in self.strides for part in ("classes", "boxes"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return logits of classes and of distances of each map."""
        raw: dict[str, Tensor] = {}
        for index, (stride, feature) in enumerate(zip(self.strides, features, strict=True)):
            raw[f"classes{stride}"] = self.classes[index](feature)
            raw[f"boxes{stride}"] = self.boxes[index](feature) * self.scales[index]
        return raw

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; level by level, row by row."""
        points, strides = corners(raw, "boxes", self.strides, image_size)
        return self._boxes(raw, points, strides), flat(raw, "classes", self.strides).sigmoid()

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`."""
        rows = [[class_id] for class_id in range(num_classes)]
        return {f"classes.{index}.{leaf}": rows for index in range(len(self.strides)) for leaf in ("weight", "bias")}

    def match(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> tuple[Matches, Tensor]:
        """Return which point finds which object, and the decoded boxes ``(N, K, 4)`` as xyxy in pixels.

        Args:
            raw: What :meth:`forward` returned.
            targets: The objects, in pixels of the input.
            image_size: Height and width of the input in pixels.
        """
        settings = self.row.loss
        points, strides = corners(raw, "boxes", self.strides, image_size)
        boxes = self._boxes(raw, points, strides)
        predictions = Predictions(points, strides, boxes.detach(), flat(raw, "classes", self.strides).detach())
        rule = replace(ALIGN_OTA, top=settings.top, radius=settings.radius)
        return match_dynamically(rule, predictions, targets), boxes

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``classes``, ``boxes`` and ``distances``.

        The loss of classes is over the number of points that find an object, those of boxes and distances are weighted
        by the highest scores of these points, and over their sum; both are at least 1.
        """
        settings = self.row.loss
        targets = targets._replace(boxes_xyxy=targets.boxes_xyxy.to(raw[self.raw_names[0]]))
        matches, boxes = self.match(raw, targets, image_size)
        image, point = (matches.object_index >= 0).nonzero(as_tuple=True)
        mine, quality = matches.object_index[image, point], matches.overlaps[image, point]
        logits, wanted = flat(raw, "classes", self.strides), targets.boxes_xyxy[mine]
        index = (image, point, targets.class_ids[mine])
        classes = sparse_focal(logits, index, quality, settings.focal_gamma, self.class_weights)
        weight = logits[image, point].detach().amax(-1).sigmoid()
        total = weight.sum().clamp(min=1)
        apart = generalized_box_iou_loss(boxes[image, point], wanted)
        points, strides = corners(raw, "boxes", self.strides, image_size)
        at, stride = points[point], strides[point].unsqueeze(-1)
        distances = (boxes_to_distances(at, wanted) / stride).clamp(0, self.row.bins - 1 - MARGIN)
        blurred = distribution_focal(self._sides(raw)[image, point], distances).mean(-1)
        return {
            "classes": settings.class_gain * classes / max(len(mine), 1),
            "boxes": settings.box_gain * (apart * weight).sum() / total,
            "distances": settings.distribution_gain * (blurred * weight).sum() / total,
        }

    def _boxes(self, raw: Raw, points: Tensor, strides: Tensor) -> Tensor:
        return distances_to_boxes(points, expected_distances(self._sides(raw)) * strides.unsqueeze(-1))

    def _sides(self, raw: Raw) -> Tensor:
        """Return the logits of the distances: ``(N, K, 4, bins)``."""
        return flat(raw, "boxes", self.strides).unflatten(-1, (4, self.row.bins))


def _drawn(layer: nn.Conv2d, bias: float) -> nn.Conv2d:
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, bias)
    return layer
