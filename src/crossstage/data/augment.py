"""What happens to training images: torchvision's transforms, and mosaic and mixup for boxes.

Every random number comes from torch's generator, seeded for each sample by :func:`seeded`: an image looks the same
whichever process prepares it, and whether or not a run was interrupted before it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transform

from crossstage.data.records import Objects
from crossstage.errors import ConfigError
from crossstage.inference.images import Pixels
from crossstage.structures import Resize

GREY = 128  # of 255, around images: what letterboxing puts there too
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
        brightness: Likewise.
        flip: Probability of a horizontal flip.
        flip_vertical: Probability of a vertical flip.
        randaugment: Classification: magnitude of two random operations (RandAugment), up to 30.
        erase: Classification: probability that a rectangle is blanked.
        last_epochs_plain: No mosaic, mixup or cutmix in that many last epochs.

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


class Labelled(NamedTuple):
    """An image on its way into a batch.

    Attributes:
        image: ``(3, H, W)`` RGB uint8.
        boxes: ``(n, 4)`` xyxy in its pixels; they may reach out of it.
        class_ids: ``(n,)`` int64.
    """

    image: tv_tensors.Image
    boxes: tv_tensors.BoundingBoxes
    class_ids: Tensor


@contextlib.contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Random numbers that depend on these numbers alone, inside; those outside are not disturbed."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def labelled(pixels: Pixels, objects: Objects) -> Labelled:
    """An image as it was read."""
    image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1))
    return Labelled(
        image, _boxes(torch.from_numpy(objects.boxes_xyxy.copy()), image), torch.from_numpy(objects.class_ids)
    )


class DetectionTransform:
    """Compose, distort and clip: images of any size to one of ``size``.

    Args:
        size: Height and width in pixels.
        resize: Whether an image keeps its aspect ratio.
        augmentation: What to change.
    """

    def __init__(self, size: tuple[int, int], resize: Resize, augmentation: Augmentation) -> None:
        self.size, self.augmentation = size, augmentation
        self.resize: Resize = resize
        a = augmentation
        self.moves = _affine(a.degrees, a.shear, a.translate, a.scale)
        self.turns = _affine(a.degrees, a.shear, 0, 0)  # of a mosaic, whose tiles are scaled and shifted already
        self.flips = [v2.RandomHorizontalFlip(a.flip), v2.RandomVerticalFlip(a.flip_vertical)]
        colours = a.brightness or a.saturation or a.hue
        self.colours = v2.ColorJitter(a.brightness, saturation=a.saturation, hue=a.hue) if colours else None

    def __call__(self, read: Callable[[], Labelled], *, plain: bool = False) -> Labelled:
        """Prepare one image.

        Args:
            read: The first call gives the image, further ones give random others, for mosaic and mixup.
            plain: Leave mosaic and mixup out.
        """
        sample = self._one(read, plain)
        if not plain and _chance(self.augmentation.mixup):
            sample = mixup(sample, self._one(read, plain))
        return sample

    def _one(self, read: Callable[[], Labelled], plain: bool) -> Labelled:
        if not plain and _chance(self.augmentation.mosaic):
            sample = mosaic([read() for _ in range(4)], self.size, self.resize, self.augmentation.scale)
            moves = self.turns
        else:
            sample = fit(read(), self.size, self.resize)
            moves = self.moves
        image, boxes = sample.image, sample.boxes
        for step in (moves, *self.flips):
            if step is not None:
                image, boxes = step(image, boxes)
        if self.colours is not None:
            image = self.colours(image)
        return clip(Labelled(image, boxes, sample.class_ids))


def fit(sample: Labelled, size: tuple[int, int], resize: Resize) -> Labelled:
    """Resize as inference does: bilinear without smoothing, stretched or letterboxed on grey."""
    height, width = sample.image.shape[-2:]
    inner = size
    if resize == "letterbox":
        ratio = min(size[0] / height, size[1] / width)
        inner = max(1, int(height * ratio)), max(1, int(width * ratio))
    image, boxes = (transform.resize(part, list(inner), antialias=False) for part in (sample.image, sample.boxes))
    if inner != size:
        top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        padding = [left, top, size[1] - inner[1] - left, size[0] - inner[0] - top]
        image, boxes = (transform.pad(part, padding, fill=[GREY]) for part in (image, boxes))
    return Labelled(image, boxes, sample.class_ids)


def mosaic(samples: Sequence[Labelled], size: tuple[int, int], resize: Resize, scale: float) -> Labelled:
    """Four images around a random point, each zoomed by up to ``scale`` and cropped to its quarter."""
    height, width = size
    row = int(height * float(torch.empty(()).uniform_(SMALLEST_CUT, 1 - SMALLEST_CUT)))
    column = int(width * float(torch.empty(()).uniform_(SMALLEST_CUT, 1 - SMALLEST_CUT)))
    canvas = torch.full((3, height, width), GREY, dtype=torch.uint8)
    boxes, class_ids = [], []
    for number, sample in enumerate(samples):
        top, bottom = (0, row) if number < 2 else (row, height)
        left, right = (0, column) if number % 2 == 0 else (column, width)
        tile, (y, x) = _tile(sample, (bottom - top, right - left), size, resize, scale, number)
        tile = clip(tile)
        rows, columns = tile.image.shape[-2:]
        canvas[:, top + y : top + y + rows, left + x : left + x + columns] = tile.image
        boxes.append(tile.boxes.as_subclass(Tensor) + torch.tensor([left + x, top + y] * 2))
        class_ids.append(tile.class_ids)
    image = tv_tensors.Image(canvas)
    return Labelled(image, _boxes(torch.cat(boxes), image), torch.cat(class_ids))


def _tile(
    sample: Labelled, space: tuple[int, int], size: tuple[int, int], resize: Resize, scale: float, number: int
) -> tuple[Labelled, tuple[int, int]]:
    """A zoomed image, cropped to the space there is, and where in it it goes: it touches the mosaic's point."""
    height, width = sample.image.shape[-2:]
    vertical, horizontal = size[0] / height, size[1] / width
    if resize == "letterbox":
        vertical = horizontal = min(vertical, horizontal)
    zoom = float(torch.empty(()).uniform_(1 - scale, 1 + scale))
    vertical, horizontal = vertical * zoom, horizontal * zoom
    rows, columns = min(space[0], max(1, int(height * vertical))), min(space[1], max(1, int(width * horizontal)))
    crop_height, crop_width = (
        min(height, max(1, round(rows / vertical))),
        min(width, max(1, round(columns / horizontal))),
    )
    top = int(torch.randint(height - crop_height + 1, ()))
    left = int(torch.randint(width - crop_width + 1, ()))
    window = top, left, crop_height, crop_width, [rows, columns]
    image = transform.resized_crop(sample.image, *window, antialias=False)
    boxes = transform.resized_crop(sample.boxes, *window, antialias=False)
    y = space[0] - rows if number < 2 else 0
    x = space[1] - columns if number % 2 == 0 else 0
    return Labelled(tv_tensors.Image(image), _boxes(boxes, image), sample.class_ids), (y, x)


