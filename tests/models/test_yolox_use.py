"""What users do with YOLOX: train it, go on, start from it, fuse, export and predict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import box_iou

import crossstage
from crossstage.data.augment import Augmentation
from crossstage.deploy.export import export
from crossstage.inference.preprocessing import prepare
from crossstage.models.backbones import BACKBONES
from crossstage.models.detectors.base import DetectorConfig
from crossstage.models.detectors.yolox import preprocessing
from crossstage.models.published import DETECTORS
from crossstage.nn.init import initialise
from crossstage.ops.nms import NMS
from crossstage.structures import Targets
from crossstage.training import resume, train
from crossstage.training.options import TrainOptions
from crossstage.training.recipe_files import recipe_names
from crossstage.weights.starting import start_model
from tests.conftest import PHOTOS

NARROW = "yolox_narrow"


def _narrow() -> DetectorConfig:
    row = DETECTORS["yolox_tiny"]
    backbone = replace(BACKBONES["cspdarknet_x_tiny"], stem=8, widths=(16, 16, 24, 32), depths=(1, 1, 1, 1))
    return replace(row, backbone=backbone, head=replace(row.head, branch_width=16))


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory):
    """A training of a narrow network that was stopped after half of its epochs, and went on; L1 comes in at the end."""
    folder = tmp_path_factory.mktemp("yolox")
    DETECTORS[NARROW] = _narrow()
    options = TrainOptions(
        NARROW, str(shapes), imgsz=64, epochs=4, batch=8, workers=0, out=str(folder), name="run", optimizer="adamw",
        weight_decay=0, lr=0.003, burn_in=0, ema=0.5, val_every=2, sample_every=0, plain_loss={"l1": 1.0},
        augment=Augmentation(
            mosaic=0, scale=0, translate=0, hue=0, saturation=0, brightness=0, flip=0, last_epochs_plain=1
        ),
    )  # fmt: skip
    whole = train(replace(options, name="whole"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crossstage.training.loop.Loop._out_of_patience", lambda loop: loop.progress.epoch == 2)
        train(options)
    yield whole, resume(folder / "run")
    del DETECTORS[NARROW]


def test_it_trains_and_goes_on_bit_for_bit(run):
    whole, resumed = run
    first, last = resumed.history[0], resumed.history[-1]
    assert all(last[part] < first[part] for part in ("boxes", "objectness"))
    assert [row["l1"] > 0 for row in resumed.history] == [False, False, False, True]
    mine, other = (crossstage.load(each.folder).state_dict() for each in (whole, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in mine.items())


def test_it_learns_two_images_by_heart():
    torch.manual_seed(0)
    detector = _narrow().build(("square", "wide")).train()
    objects = [(0, 0, [6, 8, 30, 26]), (0, 1, [34, 30, 60, 58]), (1, 1, [10, 20, 50, 60])]
    images = torch.full((2, 3, 64, 64), 114.0)
    for image, class_id, (left, top, right, bottom) in objects:
        images[image, :, top:bottom, left:right] = torch.tensor([255.0 * class_id, 255 - 255.0 * class_id, 0]).view(
            3, 1, 1
        )
    rows = [(image, class_id, torch.tensor(box).float()) for image, class_id, box in objects]
    targets = Targets(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.stack([row[2] for row in rows]))
    optimiser = torch.optim.AdamW(detector.parameters(), lr=0.01)
    for _ in range(50):
        optimiser.zero_grad()
        sum(detector.loss(images, targets).values()).backward()
        optimiser.step()
    with torch.no_grad():
        found = detector.detect(detector(images), (64, 64))
    for image, class_id, box in rows:
        same = found[image].class_ids == class_id
        assert float(box_iou(found[image].boxes_xyxy[same], box.unsqueeze(0)).max()) > 0.6


def test_weights_carry_over_to_other_classes(run):
    started = start_model(run[1].folder, ("square", "triangle"))
    mine, theirs = started.model.head, crossstage.load(run[1].folder).head
    assert torch.equal(mine.classes[0].weight[0], theirs.classes[0].weight[1])  # "circle", "square" before
    assert torch.equal(mine.boxes[2].weight, theirs.boxes[2].weight)


@pytest.mark.parametrize("name", ["yolox_nano", "yolox_tiny"])
def test_fused_it_computes_the_same(name):
    detector = crossstage.create_model(name, num_classes=3)
    initialise(detector, "fan_in")
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    fused, images = crossstage.fuse(detector.eval()), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        plain, folded = detector(images), fused(images)
    for key, expected in plain.items():
        torch.testing.assert_close(folded[key], expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["raw", "decode", "nms"])
def test_exported_files_run_elsewhere(run, tmp_path, form):
    detector, photo = crossstage.load(run[1].folder), PHOTOS / "000000000471.jpg"
    for layer in (*detector.head.objectness, *detector.head.classes):
        layer.bias.data += 5  # after so short a training, nothing scores enough
    settings = {"raw": {}, "decode": {"decode": True}, "nms": {"nms": NMS(score=0.05, iou=0.65)}}[form]
    done = export(detector, "yolox", "onnx", tmp_path / "yolox.onnx", **settings)
    if form != "nms":
        assert done.difference is not None and done.difference < 1e-4
    (mine,) = detector.predict(photo, conf=0.05, max_detections=20)
    for runtime in ("onnxruntime", "openvino"):
        pytest.importorskip(runtime)
        (theirs,) = crossstage.open_model(done.path, runtime=runtime).predict(photo, conf=0.05, max_detections=20)
        assert len(mine) and len(theirs) == len(mine)
        np.testing.assert_allclose(np.sort(theirs.confidence), np.sort(mine.confidence), atol=1e-3)
        np.testing.assert_allclose(np.sort(theirs.xyxy, 0), np.sort(mine.xyxy, 0), atol=0.5)


def test_images_lie_at_the_upper_left_as_blue_green_red_bytes():
    image = np.zeros((40, 80, 3), np.uint8)
    image[..., 0] = 200  # red
    settings = preprocessing(64)
    x, _ = prepare(image, settings)
    x = settings.normalise(x) if float(x.max()) <= 1 else x
    x = x.reshape(3, 64, 64)
    torch.testing.assert_close(x[:, :32].mean((1, 2)), torch.tensor([0.0, 0.0, 200.0]), rtol=0, atol=1e-3)
    torch.testing.assert_close(x[:, 32:], torch.full((3, 32, 64), 114.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "mosaic", "mixup", "side"), [
    ("yolox", 1, 1, 640), ("yolox_tiny", 1, 0, 416), ("yolox_nano", 0.5, 0, 416)
])  # fmt: skip
def test_recipes_are_as_published(name, mosaic, mixup, side):
    assert name in recipe_names()
    options = TrainOptions.from_recipe(name, model="yolox_nano", data="here")
    assert (options.epochs, options.batch, options.imgsz) == (300, 64, side)
    assert (options.optimizer, options.nesterov, options.momentum) == ("sgd", True, 0.9)
    assert (options.lr, options.nominal_batch, options.final_lr, options.flat_end) == (0.01, 64, 0.05, 0.05)
    augment = options.augment
    assert isinstance(augment, Augmentation)
    assert (augment.mosaic, augment.mixup, augment.last_epochs_plain) == (mosaic, mixup, 15)
    assert options.plain_loss == {"l1": 1.0}
