"""The FCOS head (arXiv 1904.01355; improved in 2006.09214): classes, distances to four sides and centre-ness of points.

Two branches of convolutions are shared by all maps. Distances are in strides of their map; torchvision divides by the
sides of its anchors, which are the strides. The settings tell apart what the first paper, the second one (which
CenterMask follows) and torchvision do:

====================  =========  ==========  ===========
setting               1904.01355 2006.09214  torchvision
====================  =========  ==========  ===========
``distances``         exp        relu        relu
``centreness_on``     classes    boxes       boxes
``scaled``            yes        yes         no
``grid``              centres    centres     corners
``loss.radius``       0          1.5         1.5
``loss.weighted``     yes        yes         no
``loss.closed``       yes        yes         no
====================  =========  ==========  ===========

Deliberately different: detections must exceed the score threshold by the root of class score times centre-ness, as in
torchvision, where CenterMask's release compares the class score alone; and of overlapping boxes the smallest is told
by areas that are not rounded, where torchvision's comparison has steps of 8 square pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image, generalized_box_iou_loss, sigmoid_focal_loss

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.models.heads.levels import flat, map_sizes, rows
from crossstage.nn import ConvStyle
from crossstage.ops.nms import NMS, best_of_levels
from crossstage.ops.points import (
    assign_by_reach,
    boxes_to_distances,
    cell_corners,
    cell_points,
    centreness,
    distances_to_boxes,
)
from crossstage.structures import Targets

CANDIDATES = 1000  # pairs of box and class that are kept of each level before suppression
PRIOR = 0.01  # score of every class before training (focal loss, arXiv 1708.02002)
MAX_CONVS = 100


@dataclass(frozen=True)
class FcosLoss:
    """How an FCOS head is trained.

    Attributes:
        radius: Points find an object that are less than so many strides from its centre; 0 takes all in its box.
        reach: The largest distance to a side that is found on a level, in its strides: 8 gives the paper's limits of
            64, 128, 256 and 512 pixels at strides 8 to 64. The last level has none.
        closed: Whether a distance of exactly a limit belongs to both levels, or to none.
        focal_alpha: Weight of objects against background in the loss of classes.
        focal_gamma: Exponent that turns the loss of classes towards what is hard.
        weighted: Whether the GIoU loss of a point is weighted by the centre-ness that is its target, over the sum of
            these, or all points count alike.

    Raises:
        ConfigError: A value is out of range.
    """

    radius: float = 1.5
    reach: float = 8.0
    closed: bool = True
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    weighted: bool = True

    def __post_init__(self) -> None:
        check_numbers(self, "radius", "focal_gamma")
        check_numbers(self, "focal_alpha", most=1.0)
        check_numbers(self, "reach", positive=True)


@dataclass(frozen=True, kw_only=True)
class FcosConfig(HeadConfig):
    """Settings of an FCOS head.

    Attributes:
        tower_convs: 3x3 convolutions of each branch, each as wide as the neck's maps, with group norm and ReLU.
        distances: What makes raw distances positive: ``"relu"`` or ``"exp"``.
        scaled: Whether raw distances are multiplied by a learned factor of their level.
        centreness_on: The branch that predicts centre-ness: that of ``"boxes"`` or of ``"classes"``.
        grid: Where predictions start: at the ``"centres"`` of cells, or at their upper left ``"corners"``, spaced as
            :func:`~crossstage.ops.points.cell_corners` says.
        loss: How the head is trained.

    Raises:
        ConfigError: A value is unknown or out of range.
    """

    tower_convs: int = 4
    distances: Literal["relu", "exp"] = "relu"
    scaled: bool = True
    centreness_on: Literal["boxes", "classes"] = "boxes"
    grid: Literal["centres", "corners"] = "centres"
    loss: FcosLoss = field(default_factory=FcosLoss)

    def __post_init__(self) -> None:
        if not 0 <= self.tower_convs <= MAX_CONVS:
            raise ConfigError(f"tower_convs is {self.tower_convs}; expected 0 to {MAX_CONVS}")
        for name, known in (
            ("distances", ("relu", "exp")),
            ("centreness_on", ("boxes", "classes")),
            ("grid", ("centres", "corners")),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(known)}")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> FcosHead:
        """See :meth:`HeadConfig.build`."""
        return FcosHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"fcos": FcosConfig()}


class FcosHead(Head):
    """Predict classes, distances to the sides and centre-ness at every cell of each map, with shared layers.

    Shape: a list of ``(N, channels, H_i, W_i)`` to raw maps, for each stride ``classes8`` ``(N, num_classes, H, W)``
    logits, ``distances8`` ``(N, 4, H, W)`` to the left, top, right and lower side in strides, at least 0, and
    ``centreness8`` ``(N, 1, H, W)`` logits.

    Args:
        row: The head's settings.
        channels: Channels of the neck's maps, all the same.
        strides: Strides of the neck's maps, shallow to deep.
        num_classes: Number of classes to tell apart.

    Raises:
        ConfigError: The maps differ in width, or there is no class.
    """

    nms: ClassVar[NMS] = NMS(iou=0.6, max_detections=100)
    clips = True
    weighs_classes = True
    row: FcosConfig

    def __init__(self, row: FcosConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        if len(set(channels)) != 1:
            raise ConfigError(f"maps of {list(channels)} channels; layers that all maps share expect one width")
        width = channels[0]
        self.class_tower, self.box_tower = (_tower(width, row.tower_convs) for _ in range(2))
        self.classes = nn.Conv2d(width, num_classes, 3, padding=1)
        self.distances = nn.Conv2d(width, 4, 3, padding=1)
        self.centreness = nn.Conv2d(width, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(strides))) if row.scaled else None
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                _draw(layer)
        assert self.classes.bias is not None
        nn.init.constant_(self.classes.bias, -math.log((1 - PRIOR) / PRIOR))

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"{part}{stride}" for stride in self.strides for part in ("classes", "distances", "centreness"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See :meth:`Head.forward`."""
        raw: dict[str, Tensor] = {}
        for level, (stride, feature) in enumerate(zip(self.strides, features, strict=True)):
            classes, boxes = self.class_tower(feature), self.box_tower(feature)
            distances = self.distances(boxes)
            if self.scales is not None:
                distances = distances * self.scales[level]
            raw[f"classes{stride}"] = self.classes(classes)
            raw[f"distances{stride}"] = distances.exp() if self.row.distances == "exp" else distances.relu()
            raw[f"centreness{stride}"] = self.centreness(boxes if self.row.centreness_on == "boxes" else classes)
        return raw

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; a score is the root of the class's probability times centre-ness.

        Boxes are clipped to the input, so that a file without the head suppresses the same ones.
        """
        points = torch.cat(self._points(raw, image_size))
        scores = flat(raw, "classes", self.strides).sigmoid() * flat(raw, "centreness", self.strides).sigmoid()
        return clip_boxes_to_image(distances_to_boxes(points, self._pixels(raw)), image_size), scores.sqrt()

    def candidates(self, raw: Raw, scores: Tensor) -> Tensor:
        """See :meth:`Head.candidates`: the best 1000 pairs of box and class of each level."""
        return best_of_levels(scores, self._lengths(raw), CANDIDATES)

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`."""
        rows = [[index] for index in range(num_classes)]
        return {"classes.weight": rows, "classes.bias": rows}

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``classes``, ``boxes`` and ``centreness``."""
        settings = self.row.loss
        points = self._points(raw, image_size)
        assigned = [
            self._assigned(points, (targets.image_index == image).nonzero().squeeze(1), targets.boxes_xyxy)
            for image in range(len(raw[self.raw_names[0]]))
        ]
        objects = torch.stack(assigned)  # (N, K)
        found = objects >= 0
        logits, mine = flat(raw, "classes", self.strides), objects[found]
        wanted = torch.zeros_like(logits)
        wanted[(*found.nonzero(as_tuple=True), targets.class_ids[mine])] = 1
        classes = sigmoid_focal_loss(logits, wanted, settings.focal_alpha, settings.focal_gamma)
        if self.class_weights is not None:
            classes = classes * self.class_weights.to(classes)
        at = torch.cat(points).expand(len(objects), -1, -1)[found]
        boxes = targets.boxes_xyxy[mine].to(logits)
        centred = centreness(boxes_to_distances(at, boxes))
        apart = generalized_box_iou_loss(distances_to_boxes(at, self._pixels(raw)[found]), boxes)
        count = found.sum().clamp(min=1)
        weight = centred / centred.sum().clamp(min=1e-6) if settings.weighted else 1 / count
        predicted = flat(raw, "centreness", self.strides).squeeze(-1)[found]
        return {
            "classes": classes.sum() / count,
            "boxes": (apart * weight).sum(),
            "centreness": F.binary_cross_entropy_with_logits(predicted, centred, reduction="sum") / count,
        }

    def _assigned(self, points: Sequence[Tensor], mine: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """Return each point's object of one image, as an index into those of all images."""
        settings = self.row.loss
        index = assign_by_reach(
            points,
            self.strides,
            boxes_xyxy[mine].to(points[0]),
            radius=settings.radius,
            reach=settings.reach,
            closed=settings.closed,
        )
        return torch.where(index >= 0, mine[index.clamp(min=0)], index) if len(mine) else index

    def _points(self, raw: Raw, image_size: tuple[int, int]) -> list[Tensor]:
        """Return each level's points in pixels: ``(H_i * W_i, 2)``."""
        like, sizes = raw[self.raw_names[0]], map_sizes(raw, "distances", self.strides)
        if self.row.grid == "corners":
            return [cell_corners(size, image_size, like) for size in sizes]
        return [cell_points(size, stride, like) for size, stride in zip(sizes, self.strides, strict=True)]

    def _pixels(self, raw: Raw) -> Tensor:
        """Return the distances in pixels: ``(N, K, 4)``."""
        return torch.cat([rows(raw[f"distances{stride}"]) * stride for stride in self.strides], dim=1)

    def _lengths(self, raw: Raw) -> list[int]:
        return [raw[f"distances{stride}"][0, 0].numel() for stride in self.strides]


def _tower(width: int, convs: int) -> nn.Sequential:
    """Build 3x3 convolutions with group norm and ReLU, which keep the width; they have biases as well, as in FCOS."""
    style = ConvStyle("relu", "group")
    layers = ((nn.Conv2d(width, width, 3, padding=1), style.normalise(width), style.activate()) for _ in range(convs))
    return nn.Sequential(*(layer for each in layers for layer in each))


def _draw(layer: nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
