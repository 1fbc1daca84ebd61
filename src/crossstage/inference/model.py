"""What inference asks of a model: the contract that detectors, exported graphs and test doubles meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

from torch import Tensor

Resize = Literal["stretch", "letterbox", "crop"]
Suppression = Literal["iou", "diou", "agnostic"]  # within a class by IoU or by distance-IoU, or among all by IoU


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input: RGB, float in [0, 1], resized to ``size``, then normalised.

    Attributes:
        size: Height and width of the input in pixels.
        resize: ``"stretch"`` scales both sides independently (Darknet's default); ``"letterbox"`` keeps the aspect
            ratio and fills the rest with grey 0.5 (Darknet's ``letter_box=1``); ``"crop"`` keeps it, too, and cuts off
            what reaches over the middle, as is usual for classifiers.
        mean: Of each colour over the training data, subtracted; 0 in Darknet's networks.
        std: Standard deviation that is divided by; 1 in Darknet's networks.
    """

    size: tuple[int, int] = (416, 416)
    resize: Resize = "stretch"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def normalise(self, images: Tensor) -> Tensor:
        """``(N, 3, H, W)`` RGB in [0, 1], minus ``mean``, divided by ``std``."""
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return images
        return (images - images.new_tensor(self.mean).view(3, 1, 1)) / images.new_tensor(self.std).view(3, 1, 1)

    def to_dict(self) -> dict[str, Any]:
        """Fields for a file's header, without a normalisation that does nothing: so earlier versions read it, too."""
        idle = Preprocessing()
        told = asdict(self)
        return {key: value for key, value in told.items() if key in ("size", "resize") or value != getattr(idle, key)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Preprocessing:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: A value is out of range.
            KeyError: One is missing.
            TypeError: One is of another kind.
        """
        height, width = (int(side) for side in content["size"])
        if content["resize"] not in get_args(Resize):
            raise ValueError(f"resize is {content['resize']!r}")
        idle = cls()
        mean, std = _colours(content.get("mean", idle.mean)), _colours(content.get("std", idle.std))
        return cls((height, width), content["resize"], mean, std)


def _colours(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


class Detected(NamedTuple):
    """The objects found in one image, best score first.

    Attributes:
        boxes_xyxy: ``(K, 4)`` corners in pixels of the input tensor.
        scores: ``(K,)`` in [0, 1].
        class_ids: ``(K,)`` int64.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    class_ids: Tensor


class DetectionModel(Protocol):
    """A detector as inference and evaluation see it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures were prepared in training."""
        ...

    @property
    def max_stride(self) -> int:
        """The input's height and width must be multiples of this."""
        ...

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Raw head tensors of ``(N, 3, H, W)`` float images in [0, 1]."""
        ...

    def detect(
        self,
        raw: Sequence[Tensor],
        *,
        score_threshold: float,
        iou_threshold: float,
        class_ids: Sequence[int] | None = None,
        max_detections: int = 300,
        suppression: Suppression = "iou",
    ) -> list[Detected]:
        """Decoded, filtered and suppressed boxes, one entry per image."""
        ...
