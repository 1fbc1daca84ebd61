"""RTMDet's head (arXiv 2212.07784, section 3.2): two branches whose convolutions all maps share, each with its norms.

Objects are matched to points by the cost of what is predicted (:data:`~crossstage.ops.matching.DYNAMIC_SOFT_LABEL`),
and a class's target is the IoU of the predicted box. There is no objectness.

A row does not fix the number of maps or their channels. Maps of different channels are brought to one width by 1x1
convolutions, which RTMDet, whose neck gives all maps the same, does not have.

Deliberately different: distances start at two strides. The authors' start at 0 (1 with exponents), where boxes overlap
nothing; as overlaps weigh the loss of boxes, few steps, or steps of SGD, hardly get it going.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.models.heads.levels import corners, flat
from crossstage.nn import ConvNormAct, ConvStyle, SharedConvNormAct
from crossstage.ops.losses import sparse_focal
from crossstage.ops.matching import DYNAMIC_SOFT_LABEL, Matches, Predictions, match_dynamically
from crossstage.ops.nms import NMS
from crossstage.ops.points import distances_to_boxes
from crossstage.structures import Targets

PRIOR = 0.01  # score of every class before training
START = 2.0  # distances before training, in strides
MAX_CONVS = 100


@dataclass(frozen=True)
class RTMDetLoss:
    """How an RTMDet head is trained.

    Attributes:
        class_gain: Weight of the quality focal loss of classes.
        box_gain: Weight of the GIoU loss of boxes.
        focal_gamma: Exponent that turns the loss of classes towards what is hard.
        top: How many of an object's highest IoUs say how many points find it.

    Raises:
        ConfigError: A value is out of range.
    """

    class_gain: float = 1.0
    box_gain: float = 2.0
    focal_gamma: float = 2.0
    top: int = DYNAMIC_SOFT_LABEL.top

    def __post_init__(self) -> None:
        check_numbers(self, "class_gain", "box_gain", "focal_gamma")
        check_numbers(self, "top", least=1, whole=True)


@dataclass(frozen=True, kw_only=True)
class RTMDetConfig(HeadConfig):
    """Settings of an RTMDet head.

    Attributes:
        branch_convs: 3x3 convolutions of each branch, as wide as the neck's maps.
        exp_distances: Whether raw distances are exponents, as in RTMDet-l and -x; else they may be negative.
        loss: How the head is trained.

    Raises:
        ConfigError: A value is out of range.
    """

    branch_convs: int = 2
    exp_distances: bool = False
    loss: RTMDetLoss = field(default_factory=RTMDetLoss)

    def __post_init__(self) -> None:
        if not 0 <= self.branch_convs <= MAX_CONVS:
            raise ConfigError(f"branch_convs is {self.branch_convs}; expected 0 to {MAX_CONVS}")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> RTMDetHead:
        """See :meth:`HeadConfig.build`."""
        return RTMDetHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"rtmdet": RTMDetConfig()}


class RTMDetHead(Head):
    """Predict classes of each cell's upper left corner, and the distances from there to the sides of a box.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to raw maps ``classes8`` ``(N, num_classes, H, W)``, logits, and
    ``distances8`` ``(N, 4, H, W)``, left, top, right and down in strides, and so on for each stride.

    Args:
        row: The settings.
        channels: Channels of the neck's maps, shallow to deep.
        strides: Strides of the neck's maps, shallow to deep.
        num_classes: Number of classes to tell apart, at least 1.
    """

    nms: ClassVar[NMS] = NMS(iou=0.65)
    clips = True
    weighs_classes = True
    shared_rows = "boxes"
    row: RTMDetConfig

    def __init__(self, row: RTMDetConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        style, width = ConvStyle("silu"), self.channels[0]
        alike = len(set(self.channels)) == 1
        self.align = None if alike else nn.ModuleList(ConvNormAct(c, width, style=style) for c in self.channels)
        count = len(self.strides)
        self.class_convs = _branch(width, row.branch_convs, count, style)
        self.box_convs = _branch(width, row.branch_convs, count, style)
        self.classes = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in range(count))
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in range(count))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
        for layers, bias in (
            (self.classes, math.log(PRIOR / (1 - PRIOR))),
            (self.boxes, math.log(START) if row.exp_distances else START),
        ):
            for name, parameter in layers.named_parameters():
                if name.endswith("bias"):
                    nn.init.constant_(parameter, bias)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"{part}{stride}" for stride in self.strides for part in ("classes", "distances"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return logits and distances of each map."""
        maps = list(features)
        if self.align is not None:
            maps = [align(x) for align, x in zip(self.align, maps, strict=True)]
        raw: dict[str, Tensor] = {}
        for index, (stride, of_classes, of_boxes) in enumerate(
            zip(self.strides, self.class_convs(maps), self.box_convs(maps), strict=True)
        ):
            raw[f"classes{stride}"] = self.classes[index](of_classes)
            distances = self.boxes[index](of_boxes)
            raw[f"distances{stride}"] = distances.exp() if self.row.exp_distances else distances
        return raw

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; level by level, row by row."""
        points, strides = corners(raw, "distances", self.strides, image_size)
        return self._boxes(raw, points, strides), flat(raw, "classes", self.strides).sigmoid()

    def candidates(self, raw: Raw, scores: Tensor) -> Tensor:
        """See :meth:`Head.candidates`: no boxes without area in the input, be it that distances are negative."""
        first, stride = raw[self.raw_names[1]], self.strides[0]
        image_size = first.shape[2] * stride, first.shape[3] * stride
        boxes = clip_boxes_to_image(self._boxes(raw, *corners(raw, "distances", self.strides, image_size)), image_size)
        real = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1, keepdim=True)
        return scores * real

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
        points, strides = corners(raw, "distances", self.strides, image_size)
        boxes = self._boxes(raw, points, strides)
        predictions = Predictions(points, strides, boxes.detach(), flat(raw, "classes", self.strides).detach())
        rule = replace(DYNAMIC_SOFT_LABEL, top=self.row.loss.top)
        return match_dynamically(rule, predictions, targets), boxes

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``classes`` and ``boxes``, both over the sum of the assigned IoUs."""
        settings = self.row.loss
        matches, boxes = self.match(raw, targets, image_size)
        image, point = (matches.object_index >= 0).nonzero(as_tuple=True)
        mine, quality = matches.object_index[image, point], matches.overlaps[image, point]
        logits = flat(raw, "classes", self.strides)
        classes = sparse_focal(
            logits, (image, point, targets.class_ids[mine]), quality, settings.focal_gamma, self.class_weights
        )
        apart = generalized_box_iou_loss(boxes[image, point], targets.boxes_xyxy[mine].to(boxes))
        total = quality.sum().clamp(min=1)
        return {
            "classes": settings.class_gain * classes / total,
            "boxes": settings.box_gain * (apart * quality).sum() / total,
        }

    def _boxes(self, raw: Raw, points: Tensor, strides: Tensor) -> Tensor:
        return distances_to_boxes(points, flat(raw, "distances", self.strides) * strides.unsqueeze(-1))


def _branch(width: int, convs: int, maps: int, style: ConvStyle) -> nn.Sequential:
    return nn.Sequential(*(SharedConvNormAct(width, width, 3, maps=maps, style=style) for _ in range(convs)))
