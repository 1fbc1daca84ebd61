"""Images put together: what a mosaic's window shows lies where its boxes say, and copied objects bring their masks."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crossstage.data.augment import NO_AUGMENTATION, Augmentation, DetectionTransform, recolour, seeded
from crossstage.data.cache import ImageCache, free_memory
from crossstage.data.compose import copy_paste, fit, shifted, wide_mosaic, with_masks, zoomed
from crossstage.data.find import find_data
from crossstage.data.labelled import labelled
from crossstage.data.loading import DetectionImages, train_loader
from crossstage.data.masks import MasksBuilder
from crossstage.data.records import Objects
from crossstage.errors import ConfigError
from crossstage.structures import Preprocessing

SQUARE = Preprocessing((96, 96))
WIDE = Preprocessing((64, 128), "letterbox")
RED, BLUE = (255, 0, 0), (0, 0, 255)


def scene(height: int = 90, width: int = 120, box: tuple = (30, 20, 80, 70), colour: tuple = RED, masks: bool = False):
    """Grey with one coloured rectangle, which is the object."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = colour
    found = None
    if masks:
        builder = MasksBuilder()
        builder.add([np.array([left, top, right, top, right, bottom, left, bottom], np.float64)])
        found = builder.build()
    return labelled(pixels, Objects(np.array([box], np.float32), np.array([1]), found), masks=masks)


