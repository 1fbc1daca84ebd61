"""What training does to images: boxes follow their objects, and equal seeds give equal images."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from crossstage.data.augment import (
    NO_AUGMENTATION,
    Augmentation,
    DetectionTransform,
    clip,
    fit,
    mixup,
    mosaic,
    mosaic_labels,
    seeded,
)
from crossstage.data.find import find_data
from crossstage.data.labelled import labelled
from crossstage.data.loading import train_loader
from crossstage.data.records import Objects
from crossstage.errors import ConfigError, DataError
from crossstage.structures import Preprocessing

RED = (255, 0, 0)
SAME = Preprocessing((90, 120))  # the size of a scene


def scene(height: int = 90, width: int = 120, box: tuple = (30, 20, 80, 70)):
    """Grey with one red rectangle, which is the object."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = RED
    return labelled(pixels, Objects(np.array([box], np.float32), np.array([1])))


def red_box(image: Tensor) -> list[float]:
    """Corners of what is more red than grey."""
    red = image[0] - image[1] > 60 / 255
    rows, columns = red.any(1).nonzero(), red.any(0).nonzero()
    return [float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1]


@pytest.mark.parametrize(
    "change",
    [
        {"flip": 1.0},
        {"flip_vertical": 1.0},
        {"scale": 0.3, "translate": 0.1},
        {"flip": 0.5, "scale": 0.2, "translate": 0.2, "brightness": 0.2},
    ],
)
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_boxes_follow_their_objects(change, resize):
    options = {**vars(NO_AUGMENTATION), **change}
    transform = DetectionTransform(Preprocessing((128, 128), resize), Augmentation(**options))
    for seed in range(10):
        with seeded(seed):
            sample = transform(scene)
        assert sample.image.shape == (3, 128, 128)
        assert sample.class_ids.tolist() == [1]
        assert sample.boxes[0].tolist() == pytest.approx(red_box(sample.image), abs=2.5)


def test_turned_boxes_hold_their_objects():
    augmentation = Augmentation(**{**vars(NO_AUGMENTATION), "degrees": 30})
    transform = DetectionTransform(Preprocessing((128, 128)), augmentation)
    for seed in range(10):
        with seeded(seed):
            sample = transform(scene)
        left, top, right, bottom = sample.boxes[0].tolist()
        inner = red_box(sample.image)
        assert left <= inner[0] + 1.5
        assert top <= inner[1] + 1.5
        assert right >= inner[2] - 1.5
        assert bottom >= inner[3] - 1.5


def test_each_quarter_of_a_mosaic_has_its_objects(monkeypatch):
    monkeypatch.setattr("crossstage.data.compose.MIN_VISIBLE", 0.0)
    monkeypatch.setattr("crossstage.data.compose.MIN_SIDE", 1.0)
    for seed in range(20):
        with seeded(seed):
            sample = mosaic([scene() for _ in range(4)], Preprocessing((128, 128)), 0.5)
        assert 1 <= len(sample.boxes) <= 4
        red = sample.image[0] - sample.image[1] > 60 / 255
        covered = torch.zeros_like(red)
        for left, top, right, bottom in sample.boxes.as_subclass(Tensor).round().int().tolist():
            box = red[top:bottom, left:right]
            assert box.float().mean() > 0.8  # boxes are full of object
            covered[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = True
        assert not (red & ~covered).any()


def test_mixup_keeps_the_objects_of_both():
    first, second = (fit(sample, SAME) for sample in (scene(), scene(box=(10, 10, 30, 40))))
    with seeded(0):
        mixed = mixup(first, second, SAME.padding)
    assert mixed.boxes.tolist() == [[30, 20, 80, 70], [10, 10, 30, 40]]
    assert mixed.image.shape == (3, 90, 120) and mixed.image.dtype == torch.float32
    low, high = torch.minimum(first.image, second.image), torch.maximum(first.image, second.image)
    assert ((mixed.image >= low - 1e-6) & (mixed.image <= high + 1e-6)).all()


def test_images_of_different_sizes_are_mixed_on_the_larger_canvas():
    shortest = Preprocessing((60, 200), "shortest", divisor=10)
    wide, tall = fit(scene(), shortest), fit(scene(120, 90, (30, 20, 60, 70)), shortest)
    with seeded(0):
        mixed = mixup(wide, tall, shortest.padding)
    assert wide.image.shape == (3, 60, 80) and tall.image.shape == (3, 80, 60)
    assert mixed.image.shape == (3, 80, 80)
    assert (mixed.image[:, 60:, 60:] == 0).all()


def test_what_is_hardly_visible_is_dropped():
    sample = fit(scene(), SAME)
    shifted = sample._replace(boxes=type(sample.boxes)([[-45.0, 0, 5, 50]], format="XYXY", canvas_size=(90, 120)))
    assert len(clip(shifted).boxes) == 0
    half = sample._replace(boxes=type(sample.boxes)([[-25.0, 0, 25, 50]], format="XYXY", canvas_size=(90, 120)))
    assert clip(half).boxes.tolist() == [[0, 0, 25, 50]]


def test_labels_of_a_classification_mosaic_are_shares_of_the_area():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 20, 30)
    with seeded(3):
        composed, labels = mosaic_labels(images, torch.tensor([0, 1, 2, 3]), 4)
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    for image, shares in zip(composed, labels, strict=True):
        found = torch.bincount(image[0].flatten().long(), minlength=4) / 600
        torch.testing.assert_close(found, shares)


