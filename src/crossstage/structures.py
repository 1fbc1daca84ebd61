"""What every room passes round: how images become input, where they lie in it, what is in them, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

Resize = Literal["stretch", "letterbox", "crop"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: RGB, float in [0, 1], resized to ``size``, then normalised.

    Attributes:
        size: Height and width of the input in pixels.
        resize: ``"stretch"`` scales both sides independently (Darknet's default); ``"letterbox"`` keeps the aspect
            ratio and fills the rest with grey 0.5 (Darknet's ``letter_box=1``); ``"crop"`` keeps it, too, and cuts off
            what reaches over the middle, as is usual for classifiers.
        mean: Mean of each colour over the training data, which is subtracted; 0 in Darknet's networks.
        std: Standard deviation that is divided by; 1 in Darknet's networks.
    """

    size: tuple[int, int] = (416, 416)
    resize: Resize = "stretch"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract ``mean`` from ``(N, 3, H, W)`` RGB in [0, 1], and divide by ``std``."""
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return images
        return (images - images.new_tensor(self.mean).view(3, 1, 1)) / images.new_tensor(self.std).view(3, 1, 1)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a file's header, without a normalisation that does nothing."""
        idle = Preprocessing()
        content = asdict(self)
        return {
            key: value for key, value in content.items() if key in ("size", "resize") or value != getattr(idle, key)
        }

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


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input.

    Attributes:
        image_size: Height and width of the image in pixels.
        scale: Pixels of the input per pixel of the image, vertically and horizontally.
        offset: Rows and columns of the input before the image.
    """

    image_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[int, int]

    def to_image(self, boxes_xyxy: Tensor) -> Tensor:
        """Move boxes ``(K, 4)`` from pixels of the input to pixels of the image, and clip them to it."""
        height, width = self.image_size
        boxes = (boxes_xyxy - self._shift(boxes_xyxy)) / self._factor(boxes_xyxy)
        return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))

    def to_input(self, boxes_xyxy: Tensor) -> Tensor:
        """Move boxes ``(K, 4)`` from pixels of the image to pixels of the input."""
        return boxes_xyxy * self._factor(boxes_xyxy) + self._shift(boxes_xyxy)

    def of_whole(self, image_size: tuple[int, int]) -> Placement:
        """Return where an image lies of which a reduced copy was placed.

        Args:
            image_size: Height and width of the whole image in pixels.
        """
        reduced = self.image_size
        vertical, horizontal = (s * r / p for s, r, p in zip(self.scale, reduced, image_size, strict=True))
        return replace(self, image_size=image_size, scale=(vertical, horizontal))

    def _factor(self, like: Tensor) -> Tensor:
        vertical, horizontal = self.scale
        return like.new_tensor([horizontal, vertical, horizontal, vertical])

    def _shift(self, like: Tensor) -> Tensor:
        top, left = self.offset
        return like.new_tensor([left, top, left, top])


class Targets(NamedTuple):
    """The objects of a batch of images, one after the other.

    Attributes:
        image_index: ``(M,)`` int64, position of each object's image in the batch.
        class_ids: ``(M,)`` int64.
        boxes_xyxy: ``(M, 4)`` corners in pixels of the input tensor.
        masks: ``(M, H, W)`` bool in pixels of the input tensor; None where there are none.
    """

    image_index: Tensor
    class_ids: Tensor
    boxes_xyxy: Tensor
    masks: Tensor | None = None


class Instances(NamedTuple):
    """The objects found in one image, best score first.

    Attributes:
        boxes_xyxy: ``(K, 4)`` corners in pixels of the input tensor.
        scores: ``(K,)`` in [0, 1].
        class_ids: ``(K,)`` int64.
        masks: ``(K, H, W)`` bool in pixels of the input tensor; None where the model finds boxes alone.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    class_ids: Tensor
    masks: Tensor | None = None
