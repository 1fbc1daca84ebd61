"""RefineDet's head (arXiv 1711.06897): anchors that are refined once, and boxes and classes that start from these.

The anchor refinement module (ARM) tells objects from background and moves the anchors of each map; transfer connection
blocks carry the maps over and add the coarser ones to them; the object detection module (ODM) predicts boxes and
classes from the refined anchors, of which those that are surely background have no say.

Two forms were released. With VGG-16, convolutions have no norm and predict at once. With ResNet, and of VoVNet's
authors with VoVNet and DenseNet, convolutions of the blocks have batch norm, and a residual block stands before the
predictors of each map in both modules; that each map has one block for boxes and classes together follows from the
published numbers of parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.models.heads.base import Head, HeadConfig, Raw, check_numbers
from crossstage.models.heads.ssd import MultiboxLoss, anchored_rows, by_prior
from crossstage.nn import ConvNormAct, ConvStyle
from crossstage.nn.init import xavier_
from crossstage.nn.residual import projected
from crossstage.ops.multibox import decode_boxes, match_priors, multibox_loss
from crossstage.ops.nms import NMS, best_of_classes
from crossstage.ops.priors import prior_grid, to_pixels
from crossstage.structures import Targets

EPSILON = 1e-5  # which the release adds to the ratio of an object's side to its anchor's


@dataclass(frozen=True)
class RefineDetLoss(MultiboxLoss):
    """How RefineDet is trained; the settings count for both modules.

    Attributes:
        arm_gain: The weight of the losses of the anchor refinement module.
    """

    arm_gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "arm_gain")


@dataclass(frozen=True, kw_only=True)
class RefineDetConfig(HeadConfig):
    """Settings of a RefineDet head.

    Attributes:
        anchor_scale: Side of a square anchor, in strides of its map.
        anchor_ratios: Ratios of width to height.
        anchor_clip: Whether anchors' centres and sides are clipped to the input.
        objectness: Anchors whose objectness is not above this find nothing, and are not trained to.
        transfer_width: Channels of the transfer connection blocks.
        transfer_norm: Normalisation of these and of the residual blocks, ``"none"`` or ``"batch"``.
        residual_width: Channels of the residual block before a map's predictors, a quarter of them inside; None for no
            block.
        candidates: How many boxes of each class enter suppression.
        loss: How the head is trained.

    Raises:
        ConfigError: A value is out of range.
    """

    anchor_scale: float = 4.0
    anchor_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    anchor_clip: bool = False
    objectness: float = 0.01
    transfer_width: int = 256
    transfer_norm: Literal["none", "batch"] = "batch"
    residual_width: int | None = 1024
    candidates: int = 1000
    loss: RefineDetLoss = field(default_factory=RefineDetLoss)

    def __post_init__(self) -> None:
        flat = [self.anchor_scale, *self.anchor_ratios]
        if not self.anchor_ratios or not all(math.isfinite(value) and value > 0 for value in flat):
            raise ConfigError(f"anchor_scale and anchor_ratios are {flat}; expected positive, finite numbers")
        if not 0 <= self.objectness < 1:
            raise ConfigError(f"objectness is {self.objectness}; expected 0 to below 1")
        if self.transfer_norm not in ("none", "batch"):
            raise ConfigError(f"transfer_norm is {self.transfer_norm!r}; expected none or batch")
        if self.transfer_width < 1 or self.candidates < 1 or (self.residual_width or 4) < 4:
            found = f"{self.transfer_width}, {self.candidates} and {self.residual_width}"
            raise ConfigError(
                f"transfer_width, candidates and residual_width are {found}; expected at least 1, 1 and 4"
            )

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> RefineDetHead:
        """See :meth:`HeadConfig.build`."""
        return RefineDetHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"refinedet": RefineDetConfig()}


class RefineDetHead(Head):
    """Refine anchors, then predict boxes and classes from them.

    Shape: a list of ``(N, channels[i], H_i, W_i)`` to raw maps by stride: ``arm_boxes8`` ``(N, A * 4, H, W)`` and
    ``arm_objects8`` ``(N, A * 2, H, W)``, an anchor's codes and logits of background and object; ``boxes8`` and
    ``classes8`` ``(N, A * (1 + num_classes), H, W)``, a refined anchor's codes and logits of background and classes.

    Args:
        row: The anchors, and the settings of the loss.
        channels: Channels of the neck's maps, shallow to deep.
        strides: Strides of the neck's maps, each twice the one before.
        num_classes: Number of classes to tell apart, at least 1.

    Raises:
        ConfigError: A stride is not twice the one before, or there is no class.
    """

    nms: ClassVar[NMS] = NMS(score=0.01, iou=0.45, max_detections=500)
    weighs_classes = True
    shared_rows = "background"
    row: RefineDetConfig

    def __init__(self, row: RefineDetConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        if any(coarse != 2 * fine for fine, coarse in pairwise(self.strides)):
            raise ConfigError(f"the head got strides {list(strides)}; expected each to be twice the one before")
        width, anchors = row.transfer_width, len(row.anchor_ratios)
        style = ConvStyle("relu", row.transfer_norm)
        last = len(self.channels) - 1
        self.transfers = nn.ModuleList(
            TransferBlock(given, width, adds=index < last, style=style) for index, given in enumerate(self.channels)
        )
        self.arm = nn.ModuleList(Predictors(row, given, (4 * anchors, 2 * anchors)) for given in self.channels)
        outputs = 4 * anchors, (1 + num_classes) * anchors
        self.odm = nn.ModuleList(Predictors(row, width, outputs) for _ in self.channels)
        xavier_(self)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        parts = ("arm_boxes", "arm_objects", "boxes", "classes")
        return tuple(f"{part}{stride}" for part in parts for stride in self.strides)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return what both modules predict for each map."""
        refined = [predict(feature) for predict, feature in zip(self.arm, features, strict=True)]
        found: list[tuple[Tensor, Tensor]] = []
        above: Tensor | None = None
        for transfer, predict, feature in reversed(list(zip(self.transfers, self.odm, features, strict=True))):
            above = transfer(feature, above)
            found.insert(0, predict(above))
        columns = (*zip(*refined, strict=True), *zip(*found, strict=True))
        return dict(zip(self.raw_names, (tensor for column in columns for tensor in column), strict=True))

    def decode(self, raw: Raw, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Head.decode`; by map, row, column and anchor. Scores are zero where the anchor is no object's."""
        boxes = decode_boxes(self._flat(raw, "boxes", 4), self.refined(raw, image_size))
        scores = self._flat(raw, "classes", 1 + self.num_classes).softmax(-1)[..., 1:]
        return boxes, scores * self._objects(raw).unsqueeze(-1)

    def candidates(self, raw: Raw, scores: Tensor) -> Tensor:
        """See :meth:`Head.candidates`: the best boxes of each class."""
        del raw
        return best_of_classes(scores, self.row.candidates)

    def priors(self, raw: Raw, image_size: tuple[int, int]) -> Tensor:
        """Return the anchors ``(K, 4)`` as xyxy in pixels of the input, whose maps' sizes raw tensors tell."""
        height, width = image_size
        maps = [raw[f"arm_boxes{stride}"] for stride in self.strides]
        sides = [
            [(side * math.sqrt(ratio) / width, side / math.sqrt(ratio) / height) for ratio in self.row.anchor_ratios]
            for side in (self.row.anchor_scale * stride for stride in self.strides)
        ]
        priors = prior_grid([tensor.shape[2:] for tensor in maps], self.strides, sides, image_size, maps[0])
        return to_pixels(priors.clamp(0, 1) if self.row.anchor_clip else priors, image_size)

    def refined(self, raw: Raw, image_size: tuple[int, int]) -> Tensor:
        """Return the refined anchors ``(N, K, 4)`` as xyxy in pixels of the input."""
        return decode_boxes(self._flat(raw, "arm_boxes", 4), self.priors(raw, image_size))

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are ``arm_boxes``, ``arm_objects``, ``boxes`` and ``classes``."""
        settings = self.row.loss
        priors = self.priors(raw, image_size)
        codes, objects = self._flat(raw, "arm_boxes", 4), self._flat(raw, "arm_objects", 2)
        any_class = targets._replace(class_ids=torch.zeros_like(targets.class_ids))
        matched = match_priors(priors, targets, len(codes), settings.match_iou)
        arm = multibox_loss(objects, codes, priors, matched, any_class, negatives=settings.negatives, epsilon=EPSILON)
        refined = decode_boxes(codes, priors).detach()
        weights = self.class_weights
        if weights is not None:
            weights = torch.cat([weights.new_ones(1), weights]).to(codes)
        odm = multibox_loss(
            self._flat(raw, "classes", 1 + self.num_classes),
            self._flat(raw, "boxes", 4),
            refined,
            match_priors(refined, targets, len(codes), settings.match_iou),
            targets,
            negatives=settings.negatives,
            epsilon=EPSILON,
            kept=self._objects(raw),
            weights=weights,
        )
        return {
            "arm_boxes": settings.arm_gain * settings.box_gain * arm[0],
            "arm_objects": settings.arm_gain * settings.class_gain * arm[1],
            "boxes": settings.box_gain * odm[0],
            "classes": settings.class_gain * odm[1],
        }

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`: each anchor has background, then a value for each class."""
        rows = anchored_rows(len(self.row.anchor_ratios), num_classes, before=1)
        return {f"odm.{index}.classes.{part}": rows for index in range(len(self.odm)) for part in ("weight", "bias")}

    def _objects(self, raw: Raw) -> Tensor:
        """Tell which anchors may be an object's: ``(N, K)`` bool."""
        return self._flat(raw, "arm_objects", 2).softmax(-1)[..., 1] > self.row.objectness

    def _flat(self, raw: Raw, part: str, values: int) -> Tensor:
        return torch.cat([by_prior(raw[f"{part}{stride}"], values) for stride in self.strides], 1)


class TransferBlock(nn.Module):
    """A transfer connection block: two 3x3 convolutions, plus the block above enlarged, then another convolution.

    Shape: ``(N, in_channels, H, W)`` and, unless it is the uppermost, ``(N, width, H / 2, W / 2)`` to
    ``(N, width, H, W)``.

    Args:
        in_channels: Channels of the map.
        width: Channels of the output.
        adds: Whether there is a block above.
        style: Normalisation and activation.
    """

    def __init__(self, in_channels: int, width: int, *, adds: bool, style: ConvStyle) -> None:
        super().__init__()
        self.lateral = nn.Sequential(
            ConvNormAct(in_channels, width, 3, style=style), ConvNormAct(width, width, 3, style=style.linear)
        )
        self.enlarge = (
            nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2, bias=style.bias), style.normalise(width))
            if adds
            else None
        )
        self.act = style.activate()
        self.out = ConvNormAct(width, width, 3, style=style)

    def forward(self, x: Tensor, above: Tensor | None) -> Tensor:
        """Carry a map over and add what is above."""
        x = self.lateral(x)
        if self.enlarge is not None:
            x = x + self.enlarge(above)
        return self.out(self.act(x))


class Predictors(nn.Module):
    """Codes of boxes and logits of a map, both by 3x3 convolutions, behind a residual block if the row says so.

    Shape: ``(N, in_channels, H, W)`` to ``(N, outputs[0], H, W)`` and ``(N, outputs[1], H, W)``.

    Args:
        row: The head's settings.
        in_channels: Channels of the map.
        outputs: Channels of the codes and of the logits.
    """

    def __init__(self, row: RefineDetConfig, in_channels: int, outputs: tuple[int, int]) -> None:
        super().__init__()
        width = row.residual_width
        style = ConvStyle("relu", row.transfer_norm)
        self.block = projected(in_channels, width // 4, width, style=style) if width else nn.Identity()
        self.boxes = nn.Conv2d(width or in_channels, outputs[0], 3, padding=1)
        self.classes = nn.Conv2d(width or in_channels, outputs[1], 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return codes and logits."""
        x = self.block(x)
        return self.boxes(x), self.classes(x)
