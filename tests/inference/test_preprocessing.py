"""Preprocessing against Darknet's formula, and boxes there and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.inference.preprocessing import prepare

SIDES = st.integers(1, 60)


def darknet_resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Corner-aligned bilinear, pixel by pixel, in float."""
    rows, columns = image.shape[:2]
    out = np.zeros((height, width, image.shape[2]))
    for i in range(height):
        y = i * (rows - 1) / (height - 1) if height > 1 else 0.0
        y0 = min(int(y), rows - 1)
        y1 = min(y0 + 1, rows - 1)
        for j in range(width):
            x = j * (columns - 1) / (width - 1) if width > 1 else 0.0
            x0 = min(int(x), columns - 1)
            x1 = min(x0 + 1, columns - 1)
            top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            bottom = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out / 255


@given(rows=SIDES, columns=SIDES, height=SIDES, width=SIDES)
@settings(max_examples=40, deadline=None)
def test_stretching_equals_darknets_resize(rows, columns, height, width):
    image = np.random.default_rng(rows * 61 + columns).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    tensor, _ = prepare(image, (height, width), "stretch")
    assert tensor.shape == (3, height, width) and tensor.dtype == torch.float32
    expected = darknet_resize(image.astype(float), height, width)
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_letterbox_keeps_the_aspect_on_grey():
    image = np.full((50, 100, 3), 255, np.uint8)
    tensor, placement = prepare(image, (64, 64), "letterbox")
    assert (tensor[:, 16:48] == 1).all()
    assert (tensor[:, :16] == 0.5).all() and (tensor[:, 48:] == 0.5).all()
    corners = placement.to_input(torch.tensor([[0.0, 0, 100, 50]]))
    assert corners.tolist() == [[0, 16, 64, 48]]


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@given(rows=st.integers(1, 5000), columns=st.integers(1, 5000), data=st.data())
@settings(max_examples=100, deadline=None)
def test_boxes_come_back(resize, rows, columns, data):
    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (rows, columns, 3))
    _, placement = prepare(image, (32, 64), resize)
    xs = sorted(data.draw(st.lists(st.floats(0, columns), min_size=2, max_size=2)))
    ys = sorted(data.draw(st.lists(st.floats(0, rows), min_size=2, max_size=2)))
    box = torch.tensor([[xs[0], ys[0], xs[1], ys[1]]], dtype=torch.float64)
    torch.testing.assert_close(placement.to_image(placement.to_input(box)), box, rtol=1e-6, atol=1e-6)


def test_boxes_are_clipped_to_the_image():
    _, placement = prepare(np.zeros((20, 40, 3), np.uint8), (32, 32), "letterbox")
    assert placement.to_image(torch.tensor([[-5.0, -5, 99, 99]])).tolist() == [[0, 0, 40, 20]]


@pytest.mark.parametrize("shape", [(1, 1), (4000, 1), (20, 12_000)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_extreme_images_fit(shape, resize):
    tensor, placement = prepare(np.full((*shape, 3), 128, np.uint8), (416, 416), resize)
    assert tensor.isfinite().all()
    whole = torch.tensor([[0.0, 0, shape[1], shape[0]]])
    torch.testing.assert_close(placement.to_image(placement.to_input(whole)), whole)
