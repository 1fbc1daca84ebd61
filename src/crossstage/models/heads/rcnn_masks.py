"""Mask R-CNN (arXiv 1703.06870): Faster R-CNN's head, and a small convolutional network for each box's mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import maskrcnn_loss

from crossstage.errors import ConfigError
from crossstage.models.heads.base import HeadConfig
from crossstage.models.heads.rcnn import WIDTH, FasterRCNNConfig, FasterRCNNHead
from crossstage.models.heads.rcnn_parts import apart, norm_of
from crossstage.structures import Instances


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig(FasterRCNNConfig):
    """Settings of a Mask R-CNN head.

    Attributes:
        mask_convs: 3x3 convolutions of 256 channels of the mask head.

    Raises:
        ConfigError: A value is out of range or unknown.
    """

    mask_convs: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask_convs < 0:
            raise ConfigError(f"mask_convs is {self.mask_convs}; expected 0 or more")

    def build(self, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> MaskRCNNHead:
        """See :meth:`HeadConfig.build`."""
        return MaskRCNNHead(self, channels, strides, num_classes)


class MaskRCNNHead(FasterRCNNHead):
    """Faster R-CNN's head, and for each box a mask of 28 x 28 cells.

    Args:
        row: The head's settings.
        channels: Channels of the neck's maps, all the same.
        strides: Strides of the neck's maps, shallow to deep, each twice the one before.
        num_classes: Number of classes to tell apart, at least 1.

    Raises:
        ConfigError: See :class:`FasterRCNNHead`.
    """

    finds_masks = True
    row: MaskRCNNConfig  # pyright: ignore[reportIncompatibleVariableOverride] (set once)

    def __init__(self, row: MaskRCNNConfig, channels: Sequence[int], strides: Sequence[int], num_classes: int) -> None:
        super().__init__(row, channels, strides, num_classes)
        norm, masks = norm_of(row.head_norm), 1 if row.agnostic else num_classes + 1
        self.roi_heads.mask_head = MaskRCNNHeads(channels[0], (WIDTH,) * row.mask_convs, 1, norm)
        self.roi_heads.mask_predictor = MaskRCNNPredictor(WIDTH if row.mask_convs else channels[0], WIDTH, masks)

    def class_rows(self, num_classes: int) -> dict[str, list[list[int]]]:
        """See :meth:`Head.class_rows`."""
        if self.row.agnostic:
            return super().class_rows(num_classes)
        rows = [[index + 1] for index in range(num_classes)]
        masks = {f"roi_heads.mask_predictor.mask_fcn_logits.{part}": rows for part in ("weight", "bias")}
        return super().class_rows(num_classes) | masks

    def _mask_logits(self, features: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the logits ``(R, 28, 28)`` of the boxes ``(K, 4)`` of all images, each for its class."""
        logits = self._all_masks(features, boxes)
        return logits[torch.arange(labels.shape[0], device=labels.device), labels * (not self.row.agnostic)]

    def _all_masks(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Return the logits ``(R, 1 + C, 28, 28)`` of the boxes of all images, background first; one if agnostic."""
        head, predictor = self.roi_heads.mask_head, self.roi_heads.mask_predictor
        assert head is not None and predictor is not None
        return predictor(head(self._pool(features, boxes, 14)))

    def _with_masks(self, features: Sequence[Tensor], found: list[Instances]) -> list[Instances]:
        boxes = [each.boxes_xyxy for each in found]
        labels = torch.cat([each.class_ids for each in found]) + 1
        masks = apart(self._mask_logits(features, boxes, labels).sigmoid(), boxes)
        return [each._replace(masks=own) for each, own in zip(found, masks, strict=True)]

    def _mask_loss(
        self,
        features: Sequence[Tensor],
        rois: Sequence[Tensor],
        labels: Sequence[Tensor],
        matched: Sequence[Tensor],
        objects: Sequence[dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        if not all("masks" in each for each in objects):
            raise ConfigError("the objects have no masks, which Mask R-CNN is trained with; expected data with masks")
        positive = [torch.where(each > 0)[0] for each in labels]
        boxes = [each[at] for each, at in zip(rois, positive, strict=True)]
        matched = [each[at] for each, at in zip(matched, positive, strict=True)]
        logits = self._all_masks(features, boxes)
        if self.row.agnostic:
            logits = logits.expand(-1, self.num_classes + 1, -1, -1)
        masks, classes = [each["masks"] for each in objects], [each["labels"] for each in objects]
        return {"masks": self.row.loss.mask_gain * maskrcnn_loss(logits, boxes, masks, classes, matched)}


HEADS: dict[str, HeadConfig] = {"maskrcnn": MaskRCNNConfig()}
