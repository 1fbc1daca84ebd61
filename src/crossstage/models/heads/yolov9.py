"""YOLOv9's head (arXiv 2402.13616; MultimediaTechLab/YOLO): classes, and distributions over distances to four sides.

Each map has two branches of two 3x3 convolutions. The branch of boxes is in four groups; it gives, for each side, how
likely a distance of 0, 1, ... 15 strides is, whose mean is the distance (arXiv 2006.04388). A cell predicts from its
centre. Objects are assigned by :func:`~crossstage.ops.task_aligned.assign_by_task`.

Deliberately different: before training a class scores 5 objects an image of 640 pixels, as in the paper's release; the
MIT release has the same tiny score for any number of classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.models.heads.levels import centres, flat, map_sizes
from crossstage.nn import ConvNormAct, ConvStyle
from crossstage.ops.losses import distribution_focal, paired_ciou
from crossstage.ops.nms import NMS
from crossstage.ops.points import boxes_to_distances, distances_to_boxes, expected_distances
from crossstage.ops.task_aligned import TaskAlignment, assign_by_task
from crossstage.structures import Targets

STYLE = ConvStyle("silu", "batch", momentum=0.03, eps=1e-3)
GROUPS = 4  # one for each side
MOST_CLASS_CHANNELS = 128  # that the number of classes asks for
MAX_BINS = 1_000
BOX_BIAS = 1.0
PRIOR_OBJECTS, PRIOR_SIZE = 5, 640  # objects in an image of so many pixels a side
MARGIN = 1.01  # bins short of their number that a distance is found at, so that there is one on either side


@dataclass(frozen=True)
class YoloV9LossConfig:
    """How a YOLOv9 head is trained.

    Attributes:
        box_gain: Weight of 1 - CIoU of boxes.
        class_gain: Weight of the cross-entropy of classes.
        distribution_gain: Weight of the distribution focal loss of distances.
        candidates: The most cells that an object is assigned to.
        box_power: Exponent of a box's overlap in how well a cell fits an object.
        class_power: Exponent of the class's score there.

    Raises:
        ConfigError: A value is out of range.
    """

    box_gain: float = 7.5
    class_gain: float = 0.5
    distribution_gain: float = 1.5
    candidates: int = 10
    box_power: float = 6.0
    class_power: float = 0.5

    def __post_init__(self) -> None:
        check_numbers(self, "box_gain", "class_gain", "distribution_gain", "box_power", "class_power")
        check_numbers(self, "candidates", least=1, whole=True)


@dataclass(frozen=True, kw_only=True)
class YoloV9Config(HeadConfig):
    """Settings of a YOLOv9 head.

    Attributes:
        bins: Distances that a distribution is over: 0 to ``bins - 1`` strides.
        loss: How the head is trained.

    Raises:
        ConfigError: There are too few or too many bins.
    """

    bins: int = 16
    loss: YoloV9LossConfig = field(default_factory=YoloV9LossConfig)

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= MAX_BINS:
            raise ConfigError(f"bins is {self.bins}; expected 2 to {MAX_BINS}")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> YoloV9Head:
        """See :meth:`HeadConfig.build`."""
        return YoloV9Head(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"yolov9": YoloV9Config()}


class YoloV9Head(Head):
    """Predict classes and distances to the sides at every cell of each map.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to raw maps, for each stride ``boxes8`` ``(N, 4 * bins, H, W)``
    logits of the distances to left, top, right and lower side, side after side, and ``classes8`` ``(N, num_classes, H,
    W)`` logits.

    Args:
        row: The head's settings.
        channels: Channels of the neck's maps, shallow to deep; the first map's decide how wide the branches are.
        strides: Strides of the neck's maps, shallow to deep.
        num_classes: Number of classes to tell apart.

    Raises:
        ConfigError: There is no class.
    """

    nms: ClassVar[NMS] = NMS(iou=0.7)
    weighs_classes = True
    row: YoloV9Config

    def __init__(self, row: YoloV9Config, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        first, sides = channels[0], 4 * row.bins
        box_width = max(-(-(first // 4) // GROUPS) * GROUPS, sides)
        class_width = max(first, min(2 * num_classes, MOST_CLASS_CHANNELS))
        self.boxes = nn.ModuleList(_branch(width, box_width, sides, GROUPS) for width in channels)
        self.classes = nn.ModuleList(_branch(width, class_width, num_classes) for width in channels)
        for stride, boxes, classes in zip(strides, self.boxes, self.classes, strict=True):
            prior = PRIOR_OBJECTS / num_classes / (PRIOR_SIZE / stride) ** 2
            _set_bias(boxes, BOX_BIAS)
            _set_bias(classes, math.log(prior))

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"{part}{stride}" for stride in self.strides for part in ("boxes", "classes"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See :meth:`Head.forward`."""
        raw: dict[str, Tensor] = {}
        for stride, feature, boxes, classes in zip(self.strides, features, self.boxes, self.classes, strict=True):
            raw[f"boxes{stride}"], raw[f"classes{stride}"] = boxes(feature), classes(feature)
        return raw

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`."""
        del image_size
        points, strides = centres(raw, "boxes", self.strides)
        return self._boxes(self._sides(raw), points, strides), flat(raw, "classes", self.strides).sigmoid()

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`."""
        rows = [[index] for index in range(num_classes)]
        return {f"classes.{level}.2.{part}": rows for level in range(len(self.strides)) for part in ("weight", "bias")}

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``boxes``, ``classes`` and ``distances``.

        Each is over the sum of the classes' targets, at least 1.
        """
        del image_size
        settings = self.row.loss
        logits, sides = flat(raw, "classes", self.strides), self._sides(raw)
        points, strides = centres(raw, "boxes", self.strides)
        with torch.no_grad():
            boxes = self._boxes(sides, points, strides)
        found = self._assigned(logits, boxes, targets, map_sizes(raw, "boxes", self.strides))
        count = found.score.sum().clamp(min=1)
        at = found.image_index, found.cell
        stride = strides[found.cell].unsqueeze(-1)
        start, wanted = points[found.cell] / stride, targets.boxes_xyxy[found.object_index].to(logits) / stride
        predicted = sides[at]  # (P, 4, bins)
        apart = 1 - paired_ciou(distances_to_boxes(start, expected_distances(predicted)), wanted)
        distances = boxes_to_distances(start, wanted).clamp(0, self.row.bins - MARGIN)
        blurred = distribution_focal(predicted, distances).mean(-1)
        classes = self._class_loss(logits, found, targets.class_ids[found.object_index])
        return {
            "boxes": settings.box_gain * (apart * found.score).sum() / count,
            "classes": settings.class_gain * classes / count,
            "distances": settings.distribution_gain * (blurred * found.score).sum() / count,
        }

    def _assigned(
        self, logits: Tensor, boxes: Tensor, targets: Targets, map_sizes: Sequence[tuple[int, int]]
    ) -> TaskAlignment:
        settings = self.row.loss
        return assign_by_task(
            logits,
            boxes,
            targets,
            map_sizes,
            self.strides,
            count=settings.candidates,
            box_power=settings.box_power,
            power=settings.class_power,
            reach=self.row.bins - MARGIN,
        )

    def _class_loss(self, logits: Tensor, found: TaskAlignment, class_ids: Tensor) -> Tensor:
        """Return the sum of all cross-entropies, ``log(1 + e^x) - target x``, whose targets are nearly all 0."""
        entropy, matched = F.softplus(logits), found.score * logits[found.image_index, found.cell, class_ids]
        if self.class_weights is not None:
            weights = self.class_weights.to(logits)
            entropy, matched = entropy * weights, matched * weights[class_ids]
        return entropy.sum() - matched.sum()

    def _boxes(self, sides: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Return the predicted corners in pixels of the input: ``(N, K, 4)``."""
        return distances_to_boxes(points, expected_distances(sides) * strides.unsqueeze(-1))

    def _sides(self, raw: Raw) -> Tensor:
        """Return the distributions over distances: ``(N, K, 4, bins)`` logits."""
        return flat(raw, "boxes", self.strides).unflatten(-1, (4, self.row.bins))


def _branch(in_channels: int, width: int, out: int, groups: int = 1) -> nn.Sequential:
    """Build two 3x3 convolutions and a 1x1 one; the last two in groups."""
    return nn.Sequential(
        ConvNormAct(in_channels, width, 3, style=STYLE),
        ConvNormAct(width, width, 3, groups=groups, style=STYLE),
        nn.Conv2d(width, out, 1, groups=groups),
    )


def _set_bias(branch: nn.Module, value: float) -> None:
    """Set the bias of a branch's last layer."""
    assert isinstance(branch, nn.Sequential)
    bias = branch[-1].bias
    assert isinstance(bias, Tensor)
    nn.init.constant_(bias, value)
