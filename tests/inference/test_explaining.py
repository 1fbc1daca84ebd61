"""Maps of what an answer rests on: Grad-CAM's formula, and the way from the command to files."""

import numpy as np
import pytest
import torch

from crossstage.cli import main
from crossstage.errors import ConfigError
from crossstage.inference.explaining import explain
from crossstage.models.classifier import Classifier
from crossstage.structures import Preprocessing
from crossstage.weights.loading import create_model


def test_a_classifiers_map_is_the_classs_row_of_its_last_layer():
    """Behind a mean, the gradient of a class's score is its row of weights: the class activation map itself."""
    model = Classifier(create_model("cspdarknet_x_nano").backbone, 3, preprocessing=Preprocessing((64, 64))).eval()
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with torch.no_grad():
        inputs = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        maps = model.backbone(model.preprocessing.normalise(inputs))[-1]
        model.fc.weight[1] = maps[0, :, 0, 0] * 100  # a class that the top left corner speaks for
        cam = (maps * model.fc.weight[1].view(1, -1, 1, 1)).sum(1, keepdim=True).clamp(min=0)
        cam = torch.nn.functional.interpolate(cam, (64, 64), mode="bilinear", align_corners=False)[0, 0]
    heat, share = explain(model, image, class_id=1)
    assert np.allclose(heat, (cam / cam.max()).numpy(), atol=1e-4) and 0 < share < 1
    with pytest.raises(ConfigError, match="did you mean backbone"):
        explain(model, image, layer="backbon")


def test_the_command_writes_a_copy(shapes, tmp_path, capsys):
    image = next((shapes / "images" / "val").iterdir())
    assert main(["explain", str(image), "--save", str(tmp_path / "out"), "--device", "cpu", "--conf", "0.001"]) == 0
    assert (tmp_path / "out" / image.name).is_file() and image.name in capsys.readouterr().out
