"""What exported files cost in accuracy, measured on labelled images, and int8 within a bound of it."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

import crossstage
from crossstage import ConfigError
from crossstage.cli import main
from crossstage.deploy import cost as cost_module
from crossstage.deploy.backends import formats
from crossstage.deploy.calibration import calibration_inputs, remarks_on, remarks_on_objects
from crossstage.deploy.cost import export_measured
from crossstage.deploy.export import export, layers_by_harm
from crossstage.models.detector import Detector

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
SIZE = 96
MODEL = "cspdarknet53_tiny_yolo.coco"


@pytest.fixture(scope="module")
def tiny() -> Detector:
    model = crossstage.load(MODEL)
    assert isinstance(model, Detector)
    return model


@pytest.fixture(scope="module")
def labelled(tiny, tmp_path_factory) -> Path:
    """Photos whose labels are what the model itself finds, so that it scores 100 points but for its weak detections."""
    folder = tmp_path_factory.mktemp("labelled")
    for part in ("images/val", "labels/val"):
        (folder / part).mkdir(parents=True)
    for photo in sorted(PHOTOS.glob("*.jpg"))[:4]:
        image = cv2.imread(str(photo))
        assert image is not None
        height, width = image.shape[:2]
        (found,) = tiny.predict(photo, imgsz=SIZE, conf=0.2)
        boxes = np.clip(found.xyxy / [width, height, width, height], 0, 1)
        rows = [
            f"{kind} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}"
            for kind, (x1, y1, x2, y2) in zip(found.class_id, boxes, strict=True)
        ]
        cv2.imwrite(str(folder / "images/val" / f"{photo.stem}.jpg"), image)
        (folder / "labels/val" / f"{photo.stem}.txt").write_text("\n".join(rows))
    names = ", ".join(f"'{name}'" for name in tiny.class_names)
    (folder / "data.yaml").write_text(f"train: images/val\nval: images/val\nnames: [{names}]\n")
    return folder / "data.yaml"


@pytest.mark.parametrize(
    "format", ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in formats() if name != "onnx")]
)
def test_a_float_file_loses_nothing(tiny, labelled, format, tmp_path):
    out = tmp_path / f"x{formats()[format].suffix}"
    done = export_measured(tiny, "x", format, out, val=labelled, imgsz=SIZE)
    assert done.before["ap50"] > 0.5
    assert abs(done.loss) < 0.1 and done.within and done.exported.path.exists()


@pytest.mark.slow
def test_the_verb_prints_before_and_after(labelled, tmp_path, capsys):
    out = tmp_path / "x.onnx"
    given = ["export", MODEL, "--imgsz", str(SIZE), "--val", str(labelled), "--out", str(out), "--quiet"]
    assert main([*given, "--int8", "--calib", str(PHOTOS)]) == 0
    told = capsys.readouterr().out
    assert out.is_file() and "PyTorch" in told and "onnx (" in told and "loss" in told and "ap50" in told


def graded(monkeypatch, losses):
    """Have tries lose so many points, one after the other, without measuring any."""
    left = iter(losses)

    def cost(model, done, format, dataset, imgsz, progress):
        return cost_module.ExportCost(done, "none", {"ap": 1.0}, {"ap": 1 - next(left) / 100})

    monkeypatch.setattr(cost_module, "_cost", cost)


@pytest.mark.slow
def test_layers_stay_in_float_until_the_loss_is_within_its_bound(tiny, labelled, tmp_path, monkeypatch):
    graded(monkeypatch, [5, 3, 1])
    out = tmp_path / "x.onnx"
    options = {"imgsz": SIZE, "calib": [torch.rand(1, 3, SIZE, SIZE)]}
    done = export_measured(tiny, "x", "onnx", out, val=labelled, max_loss=2, **options)
    harmful = layers_by_harm(tiny, "x", "onnx", **options)
    assert done.in_float == tuple(harmful[:2]) and done.within and done.exported.path == out
    nodes = onnx.load(str(out)).graph.node
    makers = {output: node.op_type for node in nodes for output in node.output}
    rounded = {node.name: makers.get(node.input[1]) == "DequantizeLinear" for node in nodes if node.op_type == "Conv"}
    assert not any(rounded[name] for name in done.in_float) and rounded[harmful[2]]


@pytest.mark.slow
def test_a_bound_that_cannot_be_kept_leaves_what_was_there(labelled, tmp_path, monkeypatch, capsys):
    graded(monkeypatch, [5])
    out = tmp_path / "x.onnx"
    out.write_text("mine")
    given = ["export", MODEL, "--imgsz", str(SIZE), "--val", str(labelled), "--out", str(out), "--quiet"]
    assert main([*given, "--max-loss", "1"]) == 1
    assert "5.00 points is more than --max-loss 1; nothing is written" in capsys.readouterr().out
    assert out.read_text() == "mine" and list(tmp_path.iterdir()) == [out]


def test_a_bound_needs_data_and_a_size(tiny, labelled, capsys):
    assert main(["export", MODEL, "--max-loss", "1"]) == 2
    assert "expected --max-loss POINTS --val DATA" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="max_loss=-1; expected points of 100, at least 0"):
        export_measured(tiny, "x", "onnx", val=labelled, max_loss=-1)


def test_images_to_quantise_by_that_show_nothing_are_told(tiny):
    black = torch.zeros(1, 3, SIZE, SIZE)
    (told,) = remarks_on_objects(tiny, [black])
    assert "the model finds nothing in the image to quantise by" in told
    seen = calibration_inputs(PHOTOS, tiny.preprocessing.at(SIZE))
    assert remarks_on_objects(tiny, [black, *seen]) == ()
    same, _ = remarks_on([torch.rand(1, 3, 8, 8)] * 3)
    assert same == "quantised by 3 images that are all the same one; scales hang on it alone"


@pytest.mark.slow
def test_openvino_knows_the_layers_by_their_names(tiny, tmp_path):
    """A convolution with a bias has another name there."""
    options = {"imgsz": SIZE, "calib": [torch.rand(1, 3, SIZE, SIZE)]}
    harmful = layers_by_harm(tiny, "x", "openvino", **options)
    rounded, kept = (
        export(tiny, "x", "openvino", tmp_path / str(len(names)), in_float=names, **options).difference
        for names in ([], harmful)
    )
    assert rounded is not None and kept is not None and kept < rounded / 10