@pytest.mark.parametrize("workers", [1, 2])
def test_images_do_not_depend_on_who_prepares_them(shapes, colours, workers):
    for data in (shapes, colours):
        dataset = find_data(data).read("train")
        settings = {"batch": 4, "seed": 5, "epochs": 3}
        augmentation = Augmentation(mosaic=0.5, mixup=0.5, randaugment=9)
        loaders = [
            train_loader(dataset, Preprocessing((64, 64)), augmentation, workers=w, **settings)[0] for w in (0, workers)
        ]
        for mine, theirs in zip(*loaders, strict=True):
            assert torch.equal(mine.images, theirs.images)
            assert mine.names == theirs.names
            for a, b in zip(mine.targets, theirs.targets, strict=True):
                assert (a is b is None) or torch.equal(a, b)


def test_epochs_differ_and_random_numbers_outside_are_left_alone(shapes):
    dataset = find_data(shapes).read("train")
    loader, order = train_loader(dataset, Preprocessing((64, 64)), Augmentation(), batch=4, seed=5, epochs=3, workers=0)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    _ = loader.dataset[(0, 3)]
    assert torch.equal(torch.rand(3), expected)
    first = {name: image for batch in loader for name, image in zip(batch.names, batch.images, strict=True)}
    order.epoch = 1
    second = {name: image for batch in loader for name, image in zip(batch.names, batch.images, strict=True)}
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_the_last_epochs_are_plain(shapes):
    dataset = find_data(shapes).read("train")
    augmentation = Augmentation(**{**vars(NO_AUGMENTATION), "mosaic": 1.0, "last_epochs_plain": 1})
    loader, order = train_loader(dataset, Preprocessing((80, 96)), augmentation, batch=32, seed=0, epochs=2, workers=0)
    assert isinstance(loader, DataLoader)
    order.epoch = 1
    (batch,) = loader
    plain = dict(zip((str(image.path) for image in dataset.images), dataset.images, strict=True))
    assert set(batch.names) == set(plain)
    assert len(batch.targets.class_ids) == len(dataset.boxes.class_ids)


def test_a_image_of_another_size_than_its_labels_is_refused(shapes, tmp_path):
    import shutil

    from PIL import Image

    shutil.copytree(shapes, tmp_path / "s")
    Image.new("RGB", (5, 5)).save(tmp_path / "s" / "images" / "train" / "1.png")
    dataset = find_data(tmp_path / "s").read("train")
    loader, _ = train_loader(dataset, Preprocessing((64, 64)), Augmentation(), batch=32, seed=5, epochs=3, workers=0)
    with pytest.raises(DataError, match=r"1\.png has 5 x 5 pixels; its labels are for 100 x 80"):
        list(loader)


@pytest.mark.parametrize(("name", "value"), [("mosaic", 1.5), ("hue", 0.6), ("crop", 0), ("aspect", 0.5), ("scale", 1)])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"augment\.{name} is {value}; expected"):
        Augmentation(**{name: value})
