"""Augmentation: torchvision's transforms on training images, and mosaic and mixup for boxes.

Images are resized by :mod:`crossstage.inference.preprocessing` and nothing else, and stay float32 from there on, so an
image that is not changed reaches the network bit for bit as in prediction. Every random number comes from torch's
generator, seeded for each sample by :func:`seeded`: an image looks the same whichever process prepares it, and whether
or not a run was interrupted before it. Masks go wherever their boxes go, and nothing random depends on them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from crossstage.data.compose import (
    SMALLEST_CUT,
    clip,
    copy_paste,
    fit,
    mixup,
    mosaic,
    shifted,
    wide_mosaic,
    with_masks,
    zoomed,
)
from crossstage.data.labelled import Labelled, LabelledPixels, tighten, wrap
from crossstage.errors import ConfigError
from crossstage.inference.images import Pixels
from crossstage.inference.preprocessing import place, prepare, resize
from crossstage.structures import Colour, Preprocessing

LUMA = 0.2989, 0.587, 0.114  # of red, green and blue, ITU-R BT.601


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"augment.{name} is {value}; expected {low} to {high}")


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed. A probability or strength of 0 turns a change off.

    Attributes:
        mosaic: Detection: probability that an image is composed of four (YOLOv4, section 3.3).
        mosaic_scale: Detection: least and largest zoom of a mosaic of four whole images on twice the input's size, of
            which the input shows a part (YOLOX, RTMDet); ``degrees`` and ``shear`` are then those of the mosaic, and
            not of single images. None crops each image to its quarter and zooms it by ``scale``.
        mixup: Probability that two images are laid over each other; their boxes stay, their labels are mixed.
        mixup_scale: Detection: least and largest zoom of the second image, which then is a single one of half the
            weight (YOLOX). None takes a second image made as the first one, and weighs both about equally.
        copy_paste: Detection: probability that each object that has a mask is copied from another image.
        cutmix: Classification: probability that a rectangle of another image is pasted in, labels mixed by area.
        mosaic_labels: Classification: probability that images are composed of four, labels mixed by area.
        scale: Detection: zoom by up to this share, in or out.
        translate: Detection: shift by up to this share of the side.
        degrees: Rotate by up to this angle.
        shear: Detection: shear by up to this angle in degrees.
        crop: Classification: smallest share of the image's area that a random crop keeps.
        aspect: Classification: a crop's width over its height, at most; at least its inverse.
        hue: Shift of hue, as share of the colour circle, up to 0.5.
        saturation: Change of saturation by a factor of up to 1 more or this share less.
        brightness: Change of brightness by a factor of up to 1 more or this share less.
        flip: Probability of a horizontal flip.
        flip_vertical: Probability of a vertical flip.
        randaugment: Classification: magnitude of two random operations (RandAugment), up to 30.
        erase: Classification: probability that a rectangle is blanked.
        last_epochs_plain: Number of epochs at the end of the training without mosaic, mixup, cutmix and copied objects.

    Raises:
        ConfigError: A value is out of range.
    """

    mosaic: float = 0.5
    mosaic_scale: tuple[float, float] | None = None
    mixup: float = 0.0
    mixup_scale: tuple[float, float] | None = None
    copy_paste: float = 0.0
    cutmix: float = 0.0
    mosaic_labels: float = 0.0
    scale: float = 0.3
    translate: float = 0.1
    degrees: float = 0.0
    shear: float = 0.0
    crop: float = 0.25
    aspect: float = 1.33
    hue: float = 0.02
    saturation: float = 0.5
    brightness: float = 0.4
    flip: float = 0.5
    flip_vertical: float = 0.0
    randaugment: int = 0
    erase: float = 0.0
    last_epochs_plain: int = 0

    def __post_init__(self) -> None:
        for name in ("mosaic", "mosaic_labels", "mixup", "cutmix", "copy_paste", "flip", "flip_vertical", "erase"):
            _within(name, getattr(self, name), 0, 1)
        _within("translate", self.translate, 0, 1)
        for name in ("mosaic_scale", "mixup_scale"):
            zooms = getattr(self, name)
            if zooms is not None and not (len(zooms) == 2 and 0.05 <= zooms[0] <= zooms[1] <= 10):
                raise ConfigError(f"augment.{name} is {zooms}; expected the least and the largest zoom, 0.05 to 10")
        for name, most in (("scale", 0.9), ("hue", 0.5), ("saturation", 1), ("brightness", 1), ("randaugment", 30)):
            _within(name, getattr(self, name), 0, most)
        _within("degrees", self.degrees, 0, 180)
        _within("shear", self.shear, 0, 80)
        _within("crop", self.crop, 0.01, 1)
        _within("aspect", self.aspect, 1, 10)
        _within("last_epochs_plain", self.last_epochs_plain, 0, 1_000_000)


NO_AUGMENTATION = Augmentation(
    mosaic=0, scale=0, translate=0, crop=1, aspect=1, hue=0, saturation=0, brightness=0, flip=0
)


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Make random numbers inside of the context depend on these numbers alone; those outside are not disturbed."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed would reseed a GPU's for good
        yield


