"""Augmentation: torchvision's transforms on training images, and mosaic and mixup for boxes.

Images are resized by :mod:`crossstage.inference.preprocessing` and nothing else, and stay float32 from there on, so an
image that is not changed reaches the network bit for bit as in prediction. Every random number comes from torch's
generator, seeded for each sample by :func:`seeded`: an image looks the same whichever process prepares it, and whether
or not a run was interrupted before it. Masks go wherever their boxes go, and nothing random depends on them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from crossstage.data.labelled import (
    Labelled,
    LabelledPixels,
    draw_masks,
    pad_masks,
    size_of,
    tighten,
    wrap,
)
from crossstage.errors import ConfigError
from crossstage.inference.images import Pixels
from crossstage.inference.preprocessing import pad, place, prepare, resize
from crossstage.structures import Colour, Placement, Preprocessing

MIN_VISIBLE = 0.25  # share of a box that must stay inside for it to stay an object
MIN_SIDE = 2.0  # pixels
SMALLEST_CUT = 0.3  # of the side: no image of a mosaic is thinner


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"augment.{name} is {value}; expected {low} to {high}")


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed. A probability or strength of 0 turns a change off.

    Attributes:
        mosaic: Detection: probability that an image is composed of four (YOLOv4, section 3.3).
        mixup: Probability that two images are laid over each other; their boxes stay, their labels are mixed.
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
        last_epochs_plain: Number of epochs at the end of the training without mosaic, mixup and cutmix.

    Raises:
        ConfigError: A value is out of range.
    """

    mosaic: float = 0.5
    mixup: float = 0.0
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
        for name in ("mosaic", "mosaic_labels", "mixup", "cutmix", "flip", "flip_vertical", "erase", "translate"):
            _within(name, getattr(self, name), 0, 1)
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
        self.moves = _affine(a.degrees, a.shear, a.translate, a.scale, grey)
        self.turns = _affine(a.degrees, a.shear, 0, 0, grey)  # of a mosaic, whose tiles are scaled and shifted already
        self.flips = [v2.RandomHorizontalFlip(a.flip), v2.RandomVerticalFlip(a.flip_vertical)]
        self.colours = _colours(a)

    def __call__(self, read: Callable[[], LabelledPixels], *, plain: bool = False) -> Labelled:
        """Prepare one image.

        Args:
            read: The first call gives the image, further ones give random others, for mosaic and mixup.
            plain: Leave mosaic and mixup out.
        """
        sample = self._one(read, plain)
        if not plain and _chance(self.augmentation.mixup):
            sample = mixup(sample, self._one(read, plain), self.preprocessing.padding)
        return sample

    def _one(self, read: Callable[[], LabelledPixels], plain: bool) -> Labelled:
        if not plain and _chance(self.augmentation.mosaic):
            sample = mosaic([read() for _ in range(4)], self.preprocessing, self.augmentation.scale)
            moves = self.turns
        else:
            sample = fit(read(), self.preprocessing)
            moves = self.moves
        parts: list[Any] = [part for part in (sample.image, sample.boxes, sample.masks) if part is not None]
        for step in (moves, *self.flips):
            if step is not None:
                parts = [*step(*parts)]
        image, boxes, *masks = parts
        if self.colours is not None:
            image = self.colours(image)
        sample = clip(Labelled(image, boxes, sample.class_ids, *masks))
        return tighten(sample) if self.augmentation.degrees or self.augmentation.shear else sample


def fit(sample: LabelledPixels, preprocessing: Preprocessing) -> Labelled:
    """Prepare an image as inference does, and move its boxes along."""
    image, placement = prepare(sample.pixels, preprocessing)
    boxes = placement.to_input(sample.boxes_xyxy)
    (top, left), canvas = placement.offset, placement.input_size
    drawn = draw_masks(sample, (0, 0, *placement.image_size), placement.resized, (top, left), canvas)
    return wrap(image, boxes, sample.class_ids, drawn)


def mosaic(samples: Sequence[LabelledPixels], preprocessing: Preprocessing, scale: float) -> Labelled:
    """Compose four images around a random point, each zoomed by up to ``scale`` and cropped to its quarter.

    The composed image has the size that the first one would have alone.
    """
    height, width = place(size_of(samples[0]), preprocessing).input_size
    row = int(height * float(torch.empty(()).uniform_(SMALLEST_CUT, 1 - SMALLEST_CUT)))
    column = int(width * float(torch.empty(()).uniform_(SMALLEST_CUT, 1 - SMALLEST_CUT)))
    canvas = torch.tensor(preprocessing.padding).view(3, 1, 1).repeat(1, height, width)
    boxes, class_ids, masks = [], [], []
    for number, sample in enumerate(samples):
        top, bottom = (0, row) if number < 2 else (row, height)
        left, right = (0, column) if number % 2 == 0 else (column, width)
        tile, (y, x) = _tile(sample, (bottom - top, right - left), preprocessing, scale, number)
        tile = clip(tile)
        rows, columns = tile.image.shape[-2:]
        canvas[:, top + y : top + y + rows, left + x : left + x + columns] = tile.image
        boxes.append(tile.boxes.as_subclass(Tensor) + torch.tensor([left + x, top + y] * 2))
        class_ids.append(tile.class_ids)
        if tile.masks is not None:
            masks.append(pad_masks(tile.masks, (height, width), (top + y, left + x)))
    return wrap(canvas, torch.cat(boxes), torch.cat(class_ids), torch.cat(masks) if masks else None)


