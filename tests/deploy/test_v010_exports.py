"""Files that version 0.1.0 exported compute and find what they did; see tests/fixtures/v0.1.0/README.md."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import crossstage
from crossstage import darknet
from crossstage.deploy.backends.shared import silent
from crossstage.deploy.exported import open_exported
from crossstage.deploy.reading import read_header
from crossstage.ops.nms import NMS
from crossstage.structures import Preprocessing

FOLDER = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
ARRAYS = np.load(FOLDER / "expected.npz")
SETTINGS = NMS(EXPECTED["conf"], EXPECTED["iou"])
DETECTORS = [
    name for name, file in EXPECTED["files"].items() if file["kind"] == "exported" and file["task"] == "detect"
]


def arrays(name: str, what: str) -> list[np.ndarray]:
    """The arrays of a file, by number."""
    found, number = [], 0
    while (key := f"{name}/{what}/{number}") in ARRAYS:
        found.append(ARRAYS[key])
        number += 1
    return found


def load_script(path: Path):
    with silent():
        return torch.jit.load(str(path))


def near(found, expected: np.ndarray) -> None:
    found = np.asarray(found)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1e-3, np.abs(expected).max(initial=0)))


def same_detections(boxes, scores, class_ids, name: str, what: tuple[str, str, str]) -> None:
    """Equal up to the order of scores that are nearly equal."""
    keys = [f"{name}/{part}" for part in what]
    expected_boxes, expected_scores, expected_ids = (ARRAYS[key] for key in keys)
    near(np.asarray(scores), expected_scores)
    order, expected_order = (
        np.lexsort((np.round(np.asarray(b)[:, 0], 1), np.round(np.asarray(b)[:, 1], 1), np.asarray(i)))
        for b, i in ((boxes, class_ids), (expected_boxes, expected_ids))
    )
    assert np.asarray(class_ids)[order].tolist() == expected_ids[expected_order].tolist()
    np.testing.assert_allclose(np.asarray(boxes)[order], expected_boxes[expected_order], atol=0.02)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detectors_file_computes_and_finds_what_it_did(name):
    about = EXPECTED["files"][name]
    model = open_exported(FOLDER / name, about["runtime"])
    assert model.class_names == tuple(about["class_names"]) and model.size_divisor == about["max_stride"]
    assert model.preprocessing == Preprocessing.from_dict(about["preprocessing"])
    images = torch.from_numpy(ARRAYS[about["input"]])
    raw = model(images)
    for found, expected in zip(raw, arrays(name, "raw"), strict=True):
        near(found, expected)
    size = (images.shape[2], images.shape[3])
    if f"{name}/boxes" in ARRAYS:
        boxes, scores = model.decode(raw, size)
        near(boxes, ARRAYS[f"{name}/boxes"])
        near(scores, ARRAYS[f"{name}/scores"])
    (found,) = model.detect(raw, size, SETTINGS)
    parts = ("detect/0/boxes_xyxy", "detect/0/scores", "detect/0/class_ids")
    same_detections(found.boxes_xyxy, found.scores, found.class_ids, name, parts)


@pytest.mark.parametrize("name", [*DETECTORS, "exports/detector.cfg"])
def test_it_is_opened_by_name_and_predicts(name):
    opened = crossstage.open_model(FOLDER / name, device="cpu")
    (found,) = opened.predict(FOLDER / "pictures" / "shapes.png", conf=SETTINGS.score, iou=SETTINGS.iou)
    parts = ("predict/xyxy", "predict/confidence", "predict/class_id")
    same_detections(found.xyxy, found.confidence, found.class_id, name, parts)
    assert set(found.data["class_name"]) <= set(EXPECTED["files"][name]["class_names"])


def test_a_dynamic_file_takes_several_images_of_another_size():
    name = "exports/detector_dynamic.onnx"
    model = open_exported(FOLDER / name)
    for found, expected in zip(
        model(torch.from_numpy(ARRAYS["input/several"])), arrays(name, "several/raw"), strict=True
    ):
        near(found, expected)


def test_a_classifiers_file_tells_apart_what_it_did():
    name = "exports/classifier.onnx"
    about = EXPECTED["files"][name]
    model = open_exported(FOLDER / name, about["runtime"])
    logits = model(torch.from_numpy(ARRAYS[about["input"]]))
    near(logits, ARRAYS[f"{name}/logits"])
    near(logits.softmax(1), ARRAYS[f"{name}/probabilities"])
    (found,) = crossstage.open_model(FOLDER / name).predict(FOLDER / "pictures" / "colours.png", top=3)
    assert list(found.class_ids) == ARRAYS[f"{name}/predict/class_ids"].tolist()
    near(found.probabilities, ARRAYS[f"{name}/predict/probabilities"])
    assert list(found.class_names) == about["predict_class_names"]


def test_torchscript_and_darknets_files_compute_what_they_did():
    images = torch.from_numpy(ARRAYS["input/square"])
    script, cfg = "exports/detector.torchscript", "exports/detector.cfg"
    with torch.inference_mode():
        outputs = {
            script: load_script(FOLDER / script)(images),
            cfg: darknet.load(FOLDER / cfg, (FOLDER / cfg).with_suffix(".weights"))(images),
        }
    for name, found in outputs.items():
        for tensor, expected in zip(found, arrays(name, "raw"), strict=True):
            near(tensor, expected)
    assert read_header(FOLDER / script) == read_header(FOLDER / "exports" / "detector.onnx")


def test_a_file_that_suppresses_boxes_refuses_other_settings():
    model = open_exported(FOLDER / "exports" / "detector_nms.onnx")
    for other in (NMS(0.0005, 0.45), NMS(0.001, 0.5), NMS(0.001, 0.45, "agnostic"), NMS(0.001, 0.45, "iou", 1000)):
        with pytest.raises(crossstage.ConfigError, match="inside its graph"):
            model.detect([], (64, 64), other)
