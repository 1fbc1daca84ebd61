"""Model files that version 0.1.0 wrote: they load, and give what it computed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from crossstage.inference.classify import ClassPredictor
from crossstage.models.classifier import Classifier
from crossstage.ops.nms import NMS
from crossstage.weights.loading import load
from crossstage.weights.model_file import read_spec, write_model
from crossstage.weights.ref import parse
from crossstage.weights.stored import read_stored

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v0.1.0"
TOLD = json.loads((FIXTURES / "expected.json").read_text())
MODELS = [name for name, about in TOLD["files"].items() if about["kind"] == "model"]


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURES / "expected.npz"))


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    """The folder, where paths inside of the files are right."""
    for part in ("models", "pictures"):
        shutil.copytree(FIXTURES / part, tmp_path / part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_near(found: torch.Tensor | np.ndarray, wanted: np.ndarray) -> None:
    found = np.asarray(found)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * max(np.abs(wanted).max(), 1e-9))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_loads_as_it_was(name, old):
    about, model = TOLD["files"][name], load(name)
    assert list(model.class_names) == about["class_names"]
    assert sum(parameter.numel() for parameter in model.parameters()) == about["parameters"]
    preprocessing = about["preprocessing"]
    assert (model.preprocessing is None) == (preprocessing is None)
    for key, value in (preprocessing or {}).items():
        found = getattr(model.preprocessing, key)
        assert list(found) == value if isinstance(value, list) else found == value
    if about["task"] == "detect":
        assert model.size_divisor == about["max_stride"]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_file_computes_what_it_did(name, old, expected):
    about, model = TOLD["files"][name], load(name)
    images = torch.from_numpy(expected[about["input"]])
    with torch.no_grad():
        if isinstance(model, Classifier):
            logits = model(images)
            assert_near(logits, expected[f"{name}/logits"])
            assert_near(logits.softmax(1), expected[f"{name}/probabilities"])
            return
        raw = model(images)
        assert len(raw) == about["raw"]
        for number, tensor in enumerate(raw.values()):
            assert_near(tensor, expected[f"{name}/raw/{number}"])
        boxes, scores = model.decode(raw, images.shape[2:])
        assert_near(boxes, expected[f"{name}/boxes"])
        assert_near(scores, expected[f"{name}/scores"])
        if f"{name}/detect/0/scores" in expected:
            (found,) = model.detect(raw, images.shape[2:], NMS(TOLD["conf"], TOLD["iou"]))
            assert_same_detections((found.boxes_xyxy, found.scores, found.class_ids), expected, f"{name}/detect/0",
                                   ("boxes_xyxy", "scores", "class_ids"))  # fmt: skip


def assert_same_detections(found, expected, key, parts) -> None:
    """Equal but for the order of scores that are almost equal."""

    def ordered(boxes, scores, classes):
        boxes, scores, classes = map(np.asarray, (boxes, scores, classes))
        order = np.lexsort((*boxes.round(1).T, classes))
        return boxes[order], scores[order], classes[order]

    ours, theirs = ordered(*found), ordered(*(expected[f"{key}/{part}"] for part in parts))
    assert np.array_equal(ours[2], theirs[2])
    assert_near(ours[0], theirs[0])
    assert_near(ours[1], theirs[1])


@pytest.mark.parametrize("name", MODELS)
def test_an_image_is_predicted_as_it_was(name, old, expected):
    model = load(name)
    if isinstance(model, Classifier):
        if model.preprocessing is None:
            pytest.skip("a classifier without preprocessing predicts no images")
        (found,) = ClassPredictor(model, top=3).predict("pictures/colours.png")
        assert list(found.class_ids) == expected[f"{name}/predict/class_ids"].tolist()
        assert_near(np.array(found.probabilities), expected[f"{name}/predict/probabilities"])
        assert list(found.class_names) == TOLD["files"][name]["predict_class_names"]
    elif f"{name}/predict/xyxy" in expected:
        (found,) = model.predict("pictures/shapes.png", conf=TOLD["conf"], iou=TOLD["iou"])
        assert_same_detections((found.xyxy, found.confidence, found.class_id), expected, f"{name}/predict",
                               ("xyxy", "confidence", "class_id"))  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_header_is_read_and_written_again_with_the_same_meaning(name, old):
    spec = read_spec(name)
    assert spec.name == TOLD["files"][name]["spec"]["name"]
    stored = read_stored(parse(name))
    write_model("again.safetensors", stored.state, spec)
    assert read_spec("again.safetensors") == spec
    again, model = load("again.safetensors").state_dict(), load(name).state_dict()
    assert all(torch.equal(tensor, model[key]) for key, tensor in again.items())
