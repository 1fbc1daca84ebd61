"""Exported files that lie about themselves, images that say nothing to quantise by, records that anybody wrote."""

import json
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from crossstage.deploy.calibration import remarks_on
from crossstage.deploy.choose import _recall, choose
from crossstage.deploy.export import export
from crossstage.deploy.exported import ExportedClassifier, ExportedDetector
from crossstage.deploy.header import ExportHeader
from crossstage.errors import ExportError, WeightsError
from crossstage.models.classifier import Classifier
from crossstage.ops.nms import NMS
from crossstage.structures import Preprocessing
from crossstage.weights.loading import create_model

SIZE = Preprocessing((32, 32))
WITH_NMS = ExportHeader("m", "detect", "detections", 32, SIZE, ("a", "b"), batch=None, nms=NMS(0.1))
BOXES = replace(WITH_NMS, outputs="boxes", nms=None)
IMAGES = torch.rand(2, 3, 32, 32)


def opened(header, *outputs):
    return ExportedDetector(
        header, lambda _: [np.array(output, np.float32) for output in outputs], Path("x.onnx"), "rt"
    )


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([np.zeros((3, 6))], r"outputs \[\(3, 6\)\]; its header says detections"),
        ([np.zeros((2, 3, 7))], "its header says detections"),
        ([], "0 outputs; its header says 1"),
        ([np.zeros((1, 7)), np.zeros((1, 7))], "2 outputs; its header says 1"),
        ([[[0, 2, 0.9, 0, 0, 1, 1]]], "finds class 2; its header has 2 names"),
        ([[[0, -1, 0.9, 0, 0, 1, 1]]], "names of classes"),
    ],
)
def test_outputs_that_are_no_detections_are_one_line(outputs, message):
    model = opened(WITH_NMS, *outputs)
    with pytest.raises(WeightsError, match=rf"x\.onnx: .*{message}|x\.onnx: {message}"):
        model.detect(model(IMAGES), (32, 32))


def test_a_row_that_is_no_number_is_no_detection():
    rows = [
        [0, 1, 0.9, 0, 0, 9, 9],
        [0, 1, np.nan, 0, 0, 9, 9],
        [0, 0, 0.8, np.nan, 0, 9, 9],
        [1, np.nan, 0.9, 0, 0, 1, 1],
    ]
    model = opened(WITH_NMS, rows)
    first, second = model.detect(model(IMAGES), (32, 32))
    assert first.scores.tolist() == pytest.approx([0.9]) and len(second.scores) == 0


@pytest.mark.parametrize(
    "outputs", [[np.zeros((2, 5, 4))], [np.zeros((2, 5, 4)), np.zeros((2, 5, 3))], [np.zeros(3)] * 2]
)
def test_maps_that_are_called_boxes_are_one_line(outputs):
    with pytest.raises(WeightsError, match=r"x\.onnx: .*its header says"):
        model = opened(BOXES, *outputs)
        model.detect(model(IMAGES), (32, 32))


def test_a_classifier_whose_scores_are_not_its_classes_is_one_line():
    header = ExportHeader("m", "classify", "logits", 32, SIZE, ("a", "b", "c"), batch=None)
    model = ExportedClassifier(header, lambda _: [np.zeros((2, 5), np.float32)], Path("x.onnx"), "rt")
    with pytest.raises(WeightsError, match=r"an output \(2, 5\); its header says a score for each of 3 classes"):
        model(IMAGES)


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": []},
        {"task": "classify"},
        {"outputs": "logits", "nms": None},
        {"preprocessing": {"size": [0, 0], "resize": "stretch"}},
    ],
)
def test_headers_that_contradict_themselves_are_refused(change):
    content = json.loads(WITH_NMS.to_json()) | change
    with pytest.raises(WeightsError, match="does not describe a crossstage model"):
        ExportHeader.from_json(json.dumps(content), "x.onnx")


def test_few_images_or_such_that_show_nothing_are_told():
    assert remarks_on(()) == remarks_on(list(torch.rand(32, 1, 3, 8, 8))) == ()
    (few,) = remarks_on(list(torch.rand(3, 1, 3, 8, 8)))
    assert few.startswith("quantised by 3 images; 32 or more")
    plain, _ = remarks_on([torch.zeros(1, 3, 8, 8)])
    assert "all of them are of one colour" in plain
    (one,) = remarks_on([*torch.rand(40, 1, 3, 8, 8), torch.full((1, 3, 8, 8), 2.0)])
    assert "1 of them is of one colour" in one


@pytest.mark.parametrize(
    "record",
    [
        {"runtime": "\x1b[2J", "milliseconds": {}},
        {"runtime": "torch", "milliseconds": {"torch": float("nan")}},
        {"runtime": "torch", "milliseconds": {"error: all is lost": 1.0}},
        {"runtime": "torch", "milliseconds": {"torch": -1}},
        {"runtime": ["torch"], "milliseconds": {"torch": 1}},
        {"runtime": "torch", "milliseconds": [1]},
        [],
    ],
)
def test_a_record_that_somebody_wrote_is_no_choice(record, tmp_path):
    file = tmp_path / "record.json"
    file.write_text(json.dumps(record))
    assert _recall(file) is None
    file.write_text(json.dumps({"runtime": "torch", "milliseconds": {"torch": 2.5}}))
    assert _recall(file) == ("torch", {"torch": 2.5})


def test_a_model_that_gives_no_numbers_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))
    model = create_model("resnet10", 2)
    assert isinstance(model, Classifier)
    model.fc.weight.data.fill_(float("nan"))
    with pytest.raises(WeightsError, match="not finite"):
        choose(model.eval(), {"torch": lambda _: model}, imgsz=32, batch=1, threads=1, precision="fp32")


def test_a_checkpoint_of_torchscript_may_have_its_usual_ending(tmp_path):
    model = create_model("resnet10", 2, class_names=("a", "b")).eval()
    done = export(model, "m", "torchscript", tmp_path / "m.pt", imgsz=32)
    assert done.files == (tmp_path / "m.pt",) and torch.jit.load(tmp_path / "m.pt")(torch.rand(1, 3, 32, 32))[
        0
    ].shape == (1, 2)


@pytest.mark.parametrize("format", ["torchscript", "exported_program"])
def test_a_full_disk_ends_no_process_and_leaves_nothing(format, tmp_path):
    """Files that may not grow fail as on a full disk; torch's own writers would abort."""
    from crossstage.deploy.export import export

    model = create_model("resnet10", 2).eval()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(ExportError, match="File too large"):
            export(model, "m", format, tmp_path / f"m{'.torchscript' if format == 'torchscript' else '.pt2'}", imgsz=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
