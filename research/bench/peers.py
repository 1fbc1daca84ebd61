"""The same network in other runtimes, behind CrossStage's own contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from crossstage.models.composed import ComposedDetector
from crossstage.ops.nms import NMS
from crossstage.structures import Instances


class OpenCVDetector:
    """A Darknet detector whose network OpenCV's DNN module runs; decoding and suppression are the native model's.

    OpenCV's own decoding drops scores below 0.2, which no average precision can do without, so the maps that enter its
    output layers are taken.

    Args:
        cfg: The ``.cfg`` file.
        weights: The ``.weights`` file.
        native: The model it is compared with.
    """

    def __init__(self, cfg: Path, weights: Path, native: ComposedDetector) -> None:
        self.native = native
        self.class_names, self.preprocessing = native.class_names, native.preprocessing
        self.size_divisor, self.nms = native.size_divisor, native.nms
        self.net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
        self.net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        self.net.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
        indices = [int(name.split("_")[1]) for name in self.net.getUnconnectedOutLayersNames()]
        self.maps = [f"conv_{index - 1}" for index in indices]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return the raw tensors by the names that the native head gives them, shallow to deep."""
        self.net.setInput(np.ascontiguousarray(images.numpy()))
        maps = sorted(self.net.forward(self.maps), key=lambda raw: raw.shape[2], reverse=True)  # files have any order
        tensors = [torch.from_numpy(np.array(raw)) for raw in maps]
        return dict(zip(self.native.head.raw_names, tensors, strict=True))

    def detect(
        self,
        raw: Mapping[str, Tensor],
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """See :meth:`crossstage.models.detector.Detector.detect`."""
        return self.native.detect(raw, image_size, nms, sizes)
