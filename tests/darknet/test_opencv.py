"""Networks read from Darknet files against OpenCV's importer, with the same random or real weights."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from crossstage import darknet
from crossstage.darknet import DarknetNetwork
from tests.darknet.nets import (
    ANCHORS_TINY,
    conv,
    cspdarknet53,
    cspresnet50,
    cspresnext50,
    darknet53,
    elastic_block,
    load_text,
    maxpool,
    net,
    panet_spp_neck,
    route,
    section,
    shortcut,
    squeeze_excitation,
    yolo,
    yolov3_tiny,
    yolov3_tiny_prn,
    yolov4_tiny,
)

EXACT = 5e-5  # of the largest value, for leaky and relu networks
SMOOTH = 2e-4  # for mish and swish
OPENCV_EPS_GAP = 9e-6  # OpenCV normalises with 1e-6, Darknet with 1e-5


def opencv_twin(network: DarknetNetwork, cfg: Path) -> cv2.dnn.Net:
    """The same network in OpenCV, its variances corrected for the smaller epsilon."""
    norms = [m for m in network.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    for norm in norms:
        norm.running_var += OPENCV_EPS_GAP
    darknet.save_weights(network, cfg.with_suffix(".weights"))
    for norm in norms:
        norm.running_var -= OPENCV_EPS_GAP
    twin = cv2.dnn.readNetFromDarknet(str(cfg), str(cfg.with_suffix(".weights")))
    twin.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    twin.setPreferableTarget(cv2.dnn.DNN_TARGET_CPU)
    return twin


def image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, height, width)


def assert_close(ours: torch.Tensor, theirs: np.ndarray, tolerance: float) -> None:
    theirs = np.asarray(theirs).reshape(ours.shape)
    largest = np.abs(theirs).max()
    assert np.isfinite(theirs).all() and largest > 0
    assert np.abs(ours.numpy() - theirs).max() <= tolerance * largest


@torch.no_grad()
def check(text: str, folder: Path, sizes: list[tuple[int, int]], tolerance: float = EXACT) -> DarknetNetwork:
    """Compare what leaves the last layer."""
    network = load_text(text, folder)
    for height, width in sizes:
        twin = opencv_twin(network, folder / "net.cfg")
        x = image(height, width, network.input_shape.channels)
        twin.setInput(x.numpy())
        (ours,) = network(x)
        assert_close(ours, twin.forward(), tolerance)
    return network


def layers(*parts: str, width: int = 20, height: int = 16, channels: int = 8) -> str:
    """A network of a leaky convolution and the layers to be tested."""
    return net(width, height, 3) + conv(channels, 3) + "".join(parts)


LAYERS = {
    "conv 1x1": conv(6),
    "conv 3x3 stride 2": conv(6, 3, 2),
    "conv 5x5": conv(6, 5),
    "conv 7x7 stride 2": conv(6, 7, 2),
    "conv without batch norm": conv(6, 3, bn=0),
    "conv unpadded": conv(6, 3, pad=0),
    "conv padding=2": conv(6, 3, pad=0, padding=2),
    "conv groups": conv(8, 3, groups=4),
    "conv depthwise": conv(8, 3, groups=8),
    "conv relu": conv(6, 3, activation="relu"),
    "conv linear": conv(6, 3, activation="linear"),
    "conv logistic": conv(6, 3, activation="logistic"),
    "conv tanh": conv(6, 3, activation="tanh"),
    "connected": section("connected", output=5, activation="leaky"),
    "connected twice": section("connected", output=5, activation="linear")
    + section("connected", output=3, activation="logistic"),
    "maxpool 2/2": maxpool(),
    "maxpool 2/1": maxpool(2, 1),
    "maxpool 3/2": maxpool(3, 2),
    "maxpool 3/1": maxpool(3, 1),
    "maxpool padding=1": maxpool(3, 2, padding=1),
    "maxpool unpadded": maxpool(3, 2, padding=0),
    "maxpool larger than the map": conv(4, 3, 4) + maxpool(13, 1),
    "spatial pyramid": maxpool(5, 1) + route(-2) + maxpool(9, 1) + route(-4) + maxpool(13, 1) + route(-1, -3, -5, -6),
    "avgpool": section("avgpool"),
    "route one": conv(6) + route(-2),
    "route absolute": conv(6) + conv(4) + route(0, 1),
    "route four": conv(4) + conv(4) + conv(4) + route(-1, -2, -3, -4),
    "route second half": route(-1, groups=2, group_id=1),
    "route first of four": route(-1, groups=4, group_id=0),
    "route last of three": conv(6) + route(-1, groups=3, group_id=2),
    "shortcut": conv(8, 3) + shortcut(-2),
    "shortcut leaky": conv(8, 3, activation="linear") + shortcut(-2, "leaky"),
    "shortcut relu": conv(8, 3, activation="linear") + shortcut(-2, "relu"),
    "shortcut logistic": conv(8, 3) + shortcut(-2, "logistic"),
    "shortcut absolute": conv(8, 3) + conv(8) + shortcut(1),
    "shortcut of fewer channels": conv(4) + conv(8, 3) + shortcut(-2, "leaky"),
    "shortcut of more channels": conv(4) + shortcut(-2, "leaky"),
    "upsample": section("upsample", stride=2),
    "upsample by 3": section("upsample", stride=3),
    "reorg": section("reorg", stride=2),
    "squeeze and excitation": squeeze_excitation(8, 2),
    "elastic": conv(8, 3) + elastic_block(4, 8),
    "sam": conv(8, activation="logistic") + section("sam", **{"from": -2}),
    "sam leaky": conv(8, activation="linear") + section("sam", **{"from": -2, "activation": "leaky"}),
    "dropout": section("dropout", probability=0.5) + conv(4),
    "cost": section("cost") + conv(4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_opencv(name, tmp_path):
    check(layers(LAYERS[name]), tmp_path, [(16, 20)])


@pytest.mark.parametrize("activation", ["mish", "swish"])
def test_smooth_activations_equal_opencv(activation, tmp_path):
    text = net(32, 24) + conv(8, 3, 2, activation) + conv(8, 3, 1, activation) + shortcut(-2, activation)
    check(text, tmp_path, [(24, 32)], SMOOTH)


@pytest.mark.parametrize(("height", "width"), [(13, 13), (17, 15), (15, 18)])
@pytest.mark.parametrize("pool", [(2, 2), (2, 1), (3, 2), (3, 1), (5, 1)])
def test_pooling_of_odd_maps_equals_opencv(pool, height, width, tmp_path):
    check(layers(maxpool(*pool), width=width, height=height), tmp_path, [(height, width)])


@torch.no_grad()
def test_classifier_logits_and_softmax_equal_opencv(tmp_path):
    text = layers(section("avgpool") + conv(7, activation="linear", bn=0) + section("softmax", groups=1))
    network = load_text(text, tmp_path)
    twin = opencv_twin(network, tmp_path / "net.cfg")
    x = image(16, 20)
    twin.setInput(x.numpy())
    (logits,) = network(x)
    assert logits.shape == (1, 7, 1, 1)
    assert_close(logits, twin.forward("conv_2"), EXACT)
    assert_close(logits.softmax(1), twin.forward(), EXACT)


def opencv_boxes(twin: cv2.dnn.Net, size: tuple[int, int], anchors: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """What OpenCV's region layers decode, in our order (anchor, row, column) and as corners in pixels."""
    height, width = size
    decoded = []
    for out in twin.forward(twin.getUnconnectedOutLayersNames()):
        rows = out.reshape(-1, anchors, out.shape[-1]).transpose(1, 0, 2).reshape(-1, out.shape[-1])
        centre, side = rows[:, :2] * [width, height], rows[:, 2:4] * [width, height]
        decoded.append((np.concatenate([centre - side / 2, centre + side / 2], 1), rows[:, 5:]))
    return decoded