def _tile(
    sample: LabelledPixels, space: tuple[int, int], preprocessing: Preprocessing, scale: float, number: int
) -> tuple[Labelled, tuple[int, int]]:
    """Return a zoomed image, cropped to the space there is, and where in it it goes: it touches the mosaic's point."""
    height, width = size_of(sample)
    zoom = float(torch.empty(()).uniform_(1 - scale, 1 + scale))
    vertical, horizontal = (side * zoom for side in place((height, width), preprocessing).scale)
    rows, columns = min(space[0], max(1, int(height * vertical))), min(space[1], max(1, int(width * horizontal)))
    crop_height = min(height, max(1, round(rows / vertical)))
    crop_width = min(width, max(1, round(columns / horizontal)))
    top = int(torch.randint(height - crop_height + 1, ()))
    left = int(torch.randint(width - crop_width + 1, ()))
    piece = sample.pixels[top : top + crop_height, left : left + crop_width]
    image = resize(piece, (rows, columns), preprocessing)
    placement = Placement(piece.shape[:2], (rows / crop_height, columns / crop_width), (0, 0), (rows, columns))
    boxes = placement.to_input(sample.boxes_xyxy - torch.tensor([left, top] * 2))
    y = space[0] - rows if number < 2 else 0
    x = space[1] - columns if number % 2 == 0 else 0
    drawn = draw_masks(sample, (top, left, crop_height, crop_width), (rows, columns), (0, 0), (rows, columns))
    return wrap(image, boxes, sample.class_ids, drawn), (y, x)


def mixup(first: Labelled, second: Labelled, padding: Colour) -> Labelled:
    """Lay two images over each other, about equally; the objects of both stay.

    Args:
        first: One image.
        second: The other one.
        padding: RGB in [0, 1] below and to the right of the smaller one.
    """
    share = float(torch.distributions.Beta(8.0, 8.0).sample())
    height, width = (max(sides) for sides in zip(first.image.shape[1:], second.image.shape[1:], strict=True))
    over, under = (pad(sample.image.as_subclass(Tensor), (height, width), padding) for sample in (first, second))
    boxes = torch.cat([first.boxes.as_subclass(Tensor), second.boxes.as_subclass(Tensor)])
    masks = [pad_masks(sample.masks, (height, width)) for sample in (first, second) if sample.masks is not None]
    class_ids = torch.cat([first.class_ids, second.class_ids])
    return wrap(torch.lerp(under, over, share), boxes, class_ids, torch.cat(masks) if masks else None)


def clip(sample: Labelled) -> Labelled:
    """Clip boxes to the image; objects of which too little is left, or no pixel of their mask, are dropped."""
    boxes = sample.boxes.as_subclass(Tensor)
    height, width = sample.image.shape[-2:]
    inside = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=-1).flatten(1)
    sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= MIN_SIDE).all(1) & (sides.prod(1) >= MIN_VISIBLE * whole.prod(1))
    if sample.masks is not None:
        kept &= sample.masks.as_subclass(Tensor).flatten(1).amax(1) > 0
    masks = None if sample.masks is None else sample.masks.as_subclass(Tensor)[kept]
    return wrap(sample.image, inside[kept], sample.class_ids[kept], masks)


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
            _colours(a),
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


def _affine(degrees: float, shear: float, translate: float, scale: float, fill: Colour) -> v2.RandomAffine | None:
    if not (degrees or shear or translate or scale):
        return None
    kinds: dict[type | str, list[float] | int] = {tv_tensors.Mask: 0, "others": list(fill)}
    return v2.RandomAffine(
        (-degrees, degrees),
        translate=(translate, translate),
        scale=(1 - scale, 1 + scale),
        shear=shear or None,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=kinds,  # pyright: ignore[reportArgumentType]
    )


def _colours(a: Augmentation) -> v2.ColorJitter | None:
    if not (a.brightness or a.saturation or a.hue):
        return None
    return v2.ColorJitter(a.brightness, saturation=a.saturation, hue=a.hue)


def _chance(probability: float) -> bool:
    return probability > 0 and float(torch.rand(())) < probability
