"""The head of SSD (arXiv 1512.02325), Pelee (1804.06882) and DSOD (1708.01241): default boxes, softmax of classes.

Decoding and loss are those of torchvision's SSD: a box's codes are scaled by .1 and .2, the best 400 boxes of each
class enter suppression, and the loss counts three negative default boxes for each positive one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.nn import ConvNormAct, ConvStyle
from crossstage.nn.init import xavier_
from crossstage.ops.multibox import decode_boxes, match_priors, multibox_loss
from crossstage.ops.nms import NMS, best_of_classes
from crossstage.ops.priors import default_sides, prior_grid, to_pixels
from crossstage.structures import Targets

SSD300_RATIOS = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,))
SSD300_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
SSD300_STEPS = (8.0, 16.0, 32.0, 64.0, 100.0, 300.0)


@dataclass(frozen=True)
class MultiboxLoss:
    """How a head with priors is trained.

    Attributes:
        match_iou: The overlap from which on a prior is to find an object.
        negatives: Negative priors that are counted for each positive one, the hardest of their image.
        box_gain: The weight of the loss of boxes.
        class_gain: The weight of the loss of classes.

    Raises:
        ConfigError: A value is out of range.
    """

    match_iou: float = 0.5
    negatives: float = 3.0
    box_gain: float = 1.0
    class_gain: float = 1.0

    def __post_init__(self) -> None:
        check_numbers(self, "match_iou", most=1.0)
        check_numbers(self, "negatives", "box_gain", "class_gain")


@dataclass(frozen=True, kw_only=True)
class SSDConfig(HeadConfig):
    """Settings of an SSD head.

    Attributes:
        prior_scales: Size of each map's default boxes as a share of the input's, and one more; see
            :func:`~crossstage.ops.priors.default_sides`.
        prior_ratios: For each map, ratios above 1 of the longer to the shorter side.
        prior_steps: For each map, pixels of the input from one cell to the next; empty takes the maps' strides.
        prior_clip: Whether sides of default boxes are at most the input's.
        predictor: What predicts: a ``"3x3"`` convolution; a ``"3x3_norm"`` convolution without bias and a batch norm
            (DSOD); or a ``"1x1"`` convolution (Pelee).
        candidates: How many boxes of each class enter suppression.
        loss: How the head is trained.

    Raises:
        ConfigError: The settings do not fit each other, or a value is out of range.
    """

    prior_scales: tuple[float, ...] = SSD300_SCALES
    prior_ratios: tuple[tuple[float, ...], ...] = SSD300_RATIOS
    prior_steps: tuple[float, ...] = ()
    prior_clip: bool = True
    predictor: Literal["3x3", "3x3_norm", "1x1"] = "3x3"
    candidates: int = 400
    loss: MultiboxLoss = field(default_factory=MultiboxLoss)

    def __post_init__(self) -> None:
        levels = len(self.prior_ratios)
        steps = self.prior_steps
        if len(self.prior_scales) != levels + 1 or (steps and len(steps) != levels):
            found = f"{len(self.prior_scales)} prior_scales and {len(steps)} prior_steps for {levels} prior_ratios"
            raise ConfigError(f"{found}; expected one more, and none or as many")
        flat = [*self.prior_scales, *steps, *(ratio for ratios in self.prior_ratios for ratio in ratios)]
        if not all(math.isfinite(value) and value > 0 for value in flat):
            raise ConfigError(f"priors have {flat}; expected positive, finite numbers")
        if self.predictor not in ("3x3", "3x3_norm", "1x1") or self.candidates < 1:
            found = f"predictor is {self.predictor!r} and candidates {self.candidates}"
            raise ConfigError(f"{found}; expected 3x3, 3x3_norm or 1x1, and at least 1")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> SSDHead:
        """See :meth:`HeadConfig.build`."""
        return SSDHead(self, channels, strides, num_classes)

    def for_strides(self, strides: Sequence[int]) -> Self:
        """Return the row with default boxes from a tenth to nine tenths of the input where it has not as many maps."""
        levels = len(strides)
        if levels == len(self.prior_ratios):
            return self
        scales = tuple(0.1 + 0.8 * index / max(1, levels - 1) for index in range(levels))
        return replace(self, prior_scales=(*scales, 1.05), prior_ratios=((2.0, 3.0),) * levels, prior_steps=())


HEADS: dict[str, HeadConfig] = {"ssd": SSDConfig()}


class SSDHead(Head):
    """Predict codes of a box and a class, or background, for every default box.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to raw maps ``boxes0`` ``(N, A_0 * 4, H_0, W_0)``, ``classes0``
    ``(N, A_0 * (1 + num_classes), H_0, W_0)``, ``boxes1`` and so on: for each of a cell's default boxes its codes, and
    logits of background and classes.

    Args:
        row: The default boxes, and the settings of the loss.
        channels: Channels of the neck's maps, shallow to deep.
        strides: Strides of the neck's maps, shallow to deep.
        num_classes: Number of classes to tell apart, at least 1.

    Raises:
        ConfigError: The row has not as many levels as there are maps, or there is no class.
    """

    nms: ClassVar[NMS] = NMS(score=0.01, iou=0.45, max_detections=200)
    clips = True
    weighs_classes = True
    shared_rows = "boxes, background"
    row: SSDConfig

    def __init__(self, row: SSDConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        if len(row.prior_ratios) != len(self.strides):
            raise ConfigError(f"prior_ratios for {len(row.prior_ratios)} maps; expected one for each of {self.strides}")
        sides = default_sides(row.prior_scales, row.prior_ratios)
        if row.prior_clip:
            sides = [[(min(width, 1.0), min(height, 1.0)) for width, height in level] for level in sides]
        self.sides = sides
        self.boxes = nn.ModuleList(
            _predict(row, width, 4 * len(level)) for width, level in zip(channels, sides, strict=True)
        )
        self.classes = nn.ModuleList(
            _predict(row, width, (1 + num_classes) * len(level)) for width, level in zip(channels, sides, strict=True)
        )

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return tuple(f"{part}{index}" for index in range(len(self.sides)) for part in ("boxes", "classes"))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the codes and logits of each map."""
        raw = {}
        for index, (feature, boxes, classes) in enumerate(zip(features, self.boxes, self.classes, strict=True)):
            raw[f"boxes{index}"], raw[f"classes{index}"] = boxes(feature), classes(feature)
        return raw

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; by map, row, column and default box.

        Boxes are clipped to the input, so that files that suppress boxes themselves do it as this head does.
        """
        codes, logits = self._flat(raw)
        scores = logits.softmax(-1)[..., 1:]
        boxes = decode_boxes(codes, self.priors(raw, image_size))
        return clip_boxes_to_image(boxes, image_size), scores

    def candidates(self, raw: Raw, scores: Tensor) -> Tensor:
        """See :meth:`Head.candidates`: the best boxes of each class."""
        del raw
        return best_of_classes(scores, self.row.candidates)

    def priors(self, raw: Raw, image_size: tuple[int, int]) -> Tensor:
        """Return the default boxes ``(K, 4)`` as xyxy in pixels of the input, whose maps' sizes raw tensors tell."""
        maps = [raw[f"boxes{index}"] for index in range(len(self.sides))]
        steps = self.row.prior_steps or self.strides
        shapes = [tensor.shape[2:] for tensor in maps]
        return to_pixels(prior_grid(shapes, steps, self.sides, image_size, maps[0]), image_size)

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``boxes`` and ``classes``."""
        settings = self.row.loss
        codes, logits = self._flat(raw)
        priors = self.priors(raw, image_size)
        objects = match_priors(priors, targets, len(codes), settings.match_iou)
        weights = self.class_weights
        if weights is not None:
            weights = torch.cat([weights.new_ones(1), weights]).to(logits)
        boxes, classes = multibox_loss(
            logits, codes, priors, objects, targets, negatives=settings.negatives, weights=weights
        )
        return {"boxes": settings.box_gain * boxes, "classes": settings.class_gain * classes}

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`: each default box has background, then a value for each class."""
        names = [name for name, tensor in self.classes.state_dict().items() if tensor.dim()]
        return {
            f"classes.{name}": anchored_rows(len(self.sides[int(name.split(".")[0])]), num_classes, before=1)
            for name in names
        }

    def _flat(self, raw: Raw) -> tuple[Tensor, Tensor]:
        levels = range(len(self.sides))
        codes = [by_prior(raw[f"boxes{index}"], 4) for index in levels]
        logits = [by_prior(raw[f"classes{index}"], 1 + self.num_classes) for index in levels]
        return torch.cat(codes, 1), torch.cat(logits, 1)


def by_prior(raw: Tensor, values: int) -> Tensor:
    """Turn a map ``(N, A * values, H, W)`` into ``(N, H * W * A, values)``."""
    batch, channels, height, width = raw.shape
    apart = raw.view(batch, channels // values, values, height, width)
    return apart.permute(0, 3, 4, 1, 2).reshape(batch, -1, values)


def anchored_rows(anchors: int, num_classes: int, before: int) -> list[list[int]]:
    """Return the rows of each class where each anchor has so many values before those of the classes."""
    values = before + num_classes
    return [[anchor * values + before + class_id for anchor in range(anchors)] for class_id in range(num_classes)]


def _predict(row: SSDConfig, in_channels: int, out: int) -> nn.Module:
    if row.predictor == "3x3_norm":
        module: nn.Module = ConvNormAct(in_channels, out, 3, style=ConvStyle("linear"))
    else:
        kernel = 3 if row.predictor == "3x3" else 1
        module = nn.Conv2d(in_channels, out, kernel, padding=kernel // 2)
    xavier_(module)
    return module