class DetectionTransform:
    """Composes, resizes, distorts and clips labelled images.

    Args:
        preprocessing: How images become input.
        augmentation: What to change.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        self.preprocessing, self.augmentation = preprocessing, augmentation
        a, grey = augmentation, preprocessing.padding
        self.turns = _turns(a.degrees, a.shear, grey)
        self.flips = [v2.RandomHorizontalFlip(a.flip), v2.RandomVerticalFlip(a.flip_vertical)]
        angle, shear = (math.radians(value) for value in (min(45, a.degrees), min(45, a.shear)))
        self.margin = math.cos(angle) + math.sin(angle) + math.tan(shear)  # so that no corner of a turned one is empty

    def __call__(self, read: Callable[[], LabelledPixels], *, plain: bool = False) -> Labelled:
        """Prepare one image.

        Args:
            read: The first call gives the image, further ones give random others, for mosaic, mixup and copied objects.
            plain: Leave these out.
        """
        a = self.augmentation
        sample = self._one(read, plain)
        if not plain and _chance(a.copy_paste):
            sample = copy_paste(sample, self._flipped(fit(with_masks(read()), self.preprocessing)), a.copy_paste)
        if not plain and _chance(a.mixup):
            sample = mixup(sample, self._second(read), self.preprocessing.padding, 0.5 if a.mixup_scale else None)
        return sample

    def _one(self, read: Callable[[], LabelledPixels], plain: bool) -> Labelled:
        if not plain and _chance(self.augmentation.mosaic):
            return self._finished(self._mosaic([read() for _ in range(4)]))
        return self._finished(self._single(read()))

    def _single(self, sample: LabelledPixels) -> Labelled:
        a = self.augmentation
        if not (a.scale or a.translate):
            found = fit(sample, self.preprocessing)
        else:
            found = shifted(sample, self.preprocessing, a.scale, a.translate)
        return found if a.mosaic_scale else self._applied(found, self.turns)

    def _mosaic(self, samples: Sequence[LabelledPixels]) -> Labelled:
        zooms = self.augmentation.mosaic_scale
        if zooms is None:
            return self._applied(mosaic(samples, self.preprocessing, self.augmentation.scale), self.turns)
        if self.turns is None:
            return wide_mosaic(samples, self.preprocessing, zooms)
        turned = self._applied(wide_mosaic(samples, self.preprocessing, zooms, self.margin), self.turns)
        return _middle(turned, self.margin)

    def _second(self, read: Callable[[], LabelledPixels]) -> Labelled:
        """Return the image that is laid over another."""
        if zooms := self.augmentation.mixup_scale:
            return self._finished(zoomed(read(), self.preprocessing, zooms))
        return self._one(read, plain=False)

    def _finished(self, sample: Labelled) -> Labelled:
        """Flip, recolour and clip."""
        sample = self._flipped(sample)
        image = recolour(sample.image.as_subclass(Tensor), self.augmentation)
        turned = self.augmentation.degrees or self.augmentation.shear
        sample = clip(wrap(image, sample.boxes.as_subclass(Tensor), sample.class_ids, sample.masks))
        return tighten(sample) if turned else sample

    def _flipped(self, sample: Labelled) -> Labelled:
        for flip in self.flips:
            sample = self._applied(sample, flip)
        return sample

    def _applied(self, sample: Labelled, step: v2.Transform | None) -> Labelled:
        """Return an image and its objects, all moved in the same way."""
        if step is None:
            return sample
        parts: list[Any] = [part for part in (sample.image, sample.boxes, sample.masks) if part is not None]
        image, boxes, *masks = step(*parts)
        return Labelled(image, boxes, sample.class_ids, *masks)


def _middle(sample: Labelled, margin: float) -> Labelled:
    """Return the middle of an image that is so many times as high and wide as it should be."""
    (rows, columns) = sample.image.shape[-2:]
    height, width = round(rows / margin), round(columns / margin)
    top, left = (rows - height) // 2, (columns - width) // 2
    window = (..., slice(top, top + height), slice(left, left + width))
    masks = None if sample.masks is None else sample.masks.as_subclass(Tensor)[window]
    boxes = sample.boxes.as_subclass(Tensor) - torch.tensor([left, top] * 2)
    return wrap(sample.image.as_subclass(Tensor)[window], boxes, sample.class_ids, masks)


class ClassificationTransform:
    """Crops, resizes and distorts images of one label.

    Where neither size nor shape of the crop is to vary, the image is prepared as inference does.

    Args:
        preprocessing: How images become input.
        augmentation: What to change.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        self.preprocessing = preprocessing
        a, grey = augmentation, list(preprocessing.padding)
        fill = [255 * value for value in grey]
        self.turn = v2.RandomRotation(a.degrees, v2.InterpolationMode.BILINEAR, fill=fill) if a.degrees else None  # pyright: ignore
        varies = a.crop < 1 or a.aspect > 1
        ratios = 1 / a.aspect, a.aspect
        self.crop = v2.RandomResizedCrop(preprocessing.size, scale=(a.crop, 1.0), ratio=ratios) if varies else None
        steps: Sequence[Callable[[Tensor], Tensor] | None] = [
            v2.RandomHorizontalFlip(a.flip),
            v2.RandomVerticalFlip(a.flip_vertical),
            v2.RandAugment(num_ops=2, magnitude=a.randaugment) if a.randaugment else None,
            partial(recolour, strength=a),
            v2.RandomErasing(a.erase, value=grey) if a.erase else None,  # pyright: ignore[reportArgumentType]
        ]
        self.steps = [step for step in steps if step is not None]

    def __call__(self, pixels: Pixels) -> Tensor:
        """Return ``(3, H, W)`` float32 RGB in [0, 1] of ``(H, W, 3)`` RGB uint8."""
        if self.turn is not None:
            pixels = self.turn(_as_bytes(pixels)).permute(1, 2, 0).numpy()
        if self.crop is None:
            image, _ = prepare(pixels, self.preprocessing)
        else:
            window = self.crop.make_params([_as_bytes(pixels)])
            top, left = window["top"], window["left"]
            piece = pixels[top : top + window["height"], left : left + window["width"]]
            size = place((pixels.shape[0], pixels.shape[1]), self.preprocessing).input_size
            image = resize(piece, size, self.preprocessing)
        for step in self.steps:
            image = step(image)
        return image


