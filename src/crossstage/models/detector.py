"""The contract of a detector: raw tensors, loss and detections, and the way from files to these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from crossstage.errors import ConfigError
from crossstage.ops.nms import NMS, NMSKind, changed, postprocess
from crossstage.structures import Instances, Preprocessing, Targets

if TYPE_CHECKING:
    import supervision

AUXILIARY = "auxiliary."
"""What the names of tensors begin with that serve training alone: files may hold them, a loaded model does not."""


class Detector(nn.Module, ABC):
    """What every detector has in common; training, evaluation, export and prediction know nothing else of one.

    ``forward`` returns named raw tensors and holds no Python branch on data, so that it can be traced and exported;
    :meth:`decode` and :meth:`detect` turn them into boxes; :meth:`loss` trains; :meth:`predict` does the whole way from
    files. A subclass brings ``forward`` and ``decode``, and ``loss`` if it can be trained.

    Args:
        class_names: Names by class id.
        preprocessing: How images become input.
        size_divisor: The input's height and width must be multiples of this.

    Attributes:
        nms: How decoded boxes become detections where nothing else is said.
        finds_masks: Whether detections have masks, and the loss wants those of the objects.
    """

    nms: NMS = NMS()
    finds_masks: bool = False

    def __init__(self, class_names: Sequence[str], preprocessing: Preprocessing, size_divisor: int) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.preprocessing = preprocessing
        self.size_divisor = size_divisor

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return raw tensors by name.

        Args:
            images: ``(N, 3, H, W)``, prepared as :attr:`preprocessing` says; H and W are multiples of
                :attr:`size_divisor`.
        """

    @abstractmethod
    def decode(self, raw: Mapping[str, Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Turn raw tensors into boxes and scores.

        Args:
            raw: What ``forward`` returned.
            image_size: Height and width of the input in pixels.

        Returns:
            Boxes ``(N, K, 4)`` as xyxy in pixels of the input, and scores ``(N, K, C)`` in [0, 1].
        """

    def prepare_training(self) -> None:
        """Add what serves training alone, if there is such a thing and it is not there yet.

        To be called before the first :meth:`loss`, and before an optimiser is built; ``crossstage train`` does so.
        """
        return

    def loss(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Return the parts of a batch's loss by name: weighted scalars, whose sum is minimised.

        Args:
            images: As for :meth:`forward`.
            targets: The objects, in pixels of the input.

        Raises:
            ConfigError: The detector cannot be trained.
        """
        del images, targets
        raise ConfigError(f"a {type(self).__name__} cannot be trained; expected a detector of this package's own")

    def detect(
        self,
        raw: Mapping[str, Tensor],
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """Decode raw tensors and post-process them, see :func:`crossstage.ops.nms.postprocess`.

        Args:
            raw: What ``forward`` returned.
            image_size: Height and width of the input in pixels.
            nms: Thresholds and kind of suppression; None takes :attr:`nms`.
            sizes: Height and width in pixels that each image has in the input, below and to the right of which it is
                padded; None where all images fill it.
        """
        del sizes
        return postprocess(*self.decode(raw, image_size), nms or self.nms)

    def class_rows(self, num_classes: int) -> Mapping[str, Sequence[Sequence[int]]]:
        """Tell which rows of which tensors belong to a class; see :meth:`~crossstage.models.heads.Head.class_rows`."""
        del num_classes
        return {}

    def predict(
        self,
        source: Any,
        *,
        conf: float = 0.25,
        iou: float | None = None,
        imgsz: int | tuple[int, int] | None = None,
        classes: Sequence[str | int] | None = None,
        nms: NMSKind | None = None,
        max_detections: int = 300,
        tiles: int | None = None,
        overlap: float = 0.2,
    ) -> Iterator[supervision.Detections]:
        """Detect objects in images, one at a time.

        Args:
            source: An image (path, PIL image, RGB uint8 array), folder, glob, ``.txt`` list, video, camera number, or
                an iterable of these.
            conf: Detections score more than this, in [0, 1].
            iou: The overlap, in [0, 1], above which the weaker of two boxes of a class goes; None takes the model's
                own, 0.45 of YOLO detectors.
            imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
            classes: Name, names or ids of the classes to look for; None looks for all.
            nms: The kind of suppression, see :class:`~crossstage.ops.nms.NMS`; None takes the model's own.
            max_detections: The most detections of an image.
            tiles: Side in pixels of the tiles in which large images are looked at as well as whole, so that small
                objects are found; None looks at images whole only.
            overlap: The least share of a tile that its neighbour covers, too.

        Yields:
            For each image or frame, boxes in its pixels with ``confidence``, ``class_id`` and ``data["class_name"]``;
            ``metadata`` tells the source, the frame and the image's size.

        Raises:
            DataError: Nothing was found at ``source``, or it is one image that cannot be read. Of many images, an
                unreadable one is skipped with a warning.
            ConfigError: An option is out of range or a class is unknown.
        """
        from crossstage.inference.class_names import class_ids_of
        from crossstage.inference.tiles import Tiling, predictor_for

        class_ids = class_ids_of(classes, self.class_names)
        settings = changed(self.nms, score=conf, iou=iou, kind=nms, max_detections=max_detections, class_ids=class_ids)
        tiling = None if tiles is None else Tiling(tiles, overlap)
        return predictor_for(self, settings, tiling, imgsz=imgsz).detections(source)
