"""Darknet's files of native networks: OpenCV, which shares no code with this package, computes the same from them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import crossstage
from crossstage import darknet
from crossstage.cli import main
from crossstage.darknet.detector import load_darknet_detector
from crossstage.deploy.export import export
from crossstage.errors import ExportError
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.structures import Preprocessing
from research.bench.peers import OpenCVDetector
from tests.darknet.nets import randomize
from tests.sweep import sweep

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


def classifier(name: str, **options) -> Classifier:
    model = randomize(crossstage.create_model(name, num_classes=5, **options)).eval()
    assert isinstance(model, Classifier)
    return model


def detector(name: str, class_names: tuple[str, ...] = ("a", "b")) -> Detector:
    model = randomize(crossstage.create_model(name, class_names=class_names)).eval()
    assert isinstance(model, Detector)
    return model


def in_opencv(cfg, images: Tensor) -> np.ndarray:
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(cfg.with_suffix(".weights")))
    net.setInput(images.numpy())
    return net.forward().reshape(1, -1)


@pytest.mark.parametrize(
    "name",
    sweep(
        [
            "csppeleenet",  # means of windows, parts of the channels
            "resnet18",  # shortcuts that take every second pixel and fill up channels
            "vovnet19_slim_v2",  # hard sigmoids
            "csppeleenet_swish_se",  # gates of whole channels
            "cspdensenet40",  # batch norm before the convolution
        ],
        bool,
        always=["resnet18"],
    ),
)
def test_opencv_computes_the_same_from_a_classifiers_files(name, tmp_path):
    model, images = classifier(name), torch.rand(1, 3, 64, 64)
    done = export(model, name, "darknet", tmp_path / "x.cfg", imgsz=64)
    assert done.difference is not None and done.difference < 2e-5
    with torch.inference_mode():
        expected = model(images).softmax(1)
    np.testing.assert_allclose(in_opencv(done.path, images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sweep(["cspdarknet53_tiny_yolo", "yolov3_tiny_prn", "csppeleenet_cem"], bool))
def test_opencv_computes_the_same_from_a_detectors_files(name, tmp_path):
    model, images = detector(name), torch.rand(1, 3, 64, 64)
    path = export(model, name, "darknet", tmp_path / "x.cfg", imgsz=64).path
    theirs = OpenCVDetector(path, path.with_suffix(".weights"), model)
    with torch.inference_mode():
        expected = model(images)
        for name, found in theirs(images).items():
            wanted = expected.pop(name)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert not expected


def test_a_detector_comes_back_as_it_was(tmp_path):
    names = ("cat", "grey dog")
    model = detector("cspdarknet53_tiny_yolo", names)
    path = export(model, "x", "darknet", tmp_path / "x.cfg", imgsz=(64, 96)).path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.cfg", "x.names", "x.weights"]
    back = load_darknet_detector(path)
    assert back.class_names == names and back.preprocessing.size == (64, 96)
    assert back.preprocessing.resize == model.preprocessing.resize
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        boxes = (found.decode(found(images), (64, 96)) for found in (back, model))
        for found, wanted in zip(*boxes, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    with pytest.raises(ExportError, match="no head of its own to write"):
        export(back, "x", "darknet", tmp_path / "y.cfg")


def test_maxout_is_darknets_pooling_of_channels(tmp_path):
    """OpenCV reads the option and pools pixels, so the text is what there is to look at."""
    model = detector("cspdensenet_ref_efm_sam")
    done = export(model, "x", "darknet", tmp_path / "x.cfg", imgsz=64)
    assert done.difference is not None and done.difference < 2e-5
    assert "maxpool_depth=1" in done.path.read_text() and "[sam]" in done.path.read_text()


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_normalisation_is_the_networks_first_layer(scale, tmp_path):
    model, images = classifier("resnet10"), torch.rand(1, 3, 64, 64)
    mean, std = (tuple(scale * value for value in values) for values in ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    model.preprocessing = Preprocessing((64, 64), "crop", mean, std, scale=scale)
    path = export(model, "x", "darknet", tmp_path / "x.cfg").path
    with torch.inference_mode():
        expected = model(model.preprocessing.normalise(images)).softmax(1)
    np.testing.assert_allclose(in_opencv(path, images), expected, rtol=1e-4, atol=1e-4)


def test_another_order_of_colours_is_refused(tmp_path):
    model = classifier("resnet10")
    model.preprocessing = Preprocessing((64, 64), "crop", colour_order="bgr")
    with pytest.raises(ExportError, match="reads colours as bgr"):
        export(model, "x", "darknet", tmp_path / "x.cfg")


def test_every_layer_says_what_it_is_of(tmp_path):
    path = export(classifier("resnet18"), "x", "darknet", tmp_path / "x.cfg", imgsz=64).path
    rows, text = darknet.describe(path), path.read_text()
    assert text.count("\n# ") == len(rows) and "# fc (Linear)\n[convolutional]" in text
    assert rows[-1].kind == "softmax" and rows[-2].output_shape == (5, 1, 1)


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("resnet18", {"norm": "group"}, r"bn \(GroupNorm\) needs group_norm"),
        ("resnet18", {"act": "hardswish"}, r"act \(Hardswish\) needs hardswish"),
    ],
)
def test_what_darknet_lacks_is_refused_by_name(name, options, told, tmp_path):
    with pytest.raises(ExportError, match=f"cannot be written as darknet: .*{told}"):
        export(classifier(name, **options), name, "darknet", tmp_path / "x.cfg", imgsz=64)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_names_its_module(tmp_path):
    model = classifier("resnet18")
    model.backbone.stages[0] = nn.Sequential(model.backbone.stages[0], nn.Upsample(scale_factor=2, mode="bilinear"))
    with pytest.raises(ExportError, match=r"backbone.stages.0.1 \(Upsample\) needs upsample_bilinear2d"):
        export(model, "x", "darknet", tmp_path / "x.cfg", imgsz=64)


def test_a_value_that_is_overwritten_and_read_again_is_what_it_became(tmp_path):
    class Overwriting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + x
            before = y + x
            return y.relu_() + y + before

    model, images = classifier("resnet18"), torch.rand(1, 3, 64, 64)
    model.backbone.stages[0] = nn.Sequential(model.backbone.stages[0], nn.BatchNorm2d(64), Overwriting()).eval()
    path = export(model, "x", "darknet", tmp_path / "x.cfg", imgsz=64).path
    with torch.inference_mode():
        np.testing.assert_allclose(in_opencv(path, images), model(images).softmax(1), rtol=1e-4, atol=1e-4)


def test_the_command_line_writes_files_that_predict_reads(tmp_path, capsys):
    source = str(PHOTOS / "000000009483.jpg")
    cfg = tmp_path / "tiny.cfg"
    told = ["--format", "darknet", "--imgsz", "256", "--out", str(cfg)]
    assert main(["export", "cspdarknet53_tiny_yolo.coco", *told]) == 0
    results = []
    for model in ("cspdarknet53_tiny_yolo.coco", str(cfg)):
        capsys.readouterr()
        assert main(["predict", source, "--model", model, "--imgsz", "256", "--json", str(tmp_path / "x.jsonl")]) == 0
        results.append((tmp_path / "x.jsonl").read_text().split('"detections"')[1].split('"milliseconds"')[0])
    assert "class_name" in results[0] and results[0].count("class_name") == results[1].count("class_name")