def mixup(first: Labelled, second: Labelled) -> Labelled:
    """Two images laid over each other, about equally; the objects of both."""
    share = float(torch.distributions.Beta(8.0, 8.0).sample())
    image = tv_tensors.Image(torch.lerp(second.image.float(), first.image.float(), share).round().to(torch.uint8))
    boxes = torch.cat([first.boxes.as_subclass(Tensor), second.boxes.as_subclass(Tensor)])
    return Labelled(image, _boxes(boxes, image), torch.cat([first.class_ids, second.class_ids]))


def clip(sample: Labelled) -> Labelled:
    """Boxes clipped to the image; those of which too little is left are dropped."""
    boxes = sample.boxes.as_subclass(Tensor)
    height, width = sample.image.shape[-2:]
    inside = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], dim=-1).flatten(1)
    sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = (sides >= MIN_SIDE).all(1) & (sides.prod(1) >= MIN_VISIBLE * whole.prod(1))
    return Labelled(sample.image, _boxes(inside[kept], sample.image), sample.class_ids[kept])


def classification_transform(size: tuple[int, int], augmentation: Augmentation) -> v2.Compose:
    """Random crop, flips and colours: an image of any size to ``(3, *size)`` uint8."""
    a = augmentation
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop(list(size), scale=(a.crop, 1.0), ratio=(1 / a.aspect, a.aspect), antialias=True),
        v2.RandomHorizontalFlip(a.flip),
        v2.RandomVerticalFlip(a.flip_vertical),
    ]
    if a.degrees:
        steps.insert(0, v2.RandomRotation(a.degrees, v2.InterpolationMode.BILINEAR, fill=GREY))  # pyright: ignore
    if a.randaugment:
        steps.append(v2.RandAugment(num_ops=2, magnitude=a.randaugment))
    if a.brightness or a.saturation or a.hue:
        steps.append(v2.ColorJitter(a.brightness, saturation=a.saturation, hue=a.hue))
    if a.erase:
        steps.append(v2.RandomErasing(a.erase, value=GREY))
    return v2.Compose(steps)


def mosaic_labels(images: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Each image of a batch composed of itself and its three neighbours around one random point.

    Args:
        images: ``(N, C, H, W)``.
        labels: ``(N,)`` class ids.
        num_classes: How many there are.

    Returns:
        The images, and ``(N, num_classes)`` shares of the area.
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


def _affine(degrees: float, shear: float, translate: float, scale: float) -> v2.RandomAffine | None:
    if not (degrees or shear or translate or scale):
        return None
    return v2.RandomAffine(
        (-degrees, degrees),
        translate=(translate, translate),
        scale=(1 - scale, 1 + scale),
        shear=shear or None,
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=GREY,
    )


def _boxes(boxes: Tensor, image: Tensor) -> tv_tensors.BoundingBoxes:
    """Boxes that transforms do not clip, so that :func:`clip` knows what went out of sight."""
    height, width = image.shape[-2:]
    return tv_tensors.BoundingBoxes(
        boxes.reshape(-1, 4), format="XYXY", canvas_size=(height, width), clamping_mode=None
    )  # pyright: ignore[reportCallIssue]


def _chance(probability: float) -> bool:
    return probability > 0 and float(torch.rand(())) < probability
