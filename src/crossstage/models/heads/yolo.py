"""The YOLOv3 head (arXiv 1804.02767, section 2): one 1x1 convolution on each map, its decoding and its loss.

Sources of the loss: YOLOv3 (section 2.1) for the assignment and the loss of objectness and classes; YOLOv4 (arXiv
2004.10934, section 3.4) for several anchors of an object. Sums are divided by the number of images, as in Darknet. Two
things differ from Darknet on purpose:

- IoU losses are differentiated as they stand. Darknet leaves the sigmoid's derivative and the map's and anchors' sizes
  out of their gradients, which makes them larger by a factor of about 50 for the centre: its ``iou_normalizer=0.07``
  corresponds to a ``box_gain`` of a few units here.
- Of anchors that no level uses (the first of YOLOv4-tiny) none is assigned: the best of those in use is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Anchors, Head, HeadConfig, Raw, check_numbers
from crossstage.ops.assigners import Assignment, assign_by_shape
from crossstage.ops.boxes import decode_yolo
from crossstage.ops.losses import BOX_LOSSES, focal_bce
from crossstage.ops.priors import AnchorLevel
from crossstage.structures import Targets

Pairs = tuple[tuple[float, float], ...]

OBJECT_PRIOR = 0.01  # objectness before training

ANCHORS_V3: Pairs = (
    *((10, 13), (16, 30), (33, 23)),
    *((30, 61), (62, 45), (59, 119)),
    *((116, 90), (156, 198), (373, 326)),
)
ANCHORS_TINY: Pairs = ((10, 14), (23, 27), (37, 58), (81, 82), (135, 169), (344, 319))


def levels_of(strides: Sequence[int], anchors: Pairs, scales: Sequence[float] | None = None) -> tuple[AnchorLevel, ...]:
    """Share out anchors, three for each stride, shallow to deep.

    Args:
        strides: Strides of the maps.
        anchors: Three times as many pairs of width and height, from small to large.
        scales: ``scale_x_y`` of each map; by default 1.
    """
    scales = scales or [1.0] * len(strides)
    return tuple(
        AnchorLevel(stride, anchors[3 * index : 3 * index + 3], scale)
        for index, (stride, scale) in enumerate(zip(strides, scales, strict=True))
    )


@dataclass(frozen=True)
class YoloLossConfig:
    """How a YOLO head is trained.

    Attributes:
        assign: ``"best"`` assigns an object to the anchor whose shape is most like its own (YOLOv3, EFM); ``"iou"`` to
            all whose shape's IoU with the object's is above ``assign_iou`` as well (YOLOv4).
        assign_iou: The threshold of ``"iou"``; Darknet's ``iou_thresh``.
        ignore_iou: A prediction that overlaps an object more than this is not trained to be background; Darknet's
            ``ignore_thresh``.
        box: The loss of a box: ``"mse"`` (YOLOv3), ``"giou"``, ``"diou"`` or ``"ciou"``.
        box_gain: The weight of the loss of boxes.
        objectness_gain: The weight of the loss of objectness.
        class_gain: The weight of the loss of classes.
        label_smoothing: The share by which targets of classes are drawn towards a half.
        focal_gamma: The exponent that turns attention to what is hard, for objectness and classes; 0 is plain BCE.

    Raises:
        ConfigError: A value is out of range.
    """

    assign: Literal["best", "iou"] = "best"
    assign_iou: float = 0.213
    ignore_iou: float = 0.7
    box: Literal["mse", "iou", "giou", "diou", "ciou"] = "ciou"
    box_gain: float = 3.0
    objectness_gain: float = 1.0
    class_gain: float = 1.0
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self, "assign_iou", "ignore_iou", "label_smoothing", most=1.0)
        check_numbers(self, "box_gain", "objectness_gain", "class_gain", "focal_gamma")
        if self.assign not in ("best", "iou") or self.box not in ("mse", *BOX_LOSSES):
            expected = f"best or iou, and one of mse, {', '.join(BOX_LOSSES)}"
            raise ConfigError(f"loss is {self.assign}, {self.box}; expected {expected}")


@dataclass(frozen=True, kw_only=True)
class YoloConfig(HeadConfig):
    """Settings of a YOLO head.

    Attributes:
        levels: The anchors of each of the neck's maps, shallow to deep; empty takes the published ones for its strides.
        loss: How the head is trained.
    """

    levels: tuple[AnchorLevel, ...] = ()
    loss: YoloLossConfig = field(default_factory=YoloLossConfig)

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> YoloHead:
        """See :meth:`HeadConfig.build`."""
        return YoloHead(self.for_strides(strides), channels, strides, num_classes)

    def for_strides(self, strides: Sequence[int]) -> Self:
        """Return the row with YOLOv3's anchors for three maps or YOLOv3-tiny's for two, unless it has its own."""
        if self.levels or 3 * len(strides) not in (len(ANCHORS_V3), len(ANCHORS_TINY)):
            return self
        return replace(self, levels=levels_of(strides, ANCHORS_TINY if len(strides) == 2 else ANCHORS_V3))

    @property
    def anchors(self) -> Pairs:
        """See :attr:`HeadConfig.anchors`."""
        return tuple(anchor for level in self.levels for anchor in level.anchors)

    def with_anchors(self, anchors: Anchors) -> Self:
        """See :meth:`HeadConfig.with_anchors`; each level keeps its number of anchors, the first get the small ones."""
        rest = iter(anchors)
        levels = tuple(replace(level, anchors=tuple(next(rest) for _ in level.anchors)) for level in self.levels)
        return replace(self, levels=levels)


HEADS: dict[str, HeadConfig] = {"yolo": YoloConfig()}


class YoloHead(Head):
    """Predict boxes, objectness and classes at every cell and anchor of each map.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to raw maps ``(N, A_i * (5 + num_classes), H_i, W_i)``, named
    ``stride8`` and so on, with for each anchor x, y, w, h, objectness and classes.

    Args:
        row: The anchors for each of the strides, and the settings of the loss.
        channels: Channels of the neck's maps, shallow to deep.
        strides: Strides of the neck's maps, shallow to deep.
        num_classes: Number of classes to tell apart, at least 1.

    Raises:
        ConfigError: The levels' strides are not the maps', an anchor is not positive and finite, anchors do not grow
            with the stride (the reversed masks that make a network train to nothing), or there is no class.
    """

    weighs_classes = True
    shared_rows = "boxes, objectness"
    row: YoloConfig

    def __init__(self, row: YoloConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        _check(strides, row.levels)
        self.levels = row.levels
        self.predict = nn.ModuleList(
            nn.Conv2d(width, len(level.anchors) * (5 + num_classes), 1)
            for width, level in zip(channels, self.levels, strict=True)
        )
        self._expect_little()

    @torch.no_grad()
    def _expect_little(self) -> None:
        """Let an untrained head find an object in one of a hundred places (arXiv 1708.02002, section 4.1), not in half.

        Else the loss of the thousands of places without one is all that is seen of the first epochs.
        """
        for predict, level in zip(self.predict, self.levels, strict=True):
            assert isinstance(predict, nn.Conv2d) and predict.bias is not None
            predict.bias.view(len(level.anchors), -1)[:, 4] = math.log(OBJECT_PRIOR / (1 - OBJECT_PRIOR))

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"stride{level.stride}" for level in self.levels)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the raw map of each level."""
        maps = [predict(feature) for predict, feature in zip(self.predict, features, strict=True)]
        return dict(zip(self.raw_names, maps, strict=True))

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; levels shallow to deep, within one as :func:`~crossstage.ops.boxes.decode_yolo`."""
        del image_size  # the maps' sizes and strides tell it
        decoded = [
            decode_yolo(
                raw[name],
                level.anchors,
                input_size=(raw[name].shape[2] * level.stride, raw[name].shape[3] * level.stride),
                scale_x_y=level.scale_x_y,
            )
            for name, level in zip(self.raw_names, self.levels, strict=True)
        ]
        boxes, scores = zip(*decoded, strict=True)
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`: each anchor has five values, then one for each class."""
        values = 5 + num_classes
        return {
            f"predict.{index}.{part}": [
                [anchor * values + 5 + class_id for anchor in range(len(level.anchors))]
                for class_id in range(num_classes)
            ]
            for index, level in enumerate(self.levels)
            for part in ("weight", "bias")
        }

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``box``, ``objectness`` and ``classes``."""
        del image_size
        maps = [raw[name] for name in self.raw_names]
        gains = self.row.loss
        assigned = assign_by_shape(
            self.levels,
            [tensor.shape[2:] for tensor in maps],
            targets,
            iou=gains.assign_iou if gains.assign == "iou" else None,
        )
        parts = [
            self._level_loss(tensor, level, targets, positive)
            for tensor, level, positive in zip(maps, self.levels, assigned, strict=True)
        ]
        box, objectness, classes = (torch.stack(part).sum() / maps[0].shape[0] for part in zip(*parts, strict=True))
        return {
            "box": gains.box_gain * box,
            "objectness": gains.objectness_gain * objectness,
            "classes": gains.class_gain * classes,
        }

    def _level_loss(
        self, raw: Tensor, level: AnchorLevel, targets: Targets, positive: Assignment
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, _, height, width = raw.shape
        grid = raw.view(batch, len(level.anchors), 5 + self.num_classes, height, width)
        at = (positive.image_index, positive.anchor, slice(None), positive.row, positive.column)
        chosen = grid[at]  # (P, 5 + classes)
        target = torch.zeros_like(grid[:, :, 4])
        target[positive.image_index, positive.anchor, positive.row, positive.column] = 1
        counted = (target > 0) | ~self._overlapping(raw, level, targets)
        objectness = (focal_bce(grid[:, :, 4], target, self.row.loss.focal_gamma) * counted).sum()
        input_area = height * width * level.stride**2
        return (
            self._box_loss(chosen, level, targets.boxes_xyxy[positive.object_index], positive, input_area).sum(),
            objectness,
            self._class_loss(chosen[:, 5:], targets.class_ids[positive.object_index]).sum(),
        )

    @torch.no_grad()
    def _overlapping(self, raw: Tensor, level: AnchorLevel, targets: Targets) -> Tensor:
        """Find the predictions that overlap an object more than ``ignore_iou``: ``(N, A, H, W)``."""
        batch, _, height, width = raw.shape
        size = height * level.stride, width * level.stride
        boxes, _ = decode_yolo(raw, level.anchors, input_size=size, scale_x_y=level.scale_x_y)
        found = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=raw.device)
        for image in targets.image_index.unique().tolist():
            objects = targets.boxes_xyxy[targets.image_index == image]
            found[image] = (box_iou(boxes[image], objects) > self.row.loss.ignore_iou).any(1)
        return found.view(batch, len(level.anchors), height, width)

    def _box_loss(
        self, chosen: Tensor, level: AnchorLevel, objects: Tensor, at: Assignment, input_area: float
    ) -> Tensor:
        """Return the loss of each assigned box: ``(P,)``."""
        anchors = chosen.new_tensor(level.anchors)[at.anchor]
        cells = torch.stack([at.column, at.row], dim=1)
        if self.row.loss.box == "mse":
            return _squared_errors(chosen, level, objects, anchors, cells, input_area)
        stretch = level.scale_x_y
        centre = (chosen[:, :2].sigmoid() * stretch - (stretch - 1) / 2 + cells) * level.stride
        size = chosen[:, 2:4].exp() * anchors
        predicted = torch.cat([centre - size / 2, centre + size / 2], dim=1)
        return BOX_LOSSES[self.row.loss.box](predicted, objects, reduction="none")

    def _class_loss(self, logits: Tensor, class_ids: Tensor) -> Tensor:
        smoothing = self.row.loss.label_smoothing
        target = F.one_hot(class_ids, self.num_classes).to(logits)
        loss = focal_bce(logits, target * (1 - smoothing) + smoothing / 2, self.row.loss.focal_gamma)
        return loss if self.class_weights is None else loss * self.class_weights.to(loss)


def _squared_errors(
    chosen: Tensor, level: AnchorLevel, objects: Tensor, anchors: Tensor, cells: Tensor, input_area: float
) -> Tensor:
    """Return YOLOv3's loss of a box, whose gradient in Darknet is ``scale * (predicted - target)`` at each value.

    For the centre that is the gradient of a cross-entropy with the position in the cell as target; small objects weigh
    up to twice as much as one that fills the input.
    """
    centre, size = (objects[:, :2] + objects[:, 2:]) / 2, objects[:, 2:] - objects[:, :2]
    stretch = level.scale_x_y
    place = (centre / level.stride - cells + (stretch - 1) / 2) / stretch
    at_centre = stretch * F.binary_cross_entropy_with_logits(chosen[:, :2], place, reduction="none")
    at_size = 0.5 * (chosen[:, 2:4] - (size / anchors).log()).square()
    weight = 2 - size.prod(1) / input_area
    return weight * (at_centre.sum(1) + at_size.sum(1))


def _check(strides: Sequence[int], levels: Sequence[AnchorLevel]) -> None:
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
