"""Preprocessing against Darknet's, Pillow's and detectron2's rules, and boxes and masks there and back."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from crossstage.inference.preprocessing import place, prepare, stack
from crossstage.ops.masks import THRESHOLD, in_image, packed_in_image, paste
from crossstage.ops.rle import pack, runs_of
from crossstage.structures import Preprocessing

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
    tensor, _ = prepare(image, Preprocessing((height, width)))
    assert tensor.shape == (3, height, width) and tensor.dtype == torch.float32
    expected = darknet_resize(image.astype(float), height, width)
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_letterbox_keeps_the_aspect_on_grey():
    image = np.full((50, 100, 3), 255, np.uint8)
    tensor, placement = prepare(image, Preprocessing((64, 64), "letterbox"))
    assert (tensor[:, 16:48] == 1).all()
    assert (tensor[:, :16] == 0.5).all() and (tensor[:, 48:] == 0.5).all()
    corners = placement.to_input(torch.tensor([[0.0, 0, 100, 50]]))
    assert corners.tolist() == [[0, 16, 64, 48]]


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "shortest"])
@given(rows=st.integers(1, 5000), columns=st.integers(1, 5000), data=st.data())
@settings(max_examples=100, deadline=None)
def test_boxes_come_back(resize, rows, columns, data):
    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (rows, columns, 3))
    placement = place(image.shape[:2], Preprocessing((32, 64), resize, divisor=8))
    xs = sorted(data.draw(st.lists(st.floats(0, columns), min_size=2, max_size=2)))
    ys = sorted(data.draw(st.lists(st.floats(0, rows), min_size=2, max_size=2)))
    box = torch.tensor([[xs[0], ys[0], xs[1], ys[1]]], dtype=torch.float64)
    torch.testing.assert_close(placement.to_image(placement.to_input(box)), box, rtol=1e-6, atol=1e-6)


def test_boxes_are_clipped_to_the_image():
    _, placement = prepare(np.zeros((20, 40, 3), np.uint8), Preprocessing((32, 32), "letterbox"))
    assert placement.to_image(torch.tensor([[-5.0, -5, 99, 99]])).tolist() == [[0, 0, 40, 20]]


@pytest.mark.parametrize("shape", [(1, 1), (4000, 1), (20, 12_000)])
@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_extreme_images_fit(shape, resize):
    tensor, placement = prepare(np.full((*shape, 3), 128, np.uint8), Preprocessing((416, 416), resize))
    assert tensor.isfinite().all()
    whole = torch.tensor([[0.0, 0, shape[1], shape[0]]])
    torch.testing.assert_close(placement.to_image(placement.to_input(whole)), whole)


def test_yolox_letterbox_is_grey_114_below_and_right():
    image = np.full((50, 100, 3), 255, np.uint8)
    tensor, placement = prepare(image, Preprocessing((64, 64), "letterbox", fill=114 / 255, align="top-left"))
    assert (tensor[:, :32] == 1).all()
    torch.testing.assert_close(tensor[:, 32:] * 255, torch.full((3, 32, 64), 114.0))
    assert placement.to_input(torch.tensor([[0.0, 0, 100, 50]])).tolist() == [[0, 0, 64, 32]]


def detectron2_shape(height: int, width: int, size: int, most: int) -> tuple[int, int]:
    """``ResizeShortestEdge.get_output_shape`` in exact fractions."""
    scale = Fraction(size, min(height, width))
    if scale * max(height, width) > most:
        scale = Fraction(most, max(height, width))
    return max(1, int(height * scale + Fraction(1, 2))), max(1, int(width * scale + Fraction(1, 2)))


@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    size=st.integers(1, 900),
    more=st.integers(0, 900),
    divisor=st.integers(1, 64),
)
def test_the_shortest_side_is_scaled_as_in_detectron2(height, width, size, more, divisor):
    placement = place((height, width), Preprocessing((size, size + more), "shortest", divisor=divisor))
    resized = detectron2_shape(height, width, size, size + more)
    assert placement.resized == resized and placement.offset == (0, 0)
    for whole, inner in zip(placement.input_size, resized, strict=True):
        assert whole % divisor == 0 and inner <= whole < inner + divisor


@pytest.mark.parametrize("shape", [(90, 60), (40, 200), (30, 20), (64, 64)])
def test_images_are_resized_to_their_shortest_side_as_pillow_does(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    tensor, placement = prepare(image, Preprocessing((50, 120), "shortest", divisor=32))
    height, width = placement.resized
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), np.float32)
    found = tensor[:, :height, :width].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - expected).max() <= 1.01  # Pillow rounds to bytes, twice
    assert (tensor[:, height:] == 0).all() and (tensor[:, :, width:] == 0).all()
    assert min(placement.resized) == 50 or max(placement.resized) == 120


@pytest.mark.parametrize("shape", [(90, 60), (40, 200), (20, 24), (64, 64)])
def test_a_share_is_cropped_bicubically_as_torchvision_does_with_pillow(shape):
    image = np.random.default_rng(0).integers(70, 186, (*shape, 3), dtype=np.uint8)  # nothing that Pillow clips
    tensor, placement = prepare(image, Preprocessing((28, 28), "crop", resample="cubic", crop=0.875))
    theirs = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(28)])(Image.fromarray(image))
    assert min(placement.resized) == 32 and tensor.shape == (3, 28, 28)
    difference = np.abs(tensor.permute(1, 2, 0).numpy() * 255 - np.asarray(theirs, np.float32))
    assert difference.max() <= 2.01  # Pillow rounds to bytes, twice, and torchvision the longer side down
    white = np.zeros((9, 9, 3), np.uint8)
    white[3:6] = 255
    tensor, _ = prepare(white, Preprocessing((28, 28), "crop", resample="cubic"))
    assert tensor.min() == 0 and tensor.max() == 1  # a cubic overshoots


@pytest.mark.parametrize("colour_order", ["rgb", "bgr"])
def test_what_pads_a_shortest_side_is_zero_for_the_network(colour_order):
    preprocessing = Preprocessing(
        (20, 40), "shortest", (103.5, 116.3, 123.7), (57.4, 57.1, 58.4), colour_order, 255.0, divisor=32
    )
    tall, wide = (prepare(np.full((*shape, 3), 99, np.uint8), preprocessing)[0] for shape in ((30, 20), (20, 90)))
    assert tall.shape == (3, 32, 32) and wide.shape == (3, 32, 64)
    inputs = preprocessing.normalise(stack([tall, wide], preprocessing))
    assert inputs.shape == (2, 3, 32, 64)
    torch.testing.assert_close(inputs[0, :, 30:], torch.zeros(3, 2, 64), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs[0, :, :, 20:], torch.zeros(3, 32, 44), atol=1e-5, rtol=0)
    assert (inputs[0, :, :30, :20].abs() > 0.05).all()


def test_normalising_is_order_scale_mean_and_deviation():
    image = torch.rand(2, 3, 4, 5)
    found = Preprocessing(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), colour_order="bgr", scale=255.0).normalise(image)
    red, green, blue = image.numpy().transpose(1, 0, 2, 3) * 255
    expected = np.stack([(blue - 1) / 4, (green - 2) / 5, (red - 3) / 6], axis=1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert Preprocessing().normalise(image) is image


def test_a_header_holds_what_does_something_and_comes_back():
    assert Preprocessing((64, 96), "crop").to_dict() == {"size": (64, 96), "resize": "crop"}
    full = Preprocessing(
        (64, 96), "letterbox", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "bgr", 255.0, 0.25, "top-left", 7, "cubic", 0.9
    )
    for preprocessing in (full, Preprocessing()):
        assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


@pytest.mark.parametrize(
    "change",
    [{"resize": "zoom"}, {"colour_order": "gbr"}, {"align": "left"}, {"scale": 0}, {"divisor": 0}, {"crop": 0}],
)
def test_a_header_with_a_value_out_of_range_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Preprocessing.from_dict({**Preprocessing().to_dict(), **change})


def test_another_size_keeps_the_proportion_of_shortest_and_longest_side():
    assert Preprocessing((800, 1333), "shortest").at(400).size == (400, 666)
    assert Preprocessing((800, 1333), "shortest").at((300, 301)).size == (300, 301)
    assert Preprocessing((64, 96)).at(32).size == (32, 32)
    assert Preprocessing((800, 800)).resized_by("shortest") == Preprocessing((800, 1333), "shortest")
    assert Preprocessing((64, 96)).resized_by("crop") == Preprocessing((64, 96), "crop")


@pytest.mark.parametrize(
    ("resize", "extent"),
    [("stretch", (48, 80)), ("letterbox", (44, 80)), ("crop", (48, 80)), ("shortest", (40, 80))],
)
def test_how_far_an_image_reaches(resize, extent):
    assert place((20, 40), Preprocessing((48, 80), resize, divisor=16)).extent == extent


@given(rows=st.integers(20, 1500), columns=st.integers(20, 1500))
@settings(max_examples=60, deadline=None)
def test_sharp_shortest_sides_are_those_of_torchvisions_detectors(rows, columns):
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    theirs = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3)
    image = torch.randint(0, 256, (rows, columns, 3), dtype=torch.uint8)
    ours, placement = prepare(image.numpy(), Preprocessing((80, 133), "shortest", resample="sharp", divisor=32))
    batch, _ = theirs([image.permute(2, 0, 1) / 255])
    assert placement.extent == batch.image_sizes[0]
    torch.testing.assert_close(ours, batch.tensors[0], rtol=0, atol=1e-5)


def test_masks_are_laid_over_their_boxes_as_in_torchvision():
    boxes = torch.tensor([[1.0, 2.0, 9.0, 8.0], [0.0, 0.0, 12.0, 10.0]])
    masks = torch.stack([torch.ones(28, 28), torch.linspace(0, 1, 28).expand(28, 28)])
    laid = paste(masks, boxes, (10, 12))
    assert laid.shape == (2, 10, 12) and paste(masks[:0], boxes[:0], (10, 12)).shape == (0, 10, 12)
    assert (laid[0, 3:7, 2:8] == 1).all() and laid[0, 9].sum() == laid[0, :, 11].sum() == 0
    assert (laid[1].diff(dim=1) > 0)[:, 1:-1].all()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_mask_alone_and_packed_is_what_is_pasted_with_others(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    x, y = (data.draw(st.floats(0, side, width=32)) for side in (width, height))
    box = torch.tensor([x, y, data.draw(st.floats(x, width, width=32)), data.draw(st.floats(y, height, width=32))])
    mask = torch.rand(7, 7, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    expected = (paste(mask[None], box[None], (height, width))[0] > THRESHOLD).numpy()
    np.testing.assert_array_equal(in_image(mask, box, (height, width)), expected)
    packed = packed_in_image(mask, box, (height, width))
    assert not in_image(mask, box - 200, (height, width)).any()
    assert packed == pack(expected) and sum(runs_of(packed, (height, width))) == height * width