def _as_bytes(pixels: Pixels) -> Tensor:
    """Return ``(3, H, W)`` uint8, which shares memory with ``(H, W, 3)`` pixels."""
    return torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)


def mosaic_labels(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Compose each image of a batch of itself and its three neighbours around one random point.

    Args:
        images: ``(N, C, H, W)``.
        labels: ``(N,)`` class ids.
        num_classes: The number of classes.

    Returns:
        The composed images, and ``(N, num_classes)`` shares of the area.
    """
    height, width = images.shape[-2:]
    row = int(height * float(torch.empty(()).uniform_(SMALLEST_CUT, 1 - SMALLEST_CUT)))
    column = int(width * float(torch.empty(()).uniform_(SMALLEST_CUT, 1 - SMALLEST_CUT)))
    hot = torch.nn.functional.one_hot(labels, num_classes).to(images.dtype)
    composed, shares = images.clone(), torch.zeros_like(hot)
    for number, rows, columns in (
        (0, slice(0, row), slice(0, column)),
        (1, slice(0, row), slice(column, width)),
        (2, slice(row, height), slice(0, column)),
        (3, slice(row, height), slice(column, width)),
    ):
        composed[..., rows, columns] = images.roll(number, 0)[..., rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        shares += hot.roll(number, 0) * (area / (height * width))
    return composed, shares


def _turns(degrees: float, shear: float, fill: Colour) -> v2.RandomAffine | None:
    if not (degrees or shear):
        return None
    kinds: dict[type | str, list[float] | int] = {tv_tensors.Mask: 0, "others": list(fill)}
    return v2.RandomAffine(
        (-degrees, degrees),
        shear=shear or None,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=kinds,  # pyright: ignore[reportArgumentType]
    )


def recolour(image: Tensor, strength: Augmentation) -> Tensor:
    """Change brightness, saturation and hue of an image at random, in one pass over its pixels.

    Saturation moves colours from or towards their grey, and hue turns them about the axis of greys; both leave greys
    as they are, so all three are one matrix.

    Args:
        image: ``(3, H, W)`` RGB in [0, 1].
        strength: How much each is changed at most.
    """
    if not (strength.brightness or strength.saturation or strength.hue):
        return image
    draws = torch.rand(3, dtype=torch.float64)
    brightness, saturation, turn = (
        low + (high - low) * draw
        for draw, (low, high) in zip(
            draws.tolist(),
            (
                (1 - strength.brightness, 1 + strength.brightness),
                (1 - strength.saturation, 1 + strength.saturation),
                (-strength.hue, strength.hue),
            ),
            strict=True,
        )
    )
    matrix = brightness * (_grey() + saturation * (_turn(2 * math.pi * turn) - _grey()))
    height, width = image.shape[-2:]
    changed = matrix.to(image.dtype) @ image.reshape(3, height * width)
    return changed.clamp_(0, 1).view(3, height, width)


def _grey() -> Tensor:
    """Return the matrix that turns colours into their greys."""
    return torch.tensor(LUMA, dtype=torch.float64).repeat(3, 1)


def _turn(angle: float) -> Tensor:
    """Return the matrix that turns hues by an angle and keeps greys and what is as bright as another.

    It is a rotation about (1, 1, 1), followed by the shear along that axis that gives each colour its brightness back.
    """
    axis = torch.ones(3, 3, dtype=torch.float64) / 3
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
    same = torch.eye(3, dtype=torch.float64)
    rotation = math.cos(angle) * same + math.sin(angle) * cross + (1 - math.cos(angle)) * axis
    return rotation + _grey() @ (same - rotation)


def _chance(probability: float) -> bool:
    return probability > 0 and float(torch.rand(())) < probability
