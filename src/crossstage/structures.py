"""What every room passes round: how images become input, where they lie in it, what is in them, and what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import lcm
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

Resize = Literal["stretch", "letterbox", "crop", "shortest"]
Resample = Literal["corners", "smooth", "sharp", "cubic"]
ColourOrder = Literal["rgb", "bgr", "grey"]
Align = Literal["centre", "top-left"]
Colour = tuple[float, float, float]
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue, as Darknet and JPEG weigh them
MOST_SIDE = 1 << 14  # pixels of an input, in a header that may come from anywhere
LONGEST = 1333 / 800  # most length of an image's longer side per shorter one, where nothing else is said: Mask R-CNN's


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input: it is resized to RGB in [0, 1], then :meth:`normalise` is applied.

    A header of version 0.1.0 holds ``size`` and ``resize``, and ``mean`` and ``std`` where they do something; the other
    fields are written in the same way, so a network that does not need them has the header that it always had.

    Attributes:
        size: Height and width of the input in pixels; for ``"shortest"``, the length of the image's shorter side and
            the most that its longer side may have.
        resize: ``"stretch"`` scales both sides independently (Darknet's default); ``"letterbox"`` keeps the aspect
            ratio and fills the rest with ``fill`` (Darknet's ``letter_box=1``); ``"crop"`` keeps it, too, and cuts off
            what reaches over the middle, as is usual for classifiers; ``"shortest"`` keeps it, scales the shorter side
            to ``size[0]`` unless the longer one would exceed ``size[1]``, and pads below and to the right (Mask R-CNN).
        mean: Mean of each colour over the training data, which is subtracted; 0 in Darknet's networks. It is in the
            network's order and scale of colours; of grey the first value counts.
        std: Standard deviation that is divided by, in the same order and scale; 1 in Darknet's networks.
        colour_order: Order of the colours in the input, ``"rgb"`` or ``"bgr"``; or ``"grey"``, a single channel.
        scale: Value of white in the input before ``mean`` and ``std`` are applied: 1, or 255 for networks that read
            bytes.
        fill: Grey value in [0, 1] around a letterboxed image.
        align: Where a letterboxed image lies: in the ``"centre"``, or at the ``"top-left"`` as in YOLOX and RTMDet.
        divisor: The padded sides of ``"shortest"`` are multiples of this.
        resample: How pixels are interpolated: ``"corners"``, bilinear between corner-aligned pixels (Darknet);
            ``"smooth"``, bilinear between areas of pixels, smoothed where the image shrinks (torchvision's transforms,
            timm, detectron2); ``"sharp"``, the same without smoothing, with ``"shortest"`` sides rounded down
            (torchvision's detectors); ``"cubic"``, as smooth but bicubic (EfficientNet). None is ``"corners"`` where
            images are stretched or letterboxed, else ``"smooth"``.
        crop: For ``"crop"``, the share of the resized image's shorter side that stays: 0.875 scales that side to 256
            pixels for an input of 224.
    """

    size: tuple[int, int] = (416, 416)
    resize: Resize = "stretch"
    mean: Colour = (0.0, 0.0, 0.0)
    std: Colour = (1.0, 1.0, 1.0)
    colour_order: ColourOrder = "rgb"
    scale: float = 1.0
    fill: float = 0.5
    align: Align = "centre"
    divisor: int = 1
    resample: Resample | None = None
    crop: float = 1.0

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return 1 if self.colour_order == "grey" else 3

    def normalise(self, images: Tensor) -> Tensor:
        """Turn resized images into what the network reads: order and scale of colours, ``mean`` and ``std``.

        This is the one place where it is done, for every task, in training and out of it.

        Args:
            images: ``(N, 3, H, W)`` or ``(3, H, W)`` RGB in [0, 1].

        Returns:
            The same shape, but for grey, which has one channel.
        """
        if self.colour_order == "bgr":
            images = images.flip(-3)
        elif self.colour_order == "grey":
            images = (images * images.new_tensor(_GREY).view(3, 1, 1)).sum(-3, keepdim=True)
        if self.scale != 1:
            images = images * self.scale
        if self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            return images
        mean, std = (images.new_tensor(values[: self.channels]).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images - mean) / std

    @property
    def resampling(self) -> Resample:
        """How pixels are interpolated: :attr:`resample`, or what goes with the way of resizing."""
        return self.resample or ("smooth" if self.resize in ("crop", "shortest") else "corners")

    @property
    def padding(self) -> Colour:
        """RGB in [0, 1] around an image: ``fill``, but for ``"shortest"`` what :meth:`normalise` turns into 0."""
        if self.resize != "shortest":
            return self.fill, self.fill, self.fill
        first, second, third = (value / self.scale for value in self.mean)
        return (third, second, first) if self.colour_order == "bgr" else (first, second, third)

    def at(self, imgsz: int | tuple[int, int]) -> Preprocessing:
        """Return the same for another size of the input.

        Args:
            imgsz: Height and width in pixels, or one side of a square; for ``"shortest"`` what :attr:`size` is, or the
                shorter side, to which the longer one keeps its proportion.
        """
        if not isinstance(imgsz, int):
            height, width = imgsz
            return replace(self, size=(height, width))
        shorter, longer = self.size
        return replace(self, size=(imgsz, round(imgsz * longer / shorter) if self.resize == "shortest" else imgsz))

    def resized_by(self, resize: Resize) -> Preprocessing:
        """Return the same with another way of resizing; the longer side may then have what Mask R-CNN's has at most."""
        if resize != "shortest" or self.resize == "shortest":
            return replace(self, resize=resize)
        shorter = min(self.size)
        return replace(self, resize=resize, size=(shorter, round(shorter * LONGEST)))

    def for_divisor(self, divisor: int) -> Preprocessing:
        """Return the same for a network whose input's sides are multiples of ``divisor``; only padding heeds it."""
        return replace(self, divisor=lcm(self.divisor, divisor)) if self.resize == "shortest" else self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for a file's header, without those that do nothing."""
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
        height, width = content["size"]
        if not all(type(side) is int and 1 <= side <= MOST_SIDE for side in (height, width)):
            raise ValueError(f"size is {str(content['size'])[:60]}; expected two sides, from 1 to {MOST_SIDE} pixels")
        idle = cls()
        known = {"resize": content["resize"]} | {
            key: content.get(key, getattr(idle, key)) for key in ("colour_order", "align", "resample")
        }
        kinds = {"resize": Resize, "colour_order": ColourOrder, "align": Align, "resample": Resample}
        for key, choices in kinds.items():
            if known[key] not in get_args(choices) and (key != "resample" or known[key] is not None):
                raise ValueError(f"{key} is {known[key]!r}")
        mean, std = (_colours(content.get(key, getattr(idle, key))) for key in ("mean", "std"))
        scale, fill, crop = (float(content.get(key, getattr(idle, key))) for key in ("scale", "fill", "crop"))
        divisor = int(content.get("divisor", idle.divisor))
        if not all(map(math.isfinite, (*mean, *std, scale, fill))) or 0 in std:
            raise ValueError(f"mean is {mean}, std {std}, scale {scale} and fill {fill}")
        if not scale > 0 or not 1 <= divisor <= MOST_SIDE:
            raise ValueError(f"scale is {scale} and divisor {divisor}")
        if not 0 < crop <= 1:
            raise ValueError(f"crop is {crop}")
        return cls((height, width), mean=mean, std=std, scale=scale, fill=fill, divisor=divisor, crop=crop, **known)


