"""Backbones of classifiers in detectors that want their images otherwise."""

import pytest
import torch

import crossstage
from crossstage.structures import Preprocessing
from crossstage.weights.starting import _fold_normalisation, start_model

WANTED = Preprocessing((64, 64), "crop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
@pytest.mark.parametrize(
    "given",
    [
        Preprocessing((64, 64)),
        Preprocessing((64, 64), scale=255.0, mean=(123.0, 117.0, 104.0)),
        Preprocessing((64, 64), scale=255.0, mean=(104.0, 117.0, 123.0), std=(57.0, 58.0, 59.0), colour_order="bgr"),
        Preprocessing((64, 64), "letterbox", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
    ids=["unit", "bytes", "bgr", "same"],
)
def test_a_layer_reads_images_that_are_normalised_otherwise(norm, given):
    layer = crossstage.create_model("vovnet27_slim", norm=norm).backbone.stem[0].eval()
    images = torch.rand(2, 3, 12, 12)
    before, weight = layer(WANTED.normalise(images)), layer.conv.weight.clone()
    _fold_normalisation(layer, WANTED, given)
    after = layer(given.normalise(images))
    torch.testing.assert_close(after[:, :, 1:-1, 1:-1], before[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert torch.equal(weight, layer.conv.weight) == (given.mean == WANTED.mean)


def test_a_training_starts_with_the_detectors_own_preprocessing():
    started = start_model("ssd300_vgg16", ("a", "b"), imgsz=96)
    assert started.spec.preprocessing == started.model.preprocessing
    assert started.spec.preprocessing.size == (96, 96) and started.spec.preprocessing.mean[0] == 0.48235
