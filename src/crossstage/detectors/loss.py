"""The loss of YOLO heads: which anchors are to find an object, and how far they are from doing so.

Sources: YOLOv3 (arXiv 1804.02767, section 2.1) for the assignment and the loss of objectness and classes; YOLOv4 (arXiv
2004.10934, section 3.4) for several anchors of an object; GIoU (1902.09630), DIoU and CIoU (1911.08287). Sums are
divided by the number of images, as in Darknet. Two things differ from Darknet on purpose:

- IoU losses are differentiated as they stand. Darknet leaves the sigmoid's derivative and the map's and anchors' sizes
  out of their gradients, which makes them larger by a factor of about 50 for the centre: its ``iou_normalizer=0.07``
  corresponds to a ``box_gain`` of a few units here.
- Of anchors that no level uses (the first of YOLOv4-tiny) none is assigned: the best of those in use is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from crossstage.errors import ConfigError
from crossstage.heads import AnchorLevel
from crossstage.nn.boxes import Targets, decode_yolo, shape_iou

_IOU_LOSSES: dict[str, Callable[..., Tensor]] = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


@dataclass(frozen=True)
class YoloLossConfig:
    """How a YOLO head is trained.

    Attributes:
        assign: ``"best"``: the anchor whose shape is most like the object's (YOLOv3, EFM); ``"iou"``: all whose shape's
            IoU with the object's is above ``assign_iou`` as well (YOLOv4).
        assign_iou: See above; Darknet's ``iou_thresh``.
        ignore_iou: A prediction that overlaps an object more than this is not told to be background; Darknet's
            ``ignore_thresh``.
        box: Loss of a box: ``"mse"`` (YOLOv3), ``"giou"``, ``"diou"`` or ``"ciou"``.
        box_gain: Weight of the boxes' loss.
        objectness_gain: Weight of the objectness's.
        class_gain: Weight of the classes'.
        label_smoothing: Targets of classes are this much nearer to a half.
        focal_gamma: Exponent that turns attention to what is hard, for objectness and classes; 0 is plain BCE.

    Raises:
        ConfigError: A value is out of range.
    """

    assign: Literal["best", "iou"] = "best"
    assign_iou: float = 0.213
    ignore_iou: float = 0.7
    box: Literal["mse", "giou", "diou", "ciou"] = "ciou"
    box_gain: float = 3.0
    objectness_gain: float = 1.0
    class_gain: float = 1.0
    label_smoothing: float = 0.0
    focal_gamma: float = 0.0

    def __post_init__(self) -> None:
        for name in ("assign_iou", "ignore_iou", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; expected 0 to 1")
        for name in ("box_gain", "objectness_gain", "class_gain", "focal_gamma"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; expected 0 or more")
        if self.assign not in ("best", "iou") or self.box not in ("mse", *_IOU_LOSSES):
            raise ConfigError(f"loss is {self.assign}, {self.box}; expected best or iou, and mse, giou, diou or ciou")


class YoloLossParts(NamedTuple):
    """Scalars, already weighted; their sum is what is minimised."""

    box: Tensor
    objectness: Tensor
    classes: Tensor


class Assignment(NamedTuple):
    """Which predictions of one level are to find which objects.

    Attributes:
        object_index: ``(P,)`` position in the targets.
        image_index: ``(P,)``.
        anchor: ``(P,)``.
        row: ``(P,)``.
        column: ``(P,)``.
    """

    object_index: Tensor
    image_index: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor


class YoloLoss:
    """The loss of raw head tensors.

    Args:
        levels: The head's levels.
        num_classes: Classes of the head.
        config: See there.
        class_weights: ``(num_classes,)`` factors of the classes' losses; None weighs all alike.
    """

    def __init__(
        self,
        levels: Sequence[AnchorLevel],
        num_classes: int,
        config: YoloLossConfig | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        self.levels, self.num_classes = tuple(levels), num_classes
        self.config = config or YoloLossConfig()
        self.class_weights = class_weights

    def __call__(self, raw: Sequence[Tensor], targets: Targets) -> YoloLossParts:
        """Loss of a batch.

        Args:
            raw: What the head returned, levels shallow to deep: ``(N, A * (5 + classes), H, W)`` each.
            targets: The objects, in pixels of the input.
        """
        assigned = assign(self.levels, [tensor.shape[2:] for tensor in raw], targets, self.config)
        parts = [
            self._level(tensor if tensor.dtype == torch.float64 else tensor.float(), level, targets, positive)
            for tensor, level, positive in zip(raw, self.levels, assigned, strict=True)
        ]
        box, objectness, classes = (torch.stack(part).sum() / raw[0].shape[0] for part in zip(*parts, strict=True))
        gains = self.config
        return YoloLossParts(gains.box_gain * box, gains.objectness_gain * objectness, gains.class_gain * classes)

    def _level(
        self, raw: Tensor, level: AnchorLevel, targets: Targets, positive: Assignment
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, _, height, width = raw.shape
        grid = raw.view(batch, len(level.anchors), 5 + self.num_classes, height, width)
        at = (positive.image_index, positive.anchor, slice(None), positive.row, positive.column)
        chosen = grid[at]  # (P, 5 + classes)
        target = torch.zeros_like(grid[:, :, 4])
        target[positive.image_index, positive.anchor, positive.row, positive.column] = 1
        counted = (target > 0) | ~self._overlapping(raw, level, targets)
        objectness = (self._bce(grid[:, :, 4], target) * counted).sum()
        input_area = height * width * level.stride**2
        return (
            self._box(chosen, level, targets.boxes_xyxy[positive.object_index], positive, input_area).sum(),
            objectness,
            self._classes(chosen[:, 5:], targets.class_ids[positive.object_index]).sum(),
        )

    @torch.no_grad()
    def _overlapping(self, raw: Tensor, level: AnchorLevel, targets: Targets) -> Tensor:
        """Predictions that overlap an object more than ``ignore_iou``: ``(N, A, H, W)``."""
        batch, _, height, width = raw.shape
        size = height * level.stride, width * level.stride
        boxes, _ = decode_yolo(raw, level.anchors, input_size=size, scale_x_y=level.scale_x_y)
        found = torch.zeros(boxes.shape[:2], dtype=torch.bool, device=raw.device)
        for image in targets.image_index.unique().tolist():
            objects = targets.boxes_xyxy[targets.image_index == image]
            found[image] = (box_iou(boxes[image], objects) > self.config.ignore_iou).any(1)
        return found.view(batch, len(level.anchors), height, width)

    def _box(self, chosen: Tensor, level: AnchorLevel, objects: Tensor, at: Assignment, input_area: float) -> Tensor:
        """Loss of each assigned box: ``(P,)``."""
        anchors = chosen.new_tensor(level.anchors)[at.anchor]
        cells = torch.stack([at.column, at.row], dim=1)
        if self.config.box == "mse":
            return _squared_errors(chosen, level, objects, anchors, cells, input_area)
        stretch = level.scale_x_y
        centre = (chosen[:, :2].sigmoid() * stretch - (stretch - 1) / 2 + cells) * level.stride
        size = chosen[:, 2:4].exp() * anchors
        predicted = torch.cat([centre - size / 2, centre + size / 2], dim=1)
        return _IOU_LOSSES[self.config.box](predicted, objects, reduction="none")

    def _classes(self, logits: Tensor, class_ids: Tensor) -> Tensor:
        target = F.one_hot(class_ids, self.num_classes).to(logits)
        target = target * (1 - self.config.label_smoothing) + self.config.label_smoothing / 2
        loss = self._bce(logits, target)
        return loss if self.class_weights is None else loss * self.class_weights.to(loss)

    def _bce(self, logits: Tensor, target: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if self.config.focal_gamma:  # Focal Loss, arXiv 1708.02002, equation 4
            loss = loss * (target - logits.sigmoid()).abs().pow(self.config.focal_gamma)
        return loss


def _squared_errors(
    chosen: Tensor, level: AnchorLevel, objects: Tensor, anchors: Tensor, cells: Tensor, input_area: float
) -> Tensor:
    """YOLOv3's loss of a box, by its gradient in Darknet: ``scale * (predicted - target)`` at each of the four values.

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