ALL = {"thresh": 0, "nms_threshold": 0}  # OpenCV sets the scores to zero that its own filters would drop

HEADS = {
    "yolo": (24, yolo("0,1,2", "3,5, 8,8, 9,12", classes=3, **ALL)),
    "yolo with scale_x_y": (24, yolo("0,1,2", "3,5, 8,8, 9,12", classes=3, scale_x_y=1.2, **ALL)),
    "yolo with mask": (16, yolo("2,0", "3,5, 8,8, 9,12", classes=3, **ALL)),
    "yolo with new_coords": (24, yolo("0,1,2", "3,5, 8,8, 9,12", classes=3, scale_x_y=2.0, new_coords=1, **ALL)),
    "region": (24, section("region", anchors="1.5,2, 3,3, 2,1", classes=3, num=3, softmax=1, **ALL)),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
@torch.no_grad()
def test_decoded_boxes_equal_opencv(name, height, width, tmp_path):
    filters, head = HEADS[name]
    activation = "logistic" if "new_coords" in head else "linear"
    text = net(width, height) + conv(8, 3, 8) + conv(filters, activation=activation, bn=0) + head
    network = load_text(text, tmp_path)
    twin = opencv_twin(network, tmp_path / "net.cfg")
    x = image(height, width)
    twin.setInput(x.numpy())
    boxes, scores = network.detections(x)
    ((their_boxes, their_scores),) = opencv_boxes(twin, (height, width), filters // 8)
    np.testing.assert_allclose(boxes[0].numpy(), their_boxes, rtol=1e-4, atol=1e-3)
    kept = their_scores > 0
    assert kept.all() or ("[region]" in head and kept.mean() > 0.5)  # OpenCV cannot be kept from filtering [region]
    np.testing.assert_allclose(scores[0].numpy()[kept], their_scores[kept], rtol=1e-4, atol=1e-6)


NETWORKS = {
    "yolov3_tiny_prn": (yolov3_tiny_prn, ["conv_17", "conv_26"], [(64, 64), (96, 160)]),
    "yolov3_tiny": (yolov3_tiny, ["conv_15", "conv_22"], [(64, 64), (96, 160)]),
    "yolov4_tiny": (yolov4_tiny, ["conv_29", "conv_36"], [(64, 64), (160, 96)]),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_raw_tensors_of_detectors_equal_opencv(name, tmp_path):
    build, names, sizes = NETWORKS[name]
    for height, width in sizes:
        network = load_text(build(width, height), tmp_path)
        twin = opencv_twin(network, tmp_path / "net.cfg")
        x = image(height, width)
        twin.setInput(x.numpy())
        for ours, theirs in zip(network(x), twin.forward(names), strict=True):
            assert_close(ours, theirs, EXACT)


@pytest.mark.parametrize(
    ("build", "depth"),
    [(darknet53, 38), (cspdarknet53, 55), (cspresnet50, 39), (cspresnext50, 20)],
    ids=["darknet53", "cspdarknet53", "cspresnet50", "cspresnext50"],
)
def test_backbones_equal_opencv(build, depth, tmp_path):
    sections = build(64).split("\n\n")
    check("\n\n".join(sections[: depth + 1]), tmp_path, [(64, 64), (96, 64)])


@torch.no_grad()
def test_panet_with_spatial_pyramid_equals_opencv(tmp_path):
    network = load_text(panet_spp_neck(64), tmp_path)
    twin = opencv_twin(network, tmp_path / "net.cfg")
    x = image(64, 64)
    twin.setInput(x.numpy())
    names = [f"conv_{index - 1}" for index in network.outputs]
    for ours, theirs in zip(network(x), twin.forward(names), strict=True):
        assert_close(ours, theirs, EXACT)


@pytest.mark.parametrize(("height", "width"), [(416, 416), (320, 416)])
@torch.no_grad()
def test_real_yolov4_tiny_on_a_real_photo_equals_opencv(height, width, shared, tmp_path):
    photo = cv2.imread(str(Path(__file__).parents[2] / "examples" / "photos" / "000000007281.jpg"))
    blob = cv2.dnn.blobFromImage(photo, 1 / 255, (width, height), swapRB=True)
    (tmp_path / "net.cfg").write_text(yolov4_tiny(width, height))
    network = darknet.load(tmp_path / "net.cfg", shared / "weights" / "yolov4-tiny.weights")
    twin = opencv_twin(network, tmp_path / "net.cfg")
    twin.setInput(blob)
    for ours, theirs in zip(network(torch.from_numpy(blob)), twin.forward(["conv_29", "conv_36"]), strict=True):
        assert_close(ours, theirs, EXACT)
    boxes, scores = network.detections(torch.from_numpy(blob))
    decoded = opencv_boxes(twin, (height, width), 3)
    their_boxes, their_scores = (np.concatenate(parts) for parts in zip(*decoded, strict=True))
    sure = their_scores.max(1) > 0.25
    assert sure.sum() >= 5
    np.testing.assert_allclose(boxes[0].numpy()[sure], their_boxes[sure], rtol=1e-3, atol=0.02)
    np.testing.assert_allclose(scores[0].numpy().max(1)[sure], their_scores.max(1)[sure], rtol=1e-3)


def test_the_cfg_in_the_examples_is_yolov4_tiny():
    text = (Path(__file__).parents[2] / "examples" / "darknet" / "yolov4-tiny.cfg").read_text()
    sections = darknet.cfg.parse_cfg(text)
    expected = darknet.cfg.parse_cfg(yolov4_tiny())
    assert [(s.kind, _said(s)) for s in sections] == [(s.kind, _said(s)) for s in expected]
    assert ANCHORS_TINY.replace(" ", "") in text.replace(" ", "")


def _said(section: darknet.cfg.Section) -> dict[str, str]:
    """What a section says beyond the defaults that the reader would use anyway."""
    said = {key: option.text for key, option in section.options.items()}
    return {key: value for key, value in said.items() if (key, value) not in {("stride", "1"), ("pad", "1")}}
