"""Detectors as compositions: backbone, neck and head in a row. A second stage, where there is one, is the head's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crossstage.errors import ConfigError
from crossstage.models.contracts import Backbone, Neck
from crossstage.models.detector import Detector
from crossstage.models.heads.base import Head
from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing, Targets


class ComposedDetector(Detector):
    """Backbone, neck and head in a row.

    Args:
        backbone: Images to feature maps.
        neck: Feature maps to fused maps.
        head: Fused maps to predictions.
        class_names: Names by class id; as many as the head has classes.
        preprocessing: How images become input.
        size_divisor: The number that the input's height and width must be multiples of; None takes the largest of the
            head's strides.

    Raises:
        ConfigError: The number of names is not the head's number of classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        head: Head,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        size_divisor: int | None = None,
    ) -> None:
        if len(class_names) != head.num_classes:
            raise ConfigError(f"{len(class_names)} class names for a head with {head.num_classes} classes")
        super().__init__(class_names, preprocessing, size_divisor or max(head.strides))
        self.nms, self.finds_masks = head.nms, head.finds_masks
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the head's raw tensors; see :meth:`Detector.forward`."""
        return self.head(self.neck(self.backbone(images)))

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """See :meth:`Detector.loss`; computed in full precision, whatever the network runs in."""
        raw = self(images)
        with torch.autocast(images.device.type, enabled=False):
            full = {name: x if x.dtype == torch.float64 else x.float() for name, x in raw.items()}
            return self.head.loss(full, targets, (images.shape[2], images.shape[3]))

    def decode(self, raw: Mapping[str, Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See :meth:`Detector.decode`."""
        return self.head.decode(raw, image_size)

    def detect(
        self,
        raw: Mapping[str, Tensor],
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """See :meth:`Detector.detect`."""
        return self.head.detect(raw, image_size, nms, sizes)

    def class_rows(self, num_classes: int) -> dict[str, Sequence[Sequence[int]]]:
        """See :meth:`Detector.class_rows`."""
        return {f"head.{name}": rows for name, rows in self.head.class_rows(num_classes).items()}
