"""Detectors as compositions: backbone, neck and head in a row. A second stage, where there is one, is the head's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crossstage.errors import ConfigError
from crossstage.models.auxiliary import AuxiliaryBranch, AuxiliaryConfig
from crossstage.models.backbones import StagedBackbone
from crossstage.models.contracts import Neck
from crossstage.models.detector import AUXILIARY, Detector
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
        auxiliary: The row of a branch that helps in training.

    Attributes:
        auxiliary: The branch, once :meth:`prepare_training` has added it.

    Raises:
        ConfigError: The number of names is not the head's number of classes.
    """

    def __init__(
        self,
        backbone: StagedBackbone,
        neck: Neck,
        head: Head,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        size_divisor: int | None = None,
        auxiliary: AuxiliaryConfig | None = None,
    ) -> None:
        if len(class_names) != head.num_classes:
            raise ConfigError(f"{len(class_names)} class names for a head with {head.num_classes} classes")
        super().__init__(class_names, preprocessing, size_divisor or max(head.strides))
        self.nms, self.finds_masks = head.nms, head.finds_masks
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.auxiliary_row = auxiliary
        self.auxiliary: AuxiliaryBranch | None = None

    def prepare_training(self) -> None:
        """Add the auxiliary branch, initialised at random, if the detector has one and it is not there yet.

        Raises:
            ConfigError: It does not fit the detector.
        """
        if self.auxiliary_row is not None and self.auxiliary is None:
            branch = self.auxiliary_row.build(self.backbone, self.head)
            self.auxiliary = branch.to(next(self.parameters()).device)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the head's raw tensors; see :meth:`Detector.forward`."""
        return self.head(self.neck(self.backbone(images)))

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """See :meth:`Detector.loss`; computed in full precision, whatever the network runs in.

        Parts of an auxiliary branch are named as the head's with ``auxiliary_`` before; the head, whose settings count,
        computes both, each from predictions and assignments of its own.
        """
        features = self.backbone(images)
        parts = self._loss(self.head(self.neck(features)), images, targets)
        if self.auxiliary is not None:
            more = self._loss(self.auxiliary(images, features), images, targets)
            parts |= {f"auxiliary_{name}": self.auxiliary.weight * part for name, part in more.items()}
        return parts

    def _loss(self, raw: Mapping[str, Tensor], images: Tensor, targets: Targets) -> dict[str, Tensor]:
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
        own = self.head.class_rows(num_classes)
        places = ("head.", *([f"{AUXILIARY}head."] if self.auxiliary is not None else []))
        return {f"{place}{name}": rows for place in places for name, rows in own.items()}
