"""Darknet's output layers that OpenCV cannot decode, against plain loops."""

import numpy as np
import pytest
import torch

from crossstage.errors import ConfigError
from tests.darknet.nets import conv, load_text, net, section, yolo


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def corners(x, y, width, height):
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def close(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gaussian_yolo_lowers_scores_by_the_mean_uncertainty(tmp_path):
    classes, k = 2, 1.1
    text = net(48, 32) + conv(2 * (9 + classes), 3, 16, activation="linear", bn=0)
    text += section("Gaussian_yolo", mask="0,2", anchors="3,4, 9,9, 6,5", num=3, classes=classes, scale_x_y=k)
    network = load_text(text, tmp_path)
    x = torch.rand(2, 3, 32, 48)
    raw = network(x)[0][1].numpy().reshape(2, 9 + classes, 2, 3)
    boxes, scores = network.detections(x)
    assert boxes.shape == (2, 12, 4) and scores.shape == (2, 12, 2)
    for position, (a, row, column) in enumerate(np.ndindex(2, 2, 3)):
        anchor, v = [(3, 4), (6, 5)][a], raw[a, :, row, column]
        centre_x, centre_y, spread_x, spread_y = (sigmoid(v[i]) * k - (k - 1) / 2 for i in (0, 2, 1, 3))
        uncertainty = (spread_x + spread_y + sigmoid(v[5]) + sigmoid(v[7])) / 4
        close(scores[1, position], sigmoid(v[8]) * sigmoid(v[9:]) * (1 - uncertainty))
        width, height = np.exp(v[4]) * anchor[0], np.exp(v[6]) * anchor[1]
        close(boxes[1, position], corners((centre_x + column) * 16, (centre_y + row) * 16, width, height))


@pytest.mark.parametrize("options", [{"sqrt": 1}, {"softmax": 1}])
@torch.no_grad()
def test_detection_layer_of_yolov1(options, tmp_path):
    side, per_cell, classes = 2, 2, 3
    cells = side * side
    text = net(16, 24) + section("connected", output=cells * (classes + per_cell * 5), activation="linear")
    text += section("detection", side=side, num=per_cell, classes=classes, coords=4, **options)
    network = load_text(text, tmp_path)
    x = torch.rand(2, 3, 24, 16)
    raw = network(x)[0][1].flatten().numpy()
    boxes, scores = network.detections(x)
    for cell, b in np.ndindex(cells, per_cell):
        row, column = divmod(cell, side)
        position = cell * per_cell + b
        classed = raw[cell * classes : (cell + 1) * classes]
        objectness = raw[cells * classes + position]
        close(scores[1, position], objectness * (softmax(classed) if "softmax" in options else classed))
        px, py, pw, ph = raw[cells * (classes + per_cell) + 4 * position :][:4]
        if "sqrt" in options:
            pw, ph = pw**2, ph**2
        close(boxes[1, position], corners((px + column) / side * 16, (py + row) / side * 24, pw * 16, ph * 24))


@pytest.mark.parametrize("soft", [0, 1])
@torch.no_grad()
def test_region_layer_of_yolov2(soft, tmp_path):
    text = net(48, 32) + conv(14, 3, 16, activation="linear", bn=0)
    text += section("region", anchors="1.5,2, 3,0.5", num=2, classes=2, softmax=soft)
    network = load_text(text, tmp_path)
    x = torch.rand(1, 3, 32, 48)
    raw = network(x)[0][0].numpy().reshape(2, 7, 2, 3)
    boxes, scores = network.detections(x)
    for position, (a, row, column) in enumerate(np.ndindex(2, 2, 3)):
        anchor, v = [(1.5, 2), (3, 0.5)][a], raw[a, :, row, column]
        width, height = np.exp(v[2]) * anchor[0], np.exp(v[3]) * anchor[1]
        close(boxes[0, position], 16 * corners(sigmoid(v[0]) + column, sigmoid(v[1]) + row, width, height))
        close(scores[0, position], sigmoid(v[4]) * (softmax(v[5:]) if soft else v[5:]))


def test_boxes_of_several_layers_follow_each_other(tmp_path):
    anchors = "3,4, 9,9"
    text = net(32) + conv(8, 3, 8) + conv(8, activation="linear", bn=0) + yolo("0", anchors, classes=3)
    text += conv(16, 3, 2, activation="linear", bn=0) + yolo("0,1", anchors, classes=3)
    network = load_text(text, tmp_path)
    boxes, scores = network.detections(torch.rand(1, 3, 32, 32))
    assert boxes.shape == (1, 4 * 4 + 2 * 2 * 2, 4) and scores.shape == (1, 24, 3)
    # Centres of the last layer lie in its cells, 16 pixels wide, column by column.
    centre = (boxes[0, 16:, :2] + boxes[0, 16:, 2:]) / 2
    assert (centre // 16).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]] * 2


def test_classifier_has_no_boxes(tmp_path):
    network = load_text(net(8) + conv(4) + section("softmax"), tmp_path)
    with pytest.raises(ConfigError, match=r"no \[yolo\]"):
        network.detections(torch.rand(1, 3, 8, 8))
