"""A training without augmentation sees the very pixels that prediction sees, for every task, size and resize mode."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossstage.data.anchors import scaled_sizes
from crossstage.data.augment import NO_AUGMENTATION, ClassificationTransform, DetectionTransform, mosaic, seeded
from crossstage.data.find import find_data
from crossstage.data.labelled import LabelledPixels, labelled
from crossstage.data.loading import train_loader, val_loader
from crossstage.data.records import Objects
from crossstage.inference.classify import ClassPredictor
from crossstage.inference.images import load_image
from crossstage.inference.predictor import Predictor
from crossstage.inference.preprocessing import place, prepare
from crossstage.models.detector import Detector
from crossstage.structures import Instances, Preprocessing, Resize
from crossstage.training.options import RunOptions
from crossstage.training.tasks import ClassificationTask, DetectionTask
from crossstage.weights.loading import create_model

SIDES = st.integers(1, 120)
DETECTING = [resize for resize in get_args(Resize) if resize != "crop"]  # which cuts objects off
NORMALISATION = {"mean": (100.0, 120.0, 90.0), "std": (50.0, 60.0, 70.0), "scale": 255.0, "colour_order": "bgr"}


def preprocessings(resize: str) -> st.SearchStrategy[Preprocessing]:
    grey = {"fill": st.sampled_from([0.5, 114 / 255]), "align": st.sampled_from(["centre", "top-left"])}
    return st.builds(
        Preprocessing, st.tuples(SIDES, SIDES), st.just(resize), **(grey if resize == "letterbox" else {}),
        divisor=st.sampled_from([1, 2, 3, 20, 32]),
    )  # fmt: skip


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 997 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("resize", DETECTING)
@given(height=SIDES, width=SIDES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_detectors_images_and_boxes_are_those_of_prediction(resize, height, width, data):
    preprocessing = data.draw(preprocessings(resize))
    pixels = noise(height, width)
    whole = Objects(np.array([[0, 0, width, height]], np.float32), np.array([3]))
    with seeded(0):
        sample = DetectionTransform(preprocessing, NO_AUGMENTATION)(lambda: labelled(pixels, whole))
    expected, placement = prepare(pixels, preprocessing)
    assert torch.equal(sample.image.as_subclass(Tensor), expected)
    moved = placement.to_input(torch.from_numpy(whole.boxes_xyxy))
    if (moved[:, 2:] - moved[:, :2]).min() > 2.001:
        torch.testing.assert_close(sample.boxes.as_subclass(Tensor), moved)


@pytest.mark.parametrize("resize", get_args(Resize))
@given(height=SIDES, width=SIDES, data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_classifiers_images_are_those_of_prediction(resize, height, width, data):
    preprocessing = data.draw(preprocessings(resize))
    pixels = noise(height, width)
    with seeded(0):
        image = ClassificationTransform(preprocessing, NO_AUGMENTATION)(pixels)
    assert torch.equal(image, prepare(pixels, preprocessing)[0])


def test_every_size_is_placed_by_whole_numbers():
    """Sides of a letterboxed image are those of Darknet's integers, for 40,000 sizes."""
    letterbox = Preprocessing((96, 160), "letterbox")
    for height in range(1, 201):
        for width in range(1, 201):
            fits = 96 * width < 160 * height
            expected = (96, max(1, width * 96 // height)) if fits else (max(1, height * 160 // width), 160)
            assert place((height, width), letterbox).resized == expected


class Watched(Detector):
    """Remembers what it is given, in training and in prediction; finds nothing."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__(("circle", "square"), preprocessing, 20)
        self.seen, self.targets = [], []

    def forward(self, images):
        self.seen.append(images)
        return {"raw": images.mean((1, 2, 3))}

    def loss(self, images, targets):
        self.targets.append(targets)
        return {"loss": self(images)["raw"].sum()}

    def decode(self, raw, image_size):
        return torch.zeros(len(raw["raw"]), 1, 4), torch.zeros(len(raw["raw"]), 1, 2)

    def detect(self, raw, image_size, nms=None, sizes=None):
        return [Instances(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()) for _ in raw["raw"]]


OPTIONS = RunOptions.plain("resnet18", augment=NO_AUGMENTATION)


@pytest.mark.parametrize("resize", DETECTING)
@pytest.mark.parametrize("normalisation", [{}, NORMALISATION])
def test_a_detector_reads_the_same_in_training_val_and_prediction(shapes, resize, normalisation):
    model = Watched(Preprocessing((60, 120), resize, **normalisation))
    dataset = find_data(shapes).read("val")
    task = DetectionTask(model, dataset, dataset, OPTIONS)
    known = {"preprocessing": task.preprocessing, "batch": 4, "workers": 0}
    batch = next(iter(train_loader(dataset, augmentation=NO_AUGMENTATION, seed=0, epochs=1, **known)[0]))
    task.losses(model, batch, 0)
    Predictor(model).detect_batch([load_image(name) for name in batch.names])
    assert torch.equal(*model.seen)
    model.seen.clear()
    task.find(model, next(iter(val_loader(dataset, **known))))
    Predictor(model).detect_batch([load_image(image.path) for image in dataset.images[:4]])
    assert torch.equal(*model.seen)
    assert all(side % 20 == 0 for side in model.seen[0].shape[2:])


@pytest.mark.parametrize("resize", get_args(Resize))
def test_a_classifier_reads_the_same_in_training_val_and_prediction(colours, resize):
    model = create_model("resnet18", class_names=("blue", "green", "red"))
    model.preprocessing = Preprocessing((32, 48), resize, **NORMALISATION)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    dataset = find_data(colours).read("val")
    task = ClassificationTask(model, dataset, dataset, OPTIONS)
    known = {"preprocessing": task.preprocessing, "batch": 4, "workers": 0}
    batch = next(iter(train_loader(dataset, augmentation=NO_AUGMENTATION, seed=0, epochs=1, **known)[0]))
    task.losses(model, batch, 0)
    ClassPredictor(model).classify_batch([load_image(dataset.path / name) for name in batch.names])
    assert torch.equal(*seen)
    seen.clear()
    task.find(model, next(iter(val_loader(dataset, **known))))
    ClassPredictor(model).classify_batch([load_image(image) for image in dataset.images[:4]])
    assert torch.equal(*seen)


def test_unequal_images_of_a_batch_are_padded_to_the_largest(shapes):
    dataset = find_data(shapes).read("val")
    model = Watched(Preprocessing((40, 90), "shortest", **NORMALISATION))
    predictor = Predictor(model)
    images = [load_image(image.path) for image in dataset.images[:3]]
    images[1] = np.ascontiguousarray(images[1].transpose(1, 0, 2))
    predictor.detect_batch(images)
    (together,) = model.seen
    assert together.shape == (3, 3, 60, 60)  # 40 x 50 and 50 x 40, padded to multiples of 20
    model.seen.clear()
    for image in images:
        predictor.detect(image)
    for inputs, alone in zip(together, model.seen, strict=True):
        assert torch.equal(inputs[:, : alone.shape[2], : alone.shape[3]], alone[0])
    assert together[0, :, 40:].abs().max() < 1e-4 and together[1, :, :, 40:].abs().max() < 1e-4


def test_anchors_are_fitted_to_the_sizes_that_boxes_have_in_the_input(shapes):
    dataset = find_data(shapes).read("train")
    for resize in DETECTING:
        preprocessing = Preprocessing((70, 130), resize)
        loader, _ = train_loader(dataset, preprocessing, NO_AUGMENTATION, batch=32, seed=0, epochs=1, workers=0)
        (batch,) = loader
        boxes = batch.targets.boxes_xyxy
        found = (boxes[:, 2:] - boxes[:, :2]).double().numpy()
        sizes = scaled_sizes(dataset, preprocessing)
        np.testing.assert_allclose(np.sort(found, 0), np.sort(sizes, 0), rtol=1e-4)


def test_a_mosaic_of_images_resized_to_their_shortest_side_has_the_firsts_size():
    pixels = [noise(60, 90), noise(90, 60), noise(30, 30), noise(80, 80)]
    boxes = torch.tensor([[5.0, 5, 25, 25]])
    samples = [LabelledPixels(image, boxes, torch.tensor([0])) for image in pixels]
    with seeded(1):
        sample = mosaic(samples, Preprocessing((40, 90), "shortest", divisor=16), 0.3)
    assert sample.image.shape == (3, 48, 64)
    assert 1 <= len(sample.boxes) <= 4


def test_augmented_images_keep_to_zero_and_one(shapes):
    dataset = find_data(shapes).read("train")
    options = replace(NO_AUGMENTATION, mosaic=0.5, mixup=0.5, hue=0.1, saturation=0.9, brightness=0.9, degrees=20)
    loader, _ = train_loader(dataset, Preprocessing((64, 96)), options, batch=32, seed=0, epochs=1, workers=0)
    (batch,) = loader
    assert batch.images.dtype == torch.float32
    assert batch.images.min() >= 0 and batch.images.max() <= 1 + 1e-6 and batch.images.max() > 0.9