def _colours(values: Any) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input.

    Attributes:
        image_size: Height and width of the image in pixels.
        scale: Pixels of the input per pixel of the image, vertically and horizontally.
        offset: Rows and columns of the input before the image; negative where the image is cropped.
        input_size: Height and width of the input in pixels.
    """

    image_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width of the whole image in pixels of the input, before it is padded or cropped."""
        height, width = self.image_size
        return round(height * self.scale[0]), round(width * self.scale[1])

    @property
    def extent(self) -> tuple[int, int]:
        """How far down and to the right the image reaches in the input, in pixels; what follows is padding."""
        rows, columns = (
            min(side, before + length)
            for side, before, length in zip(self.input_size, self.offset, self.resized, strict=True)
        )
        return rows, columns

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
        sizes: ``(N, 2)`` int64, height and width in pixels that each image has in the input, below and to the right of
            which it is padded; None where all images fill it.
    """

    image_index: Tensor
    class_ids: Tensor
    boxes_xyxy: Tensor
    masks: Tensor | None = None
    sizes: Tensor | None = None


class Instances(NamedTuple):
    """The objects found in one image, best score first.

    Attributes:
        boxes_xyxy: ``(K, 4)`` corners in pixels of the input tensor.
        scores: ``(K,)`` in [0, 1].
        class_ids: ``(K,)`` int64.
        masks: ``(K, S, S)`` in [0, 1]: how likely each cell of a grid that is laid over the box belongs to the object;
            :func:`crossstage.ops.masks.paste` makes pixels of them. None where the model finds boxes alone.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    class_ids: Tensor
    masks: Tensor | None = None
