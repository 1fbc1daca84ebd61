"""Exported files that hold both stages of a detector."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import crossstage
from crossstage.deploy.backends import formats
from crossstage.deploy.backends.base import KEY
from crossstage.deploy.export import export
from crossstage.deploy.exported import ExportedDetector, open_exported
from crossstage.deploy.header import ExportHeader
from crossstage.deploy.instances import difference, from_rows, to_rows
from crossstage.errors import ConfigError, WeightsError
from crossstage.inference.predictor import Predictor
from crossstage.models.backbones import BACKBONES
from crossstage.models.heads import HEADS
from crossstage.models.heads.rcnn import FasterRCNNConfig
from crossstage.models.heads.rcnn_masks import MaskRCNNConfig
from crossstage.ops.nms import NMS, for_evaluation
from crossstage.structures import Instances, Preprocessing

SHORTEST = Preprocessing((96, 160), "shortest", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@pytest.fixture(scope="module", autouse=True)
def _narrow():
    BACKBONES["narrow"] = replace(BACKBONES["resnet10"], widths=(8, 16, 16, 32), pool=3)
    HEADS["small_masks"] = MaskRCNNConfig(mask_convs=1, box_width=64, proposals=(200, 40))
    HEADS["small_boxes"] = FasterRCNNConfig(box_width=64, proposals=(200, 40))
    yield
    del BACKBONES["narrow"], HEADS["small_masks"], HEADS["small_boxes"]


def build(head: str, preprocessing: Preprocessing):
    torch.manual_seed(0)
    model = crossstage.create_model(
        f"narrow_rcnn_fpn_lite_{head}", class_names=("a", "b", "c"), preprocessing=preprocessing
    )
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(("cls_logits", "cls_score", "bbox_pred", "mask_fcn_logits")):
                module.weight.mul_(10)
    return model.eval()


@pytest.fixture(scope="module")
def masks():
    return build("small_masks", SHORTEST)


@pytest.fixture(scope="module")
def file(masks, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    done = export(masks, "masks", "onnx", tmp_path_factory.mktemp("masks") / "m.onnx", dynamic=True)
    assert done.difference is not None and done.difference < 1e-3
    return done


def picture(height: int, width: int, seed: int = 0):
    coarse = np.random.default_rng(seed).integers(0, 255, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width]


def same(found: Instances, expected: Instances) -> None:
    assert len(found.scores) == len(expected.scores)
    worst, both = difference(to_rows(found), to_rows(expected))
    assert worst < 1e-3 and both > 0.97


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_of_any_size_finds_what_the_model_finds(masks, file, runtime):
    pytest.importorskip(runtime)
    opened = open_exported(file.path, runtime)
    assert isinstance(opened, ExportedDetector) and opened.finds_masks
    assert opened.header.output_names == ["detections", "masks"]
    nms = for_evaluation(masks.nms)
    for size in ((96, 131), (75, 60), (200, 90)):
        own, other = (Predictor(model, nms).detect(picture(*size))[0] for model in (masks, opened))
        assert len(own.scores) > 10 and other.masks.shape[1:] == (28, 28)
        same(other, own)
    pictures = [picture(96, 100), picture(96, 100, seed=1)]  # as many as one likes, one after the other
    for (own, *_), (other, *_) in zip(
        Predictor(masks, nms, batch=2).detect_batch(pictures),
        Predictor(opened, nms, batch=2).detect_batch(pictures),
        strict=True,
    ):
        same(other, own)


def test_its_detections_are_drawn_from_by_the_usual_options(masks, file):
    opened = crossstage.open_model(file.path, runtime="onnxruntime")
    image = picture(96, 131)
    (own,) = masks.predict(image, conf=0.3, classes=["b"], max_detections=3)
    (other,) = opened.predict(image, conf=0.3, classes=["b"], max_detections=3)
    assert 0 < len(own) == len(other) <= 3 and set(other.data["class_name"]) == {"b"}
    np.testing.assert_allclose(other.confidence, own.confidence, atol=1e-3)
    assert other.mask.shape == (len(other), 96, 131)
    with pytest.raises(ConfigError, match=r"iou 0.7 and nms iou need one exported with these"):
        list(opened.predict(image, iou=0.7))
    with pytest.raises(ConfigError, match="at most 300 objects"):
        list(opened.predict(image, max_detections=301))


def test_an_image_without_objects_gives_none(masks, file):
    opened = open_exported(file.path, "onnxruntime")
    (found,) = opened.detect(opened(torch.zeros(1, 3, 64, 64)), (64, 64), NMS(0.999, 0.5, max_detections=300))
    assert found.boxes_xyxy.shape == (0, 4) and found.masks.shape == (0, 28, 28)


def test_its_outputs_are_not_decoded_again(file):
    opened = open_exported(file.path, "onnxruntime")
    with pytest.raises(ConfigError, match="both stages"):
        opened.decode([], (64, 64))


def test_runtimes_without_second_stages_are_refused_by_name(tmp_path):
    """By what a file says of itself: its graph is not looked at."""
    pytest.importorskip("cv2")
    onnx = pytest.importorskip("onnx")
    header = ExportHeader("m", "detect", "instances", 1, SHORTEST, ("a",), None, nms=NMS(), masks=True)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    onnx.helper.set_model_props(model, {KEY: header.to_json()})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="second stage, which opencv does not run; openvino and onnxruntime do"):
        open_exported(tmp_path / "m.onnx", "opencv")


@pytest.mark.parametrize("format", ["ncnn", "torchscript", "exported_program"])
def test_formats_without_second_stages_are_refused_by_name(masks, tmp_path, format):
    out = tmp_path / f"file{formats()[format].suffix}"
    with pytest.raises(ConfigError, match=f"{format} files hold no second stage.*; onnx and openvino files do"):
        export(masks, "masks", format, out, dynamic=format == "exported_program")


def test_options_that_do_not_fit_are_refused(masks, tmp_path):
    for options, message in (
        ({"decode": True}, "expected no --decode"),
        ({"half": True}, "neither --half nor --int8"),
        ({"calib": [torch.zeros(1, 3, 64, 64)]}, "neither --half nor --int8"),
        ({"dynamic": False}, "expected --dynamic"),
    ):
        with pytest.raises(ConfigError, match=message):
            export(masks, "masks", "onnx", tmp_path / "m.onnx", **{"dynamic": True, **options})


def test_boxes_alone_of_one_size_in_openvinos_files(tmp_path):
    pytest.importorskip("openvino")
    model = build("small_boxes", Preprocessing((64, 128), mean=(0.5, 0.5, 0.5)))
    nms = NMS(0.2, 0.4, max_detections=20)
    done = export(model, "boxes", "openvino", tmp_path / "boxes_openvino", nms=nms, half=False)
    assert done.header.nms == nms and done.header.output_names == ["detections"] and done.header.size_divisor == 64
    opened = open_exported(done.path, "openvino")
    own, other = (Predictor(each, nms).detect(picture(70, 90))[0] for each in (model, opened))
    assert other.masks is None and 0 < len(own.scores) <= 20
    same(other, own)
    with pytest.raises(ConfigError, match=r"conf 0\.1, iou 0\.4"):
        opened.detect(opened(torch.zeros(1, 3, 64, 128)), (64, 128), replace(nms, score=0.1))


def test_headers_say_whether_there_are_masks():
    header = ExportHeader("m", "detect", "instances", 1, SHORTEST, ("a",), None, nms=NMS(), masks=True)
    assert ExportHeader.from_json(header.to_json(), "m") == header
    without = replace(header, masks=False)
    assert "masks" not in without.to_json() and ExportHeader.from_json(without.to_json(), "m") == without
    with pytest.raises(WeightsError, match="do not go with"):
        ExportHeader.from_json(replace(header, nms=None).to_json(), "m")


def test_rows_are_instances_again():
    boxes = torch.tensor([[0.0, 0, 5, 5], [2, 2, 9, 9], [4, 0, 8, 7]])
    found = Instances(boxes, torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1, 0, 1]), torch.rand(3, 2, 2))
    back = from_rows(to_rows(found), NMS(0.3, class_ids=(1,)))
    assert torch.equal(back.boxes_xyxy, found.boxes_xyxy[:1]) and torch.equal(back.masks, found.masks[:1])
    shifted = found._replace(scores=found.scores + 0.01)
    worst, both = difference(to_rows(shifted), to_rows(found))
    assert worst == pytest.approx(0.01, rel=1e-4) and both == 1
