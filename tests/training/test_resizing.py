"""Trainings on images that are resized to their shortest side, whose batches have a size of their own."""

from dataclasses import replace

import pytest

from crossstage.data.augment import Augmentation
from crossstage.data.find import find_data
from crossstage.evaluation import evaluate
from crossstage.inference.images import load_image
from crossstage.inference.predictor import Predictor
from crossstage.training import TrainOptions, train
from crossstage.weights.loading import load

OPTIONS = TrainOptions(
    model="cspdarknet53_tiny_yolo", data="", epochs=1, imgsz=60, resize="shortest", batch=8, workers=0, lr=0.01,
    burn_in=2, ema=0, accelerator="cpu", augment=Augmentation(mosaic=0.5, mixup=0.5),
)  # fmt: skip


def test_a_detector_is_trained_scored_and_used_at_its_shortest_side(shapes, tmp_path):
    result = train(replace(OPTIONS, data=str(shapes), out=str(tmp_path), name="d", multi_scale=0.3))
    model = load(result.folder)
    assert model.preprocessing.size == (60, 100) and model.preprocessing.resize == "shortest"
    predictor = Predictor(model)
    assert predictor.preprocessing.divisor == 32
    _, placement, _ = predictor.detect(load_image(shapes / "images" / "val" / "1.png"))
    assert placement.resized == (60, 75) and placement.input_size == (64, 96)
    assert evaluate(model, find_data(shapes).read("val"), batch=4).ap == pytest.approx(result.best, abs=2e-3)


@pytest.mark.parametrize("model", ["resnet18", "csppeleenet"])  # the latter joins maps that odd sides would part
def test_a_classifier_is_trained_scored_and_used_at_its_shortest_side(colours, tmp_path, model):
    options = replace(OPTIONS, model=model, data=str(colours), out=str(tmp_path), name="c", imgsz=36)
    model = load(train(options).folder)
    assert model.preprocessing.size == (36, 60)
    (found,) = model.predict(colours / "val" / "red" / "0.png")
    assert len(found.class_ids) == 3
