"""CenterMask's head (arXiv 1911.06667): FCOS finds boxes; each gets a mask, and the mask an IoU that it is scored by.

A region is read from the map that its share of the image tells, see
:func:`~crossstage.models.heads.centermask_masks.levels_by_ratio`. The mask is that of the class that was found.
The score of a detection is its class score times the predicted IoU of its mask. The authors' release keeps two scores
and ranks boxes by the class score alone when it measures the AP of boxes; here a detection has one.

Trained are the masks of FCOS's detections, and of the objects' own boxes, that overlap an object enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from crossstage.errors import ConfigError
from crossstage.models.heads.base import HeadConfig, Raw, check_numbers
from crossstage.models.heads.centermask_masks import (
    POOLED,
    MaskBranch,
    MaskIoUBranch,
    cropped,
    levels_by_ratio,
    mask_ious,
)
from crossstage.models.heads.fcos import MAX_CONVS, FcosConfig, FcosHead, FcosLoss
from crossstage.ops.nms import NMS
from crossstage.ops.rois import pool, with_images
from crossstage.structures import Instances, Targets

PROPOSAL_SCORE = 0.05  # what a detection that trains masks scores more than


@dataclass(frozen=True)
class CenterMaskLoss(FcosLoss):
    """How a CenterMask head is trained.

    Attributes:
        proposals: The most detections of an image that masks are trained on; the objects' own boxes come on top.
        positive_iou: What a box overlaps an object at least, whose mask it is trained on.
        positives: The most boxes of an image that masks are trained on; of more, some are drawn at random.

    Raises:
        ConfigError: A value is out of range.
    """

    proposals: int = 100
    positive_iou: float = 0.5
    positives: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, "proposals", "positives", least=1, whole=True)
        check_numbers(self, "positive_iou", most=1.0, positive=True)


@dataclass(frozen=True, kw_only=True)
class CenterMaskConfig(FcosConfig):
    """Settings of a CenterMask head: those of FCOS, and of the second stage.

    Attributes:
        mask_convs: 3x3 convolutions before the spatial attention, as wide as the neck's maps.
        iou_convs: 3x3 convolutions of the branch that predicts the IoU of masks; at least 1.
        mask_maps: How many of the finest maps masks are read from.
        coarsest_level: The level of the map that a box as large as its image is read from, before it is brought within
            the levels of ``mask_maps``. The paper's is 7, so that only boxes below an eighth of the image are read from
            a finer map than P5; the released code's is 5, the coarsest level that masks are read from, so that all
            below a half are.
        loss: How the head is trained.

    Raises:
        ConfigError: A value is out of range.
    """

    mask_convs: int = 4
    iou_convs: int = 4
    mask_maps: int = 3
    coarsest_level: int = 5
    loss: CenterMaskLoss = field(default_factory=CenterMaskLoss)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("mask_convs", 0), ("iou_convs", 1), ("mask_maps", 1)):
            if not least <= getattr(self, name) <= MAX_CONVS:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected {least} to {MAX_CONVS}")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> CenterMaskHead:
        """See :meth:`HeadConfig.build`."""
        return CenterMaskHead(self, channels, strides, num_classes)


HEADS: dict[str, HeadConfig] = {"centermask": CenterMaskConfig()}


class CenterMaskHead(FcosHead):
    """Detect by FCOS, then predict a mask for each detection, and its IoU.

    Shape: as :class:`~crossstage.models.heads.fcos.FcosHead`; its raw tensors are followed by the maps that masks are
    read from, ``features8`` ``(N, channels, H, W)`` and so on.

    Args:
        row: The head's settings.
        channels: Channels of the neck's maps, all the same.
        strides: Strides of the neck's maps, shallow to deep; each twice the one before.
        num_classes: Number of classes to tell apart.

    Raises:
        ConfigError: The maps differ in width or do not halve, there are too few, or there is no class.
    """

    second_stage = True
    finds_masks = True
    row: CenterMaskConfig  # pyright: ignore[reportIncompatibleVariableOverride] (no other row is ever set)

    def __init__(
        self, row: CenterMaskConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int
    ) -> None:
        super().__init__(row, channels, strides, num_classes)
        self.mask_strides = self.strides[: row.mask_maps]
        self.mask_levels = [int(math.log2(stride)) for stride in self.mask_strides]
        expected = range(self.mask_levels[0], self.mask_levels[0] + row.mask_maps)
        if self.mask_levels != list(expected) or [2**level for level in expected] != list(self.mask_strides):
            raise ConfigError(f"maps of strides {list(strides)}; masks expect {row.mask_maps} powers of 2 in a row")
        self.mask = MaskBranch(channels[0], row.mask_convs, num_classes)
        self.mask_iou = MaskIoUBranch(channels[0], row.iou_convs, num_classes)

    @property
    def raw_names(self) -> tuple[str, ...]:
        """See :attr:`Head.raw_names`."""
        return (*super().raw_names, *(f"features{stride}" for stride in self.mask_strides))

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """See :meth:`Head.forward`."""
        kept = {f"features{stride}": feature for stride, feature in zip(self.mask_strides, features, strict=False)}
        return super().forward(features) | kept

    def detect(
        self,
        raw: Raw,
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """See :meth:`Head.detect`; the score's threshold holds for class scores and for final ones.

        Masks are found for as many boxes of an image as :attr:`nms` lets pass, or as are asked for if that is more.
        """
        nms = nms or self.nms
        passing = max(nms.max_detections, self.nms.max_detections)
        found = super().detect(raw, image_size, replace(nms, max_detections=passing), sizes)
        sizes = sizes or [image_size] * len(found)
        masked = []
        for image, each in enumerate(found):  # one after the other: masks of all classes take much memory
            rois = torch.cat([torch.full_like(each.boxes_xyxy[:, :1], image), each.boxes_xyxy], dim=1)
            masks, ious = self.masks(self.pool(raw, rois, sizes), each.class_ids)
            masked.append(_best(each._replace(scores=each.scores * ious.clamp(0, 1), masks=masks), nms))
        return masked

    def pool(self, raw: Raw, rois: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Return the features of regions.

        Args:
            raw: What :meth:`forward` returned.
            rois: ``(R, 5)`` position of the image in the batch, then corners in pixels of the input.
            sizes: Height and width in pixels of each image.

        Returns:
            ``(R, channels, 14, 14)``.
        """
        maps = [raw[f"features{stride}"] for stride in self.mask_strides]
        one = rois.new_ones(())
        areas = torch.stack([one * (height * width) for height, width in sizes])[rois[:, 0].long()]
        levels = levels_by_ratio(rois[:, 1:], areas, self.row.coarsest_level, self.mask_levels)
        return pool(maps, rois, levels, self.mask_strides, POOLED, sampling=0, aligned=True)

    def masks(self, features: Tensor, class_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the second stage says of regions.

        Args:
            features: What :meth:`pool` returned.
            class_ids: ``(R,)`` each region's class.

        Returns:
            Masks ``(R, 28, 28)`` in [0, 1], and their predicted IoUs ``(R,)``.
        """
        masks = _of_class(self.mask(features), class_ids).sigmoid()
        return masks, _of_class(self.mask_iou(features, masks.unsqueeze(1)), class_ids)

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`."""
        rows = super().class_rows(num_classes)
        branches = (f"{branch}.predict.{part}" for branch in ("mask", "mask_iou") for part in ("weight", "bias"))
        return rows | dict.fromkeys(branches, rows["classes.bias"])

    def loss(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """See :meth:`Head.loss`; the parts are FCOS's, ``masks`` and ``mask_iou``.

        Raises:
            ConfigError: There are objects, but no masks.
        """
        parts = super().loss(raw, targets, image_size)
        masks = targets.masks
        if masks is None:
            if len(targets.boxes_xyxy):
                raise ConfigError("the objects have no masks; CenterMask expects a dataset that has them")
            masks = targets.class_ids.new_zeros(0, *image_size, dtype=torch.bool)
        sizes = self._sizes(raw, targets, image_size)
        rois, objects = self._positives(raw, targets, image_size, sizes)
        wanted = cropped(masks, objects, rois[:, 1:])
        class_ids = targets.class_ids[objects]
        features = self.pool(raw, rois, sizes)
        logits = _of_class(self.mask(features), class_ids)
        predicted = _of_class(self.mask_iou(features, logits.sigmoid().unsqueeze(1)), class_ids)
        areas = masks.flatten(1).sum(1)[objects]
        ious = mask_ious(logits > 0, wanted, areas, rois[:, 1:]).to(predicted)
        counted = ious > 0
        apart = F.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="sum")
        return parts | {
            "masks": apart / max(1, logits.numel()),
            "mask_iou": 0.5 * ((predicted - ious).square() * counted).sum() / counted.sum().clamp(min=1),
        }

    @torch.no_grad()
    def _positives(
        self, raw: Raw, targets: Targets, image_size: tuple[int, int], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Return the regions ``(R, 5)`` that masks are trained on, and the object ``(R,)`` of each."""
        settings = self.row.loss
        nms = replace(self.nms, score=PROPOSAL_SCORE, max_detections=settings.proposals)
        chosen, objects = [], []
        for image, found in enumerate(super().detect(raw, image_size, nms, sizes)):
            mine = (targets.image_index == image).nonzero().squeeze(1)
            mine = mine[(targets.boxes_xyxy[mine, 2:] > targets.boxes_xyxy[mine, :2]).all(1)]
            own = targets.boxes_xyxy[mine].to(found.boxes_xyxy)
            boxes = torch.cat([found.boxes_xyxy, own]) if len(mine) else own
            overlap, best = box_iou(boxes, own).max(dim=1) if len(mine) else (own.new_zeros(0), mine)
            positive = (overlap >= settings.positive_iou).nonzero().squeeze(1)
            if len(positive) > settings.positives:
                positive = positive[torch.randperm(len(positive), device=positive.device)[: settings.positives]]
            chosen.append(boxes[positive])
            objects.append(mine[best[positive]])
        return with_images(chosen), torch.cat(objects)

    def _sizes(self, raw: Raw, targets: Targets, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return height and width of each image in the input."""
        if targets.sizes is None:
            return [image_size] * len(raw[self.raw_names[0]])
        return [(height, width) for height, width in targets.sizes.tolist()]


def _of_class(predictions: Tensor, class_ids: Tensor) -> Tensor:
    """Return what is predicted for each region's class: ``(R, C, ...)`` to ``(R, ...)``."""
    regions = torch.arange(class_ids.shape[0], device=class_ids.device)  # len() would fix their number in a graph
    return predictions[regions, class_ids]


def _best(found: Instances, nms: NMS) -> Instances:
    """Return the best detections that score enough, best first."""
    assert found.masks is not None
    order = found.scores.sort(descending=True).indices
    order = order[found.scores[order] > nms.score][: nms.max_detections]
    return Instances(found.boxes_xyxy[order], found.scores[order], found.class_ids[order], found.masks[order])
