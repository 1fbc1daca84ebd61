"""Detectors: what they have in common, and the composition of backbone, neck and head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from crossstage.detectors.postprocess import postprocess
from crossstage.errors import ConfigError
from crossstage.heads import YoloHead
from crossstage.inference.model import Detected, Preprocessing, Suppression
from crossstage.nn.contracts import Backbone, Neck

if TYPE_CHECKING:
    import supervision


class Detector(nn.Module, ABC):
    """What every detector has in common: the way from raw tensors to detections, and from files to both.

    ``forward`` returns raw tensors and holds no Python branch on data, so that it can be traced and exported;
    :meth:`decode` and :meth:`detect` turn them into boxes; :meth:`predict` does the whole way from files. A subclass
    brings ``forward`` and ``decode``.

    Args:
        class_names: Names by class id.
        preprocessing: How pictures become input.
        max_stride: The input's height and width must be multiples of this.
    """

    def __init__(self, class_names: Sequence[str], preprocessing: Preprocessing, max_stride: int) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.max_stride = max_stride

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return raw head tensors.

        Args:
            images: ``(N, 3, H, W)`` RGB in [0, 1]; H and W are multiples of :attr:`max_stride`.
        """

    @abstractmethod
    def decode(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes ``(N, K, 4)`` as xyxy in pixels of the input, and scores ``(N, K, C)`` in [0, 1]."""

    def detect(
        self,
        raw: Sequence[Tensor],
        *,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.45,
        class_ids: Sequence[int] | None = None,
        max_detections: int = 300,
        suppression: Suppression = "iou",
    ) -> list[Detected]:
        """Decode raw tensors and post-process them, see :func:`crossstage.detectors.postprocess`."""
        return postprocess(
            *self.decode(raw),
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            class_ids=class_ids,
            max_detections=max_detections,
            suppression=suppression,
        )

    def predict(
        self,
        source: Any,
        *,
        conf: float = 0.25,
        iou: float = 0.45,
        imgsz: int | tuple[int, int] | None = None,
        classes: Sequence[str | int] | None = None,
    ) -> Iterator[supervision.Detections]:
        """Detect objects in pictures, one at a time.

        Args:
            source: A picture (path, PIL image, RGB uint8 array), folder, glob, ``.txt`` list, video, camera number, or
                an iterable of these.
            conf: Detections score more than this.
            iou: Of two boxes of a class that overlap more than this, the weaker goes.
            imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
            classes: Names or ids of the classes to look for; None looks for all.

        Yields:
            For each picture or frame, boxes in its pixels with ``confidence``, ``class_id`` and
            ``data["class_name"]``; ``metadata`` tells the source, the frame and the picture's size.

        Raises:
            DataError: Nothing was found at ``source``, or it is one picture that cannot be read. Of many pictures, an
                unreadable one is skipped with a warning.
            ConfigError: An option is out of range or a class is unknown.
        """
        from crossstage.inference import Predictor

        return Predictor(self, conf=conf, iou=iou, imgsz=imgsz, classes=classes).detections(source)


class OneStageDetector(Detector):
    """Backbone, neck and head in a row.

    Args:
        backbone: Images to feature maps.
        neck: Feature maps to fused maps.
        head: Fused maps to raw predictions.
        class_names: Names by class id; as many as the head has classes.
        preprocessing: How pictures become input.

    Raises:
        ConfigError: The number of names is not the head's number of classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        head: YoloHead,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
    ) -> None:
        if len(class_names) != head.num_classes:
            raise ConfigError(f"{len(class_names)} class names for a head with {head.num_classes} classes")
        super().__init__(class_names, preprocessing, head.levels[-1].stride)
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return raw head tensors, shallow to deep; see :meth:`Detector.forward`."""
        return self.head(self.neck(self.backbone(images)))

    def decode(self, raw: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`Detector.decode`."""
        return self.head.decode(raw)