def assign(
    levels: Sequence[AnchorLevel], shapes: Sequence[Sequence[int]], targets: Targets, config: YoloLossConfig
) -> list[Assignment]:
    """Share the objects out among anchors.

    Args:
        levels: The head's levels.
        shapes: Height and width of each level's map.
        targets: The objects.
        config: How many anchors an object gets.

    Returns:
        For each level the predictions that are to find an object. An anchor that stands on two levels (as one of
        YOLOv4-tiny's) is responsible on both.
    """
    boxes = targets.boxes_xyxy
    sizes, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    overlaps = shape_iou(sizes, boxes.new_tensor([anchor for level in levels for anchor in level.anchors]))
    chosen = overlaps >= overlaps.amax(1, keepdim=True)
    if config.assign == "iou":
        chosen |= overlaps > config.assign_iou
    assigned = []
    for level, (height, width), mine in zip(
        levels, shapes, chosen.split([len(level.anchors) for level in levels], dim=1), strict=True
    ):
        object_index, anchor = mine.nonzero(as_tuple=True)
        cells = (centres[object_index] / level.stride).long()
        assigned.append(
            Assignment(
                object_index,
                targets.image_index[object_index],
                anchor,
                cells[:, 1].clamp(0, height - 1),
                cells[:, 0].clamp(0, width - 1),
            )
        )
    return assigned