def assert_full(sample, least: float = 0.8) -> None:
    """Every box is full of its object, and there is no object outside of all boxes."""
    red = sample.image[0] - sample.image[1] > 60 / 255
    covered = torch.zeros_like(red)
    for left, top, right, bottom in sample.boxes.as_subclass(Tensor).round().int().tolist():
        if top < bottom and left < right:
            assert red[top:bottom, left:right].float().mean() > least
        covered[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = True
    assert not (red & ~covered).any()


@pytest.mark.parametrize("preprocessing", [SQUARE, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize("zooms", [(0.5, 0.5), (0.4, 1.0), (1.0, 2.0)])
def test_a_wide_mosaic_shows_objects_where_it_says(monkeypatch, preprocessing, zooms):
    monkeypatch.setattr("crossstage.data.compose.MIN_VISIBLE", 0.0)
    monkeypatch.setattr("crossstage.data.compose.MIN_SIDE", 0.0)
    counts = []
    for seed in range(20):
        with seeded(seed):
            sample = wide_mosaic([scene() for _ in range(4)], preprocessing, zooms)
        assert tuple(sample.image.shape[1:]) == preprocessing.size
        assert_full(sample, 0.6)
        counts.append(len(sample.boxes))
    if zooms == (0.5, 0.5):  # the window is the canvas, on which at least one of the four is whole
        assert min(counts) >= 1 and max(counts) == 4


def test_zooms_are_sizes_of_objects():
    for zoom in (0.5, 1.0):
        with seeded(0):
            sample = zoomed(scene(), SQUARE, (zoom, zoom))
        left, top, right, bottom = sample.boxes[0].tolist()
        assert [right - left, bottom - top] == pytest.approx([50 * 96 / 120 * zoom, 50 * 96 / 90 * zoom], abs=1.5)
        assert_full(sample)


@pytest.mark.parametrize("preprocessing", [SQUARE, WIDE], ids=["square", "wide"])
def test_a_shift_of_nothing_is_what_inference_does(preprocessing):
    """The one resize of an image: the same pixels, not others that look alike."""
    plain, moved = fit(scene(), preprocessing), shifted(scene(), preprocessing, 0.0, 0.0)
    assert torch.equal(plain.image, moved.image)
    torch.testing.assert_close(plain.boxes.as_subclass(Tensor), moved.boxes.as_subclass(Tensor))
    for seed in range(10):
        with seeded(seed):
            assert_full(shifted(scene(), preprocessing, 0.4, 0.2), 0.7)


@pytest.mark.parametrize("change", [{}, {"degrees": 10.0, "shear": 2.0}])
def test_wide_mosaics_are_turned_as_a_whole_and_have_no_empty_corners(change):
    options = {**vars(NO_AUGMENTATION), "mosaic": 1.0, "mosaic_scale": (1.0, 1.0), **change}
    transform = DetectionTransform(SQUARE, Augmentation(**options))
    white = labelled(np.full((96, 96, 3), 255, np.uint8), Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
    shares = []
    for seed in range(12):
        with seeded(seed):
            sample = transform(lambda: white)
        assert tuple(sample.image.shape) == (3, 96, 96)
        shares.append(float((sample.image == 1).float().mean()))
    assert np.mean(shares) > 0.75  # what is left is the canvas that no image covers


def test_a_zoomed_second_image_has_half_the_weight():
    black = labelled(np.zeros((96, 96, 3), np.uint8), Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)))
    options = {**vars(NO_AUGMENTATION), "mixup": 1.0, "mixup_scale": (1.0, 1.0)}
    samples = iter([black, scene(96, 96, (30, 20, 80, 70))])
    with seeded(0):
        mixed = DetectionTransform(SQUARE, Augmentation(**options))(lambda: next(samples))
    assert mixed.boxes[0].tolist() == [30, 20, 80, 70]
    assert mixed.image[:, 45, 50].tolist() == pytest.approx([0.5, 0, 0])


def test_copied_objects_hide_what_is_behind_them():
    first = fit(scene(96, 96, (10, 10, 50, 50), BLUE, masks=True), SQUARE)
    second = fit(with_masks(scene(96, 96, (30, 10, 60, 50), RED, masks=True)), SQUARE)
    assert copy_paste(first, second, 0.0) is first
    pasted = copy_paste(first, second, 1.0)
    assert pasted.boxes.tolist() == [[10, 10, 30, 50], [30, 10, 60, 50]]  # what is left to be seen, and the copy
    assert pasted.image[:, 20, 40].tolist() == [1, 0, 0] and pasted.image[:, 20, 20].tolist() == [0, 0, 1]
    assert pasted.masks.sum((1, 2)).tolist() == [20 * 40, 30 * 40]
    whole = fit(with_masks(scene(96, 96, (5, 5, 60, 60), RED, masks=True)), SQUARE)
    assert copy_paste(first, whole, 1.0).boxes.tolist() == [[5, 5, 60, 60]]  # nothing is left of the first


def test_objects_are_copied_where_there_are_masks_alone(shapes):
    augmentation = Augmentation(**{**vars(NO_AUGMENTATION), "copy_paste": 1.0})
    images = DetectionImages(find_data(shapes).read("train"), SQUARE, augmentation, seed=0, epochs=1)
    plain = DetectionImages(find_data(shapes).read("train"), SQUARE, NO_AUGMENTATION, seed=0, epochs=1)
    assert not images.drawn
    assert torch.equal(images[(0, 1)][0].image, plain[(0, 1)][0].image)


def test_colours_turn_and_greys_stay():
    greys = torch.linspace(0, 1, 12).view(1, 3, 4).repeat(3, 1, 1)
    only_hue = Augmentation(**{**vars(NO_AUGMENTATION), "hue": 0.5, "saturation": 1.0})
    luma = torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)
    colours = 0.4 + 0.2 * torch.rand(3, 8, 8)
    for seed in range(10):
        with seeded(seed):
            torch.testing.assert_close(recolour(greys, only_hue), greys, atol=1e-3, rtol=0)
        with seeded(seed):
            changed = recolour(colours, only_hue)
        assert not torch.allclose(changed, colours, atol=1e-3)
        torch.testing.assert_close((luma * changed).sum(0), (luma * colours).sum(0), atol=1e-3, rtol=0)


def test_saturation_and_brightness_are_torchvisions():
    from torchvision.transforms.v2 import functional as F

    colours = 0.4 + 0.2 * torch.rand(3, 8, 8)
    for change, function in (("saturation", F.adjust_saturation), ("brightness", F.adjust_brightness)):
        strength = Augmentation(**{**vars(NO_AUGMENTATION), change: 0.5})
        with seeded(1):
            changed = recolour(colours, strength)
        with seeded(1):
            draws = torch.rand(3, dtype=torch.float64)
        factor = 0.5 + float(draws[0 if change == "brightness" else 1])
        torch.testing.assert_close(changed, function(colours, factor), atol=1e-4, rtol=0)


def test_a_cache_gives_what_was_decoded_and_decodes_once():
    images = [np.full((4, 5, 3), number, np.uint8) for number in range(4)]
    asked = []

    def read(number: int):
        return cache.read(number, lambda: asked.append(number) or images[number])

    cache = ImageCache([(4, 5)] * 4, gigabytes=3 * 60 / 2**30)
    assert cache.kept == 3
    for _ in range(2):
        for number in range(4):
            assert (read(number) == number).all()
    assert asked == [0, 1, 2, 3, 3]
    with pytest.raises(ValueError, match="read-only"):
        read(0)[0, 0] = 7
    other = ImageCache([(9, 9)], 1.0)
    assert other.read(0, lambda: images[2]) is images[2]  # another size than was announced: told by who reads it
    assert ImageCache([(4, 5)], 0.0).kept == 0 and free_memory() > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_sees_the_same_with_and_without_a_cache(shapes, workers):
    dataset = find_data(shapes).read("train")
    augmentation = Augmentation(mosaic=0.5, mosaic_scale=(0.5, 1.5), mixup=0.3, mixup_scale=(0.5, 1.5))
    seen = []
    for cache in (0.0, None):
        known = {"batch": 8, "seed": 3, "epochs": 2, "workers": workers, "cache": cache}
        loader, order = train_loader(dataset, SQUARE, augmentation, **known)
        batches = []
        for order.epoch in (0, 1):
            batches += list(loader)
        seen.append(batches)
    for mine, theirs in zip(*seen, strict=True):
        assert torch.equal(mine.images, theirs.images) and torch.equal(mine.targets[2], theirs.targets[2])


@pytest.mark.parametrize("value", [(0.5,), (2.0, 1.0), (0.0, 1.0)])
def test_zooms_out_of_range_are_refused(value):
    with pytest.raises(ConfigError, match=r"augment\.mosaic_scale is .*; expected the least and the largest zoom"):
        Augmentation(mosaic_scale=value)
