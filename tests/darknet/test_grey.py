"""Networks that read other than three colours."""

import numpy as np
import pytest
import torch

from crossstage.darknet.detector import DarknetDetector
from crossstage.darknet.network import DarknetNetwork
from crossstage.deploy.graph import plan
from crossstage.errors import ConfigError
from crossstage.inference.predictor import Predictor

CFG = """[net]
width=32
height=32
channels={}

[convolutional]
filters=18
size=3
stride=2
pad=1
activation=linear

[yolo]
mask=0,1,2
anchors=10,14, 23,27, 37,58
classes=1
num=3
"""


def detector(channels, folder):
    (folder / "net.cfg").write_text(CFG.format(channels))
    torch.manual_seed(0)
    return DarknetDetector(DarknetNetwork.from_cfg(folder / "net.cfg")).eval()


def test_a_grey_network_sees_colours_as_grey(tmp_path):
    model = detector(1, tmp_path)
    seen = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pixels = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    found, _, _ = Predictor(model).detect(pixels)
    assert seen[0].shape == (1, 1, 32, 32) and torch.isfinite(found.boxes_xyxy).all()
    assert torch.allclose(seen[0], torch.tensor((200 * 0.299 + 100 * 0.587 + 50 * 0.114) / 255), atol=1e-5)


def test_its_file_takes_grey_too(tmp_path):
    planned = plan(detector(1, tmp_path), "grey")
    assert planned.images.shape == (1, 1, 32, 32) and planned.header.preprocessing.channels == 1
    assert len(planned.graph(planned.images)) == 2


@pytest.mark.parametrize("channels", [2, 4])
def test_what_no_image_has_is_refused(channels, tmp_path):
    with pytest.raises(ConfigError, match=rf"channels={channels} in \[net\]; expected 3, or 1 for grey"):
        detector(channels, tmp_path)
