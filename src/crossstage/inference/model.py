"""What inference and evaluation ask of a model: detectors, exported files and test doubles meet it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from crossstage.ops.nms import NMS
from crossstage.structures import Instances, Preprocessing


class DetectionModel(Protocol):
    """A detector as inference and evaluation see it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How images were prepared in training."""
        ...

    @property
    def size_divisor(self) -> int:
        """The input's height and width are multiples of this."""
        ...

    def __call__(self, images: Tensor) -> Any:
        """Return raw tensors of ``(N, 3, H, W)`` prepared images, for :meth:`detect` alone to read."""
        ...

    @property
    def nms(self) -> NMS:
        """How decoded boxes become detections where nothing else is said."""
        ...

    def detect(
        self,
        raw: Any,
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """Decode, filter and suppress: one entry for each image.

        Args:
            raw: What the call returned.
            image_size: Height and width of the input in pixels.
            nms: Thresholds and kind of suppression; None takes :attr:`nms`.
            sizes: Height and width in pixels that each image has in the input, below and to the right of which it is
                padded; None where all images fill it.
        """
        ...


class ClassificationModel(Protocol):
    """A classifier as inference and evaluation see it."""

    preprocessing: Preprocessing | None
    class_names: tuple[str, ...]

    @property
    def size_divisor(self) -> int:
        """The number that sides of an input of varying size are padded to multiples of."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits ``(N, classes)`` of ``(N, 3, H, W)`` prepared images."""
        ...
