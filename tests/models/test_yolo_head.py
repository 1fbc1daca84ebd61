"""The YOLO head: anchors that cannot be misplaced, and decoding against the formula written out by hand."""

import math

import pytest
import torch

from crossstage.errors import ConfigError
from crossstage.models.heads.yolo import YoloConfig, YoloHead
from crossstage.ops.boxes import decode_yolo
from crossstage.ops.priors import AnchorLevel

SMALL = AnchorLevel(16, ((10, 14), (23, 27)))
LARGE = AnchorLevel(32, ((81, 82), (135, 169)))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("new_coords", [False, True])
def test_decoding_equals_the_formula_at_every_cell(new_coords):
    anchors, (height, width), k = [(10.0, 20.0), (30.0, 15.0)], (2, 3), 1.1
    raw = torch.rand(1, 2 * (5 + 4), height, width) if new_coords else torch.randn(1, 2 * (5 + 4), height, width)
    boxes, scores = decode_yolo(raw, anchors, input_size=(64, 96), scale_x_y=k, new_coords=new_coords)
    position = 0
    for a, (anchor_w, anchor_h) in enumerate(anchors):
        for row in range(height):
            for column in range(width):
                x, y, w, h, objectness, *classes = raw[0, 9 * a : 9 * a + 9, row, column].tolist()
                if not new_coords:
                    x, y, objectness, *classes = (sigmoid(v) for v in (x, y, objectness, *classes))
                centre_x = (x * k - (k - 1) / 2 + column) / width * 96
                centre_y = (y * k - (k - 1) / 2 + row) / height * 64
                box_w = (2 * w) ** 2 * anchor_w if new_coords else math.exp(w) * anchor_w
                box_h = (2 * h) ** 2 * anchor_h if new_coords else math.exp(h) * anchor_h
                expected = [centre_x - box_w / 2, centre_y - box_h / 2, centre_x + box_w / 2, centre_y + box_h / 2]
                assert boxes[0, position].tolist() == pytest.approx(expected, abs=1e-4)
                assert scores[0, position].tolist() == pytest.approx([objectness * c for c in classes], abs=1e-6)
                position += 1
    assert position == boxes.shape[1]


def test_head_predicts_and_decodes_every_anchor_of_every_level():
    head = YoloHead(YoloConfig(levels=(SMALL, LARGE)), [8, 16], [16, 32], num_classes=3)
    raw = head([torch.randn(2, 8, 4, 6), torch.randn(2, 16, 2, 3)])
    assert {name: tuple(r.shape) for name, r in raw.items()} == {"stride16": (2, 16, 4, 6), "stride32": (2, 16, 2, 3)}
    boxes, scores = head.decode(raw, (64, 96))
    assert boxes.shape == (2, 2 * (24 + 6), 4)
    assert scores.shape == (2, 2 * (24 + 6), 3)


@pytest.mark.parametrize(
    ("strides", "levels", "message"),
    [
        ([16, 32], [LARGE, SMALL], r"bound to strides \[32, 16\]"),
        ([16], [LARGE], r"bound to strides \[32\]"),
        ([16, 32], [AnchorLevel(16, LARGE.anchors), AnchorLevel(32, SMALL.anchors)], "reverse order"),
        ([16], [AnchorLevel(16, ((0, 5),))], "positive"),
        ([16], [AnchorLevel(16, ((float("nan"), 5),))], "positive, finite"),
        ([16], [AnchorLevel(16, ())], "positive"),
    ],
)
def test_anchors_that_do_not_belong_are_refused_at_build_time(strides, levels, message):
    with pytest.raises(ConfigError, match=message):
        YoloHead(YoloConfig(levels=tuple(levels)), [8] * len(strides), strides, num_classes=3)


def test_a_head_without_classes_is_refused():
    with pytest.raises(ConfigError, match="num_classes is 0"):
        YoloHead(YoloConfig(levels=(SMALL,)), [8], [16], num_classes=0)
