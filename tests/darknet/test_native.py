"""Native models and networks read from Darknet's files: the same weights give the same outputs."""

import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from crossstage import darknet
from crossstage.darknet.detector import load_darknet_detector
from crossstage.darknet.weights import module_slots, read_into
from crossstage.darknet.writer import write_darknet
from crossstage.errors import ConfigError, WeightsError
from crossstage.inference.images import load_image
from crossstage.inference.preprocessing import prepare
from crossstage.nn import ConvNormAct, ConvStyle
from crossstage.ops.nms import NMS
from crossstage.structures import Preprocessing
from crossstage.weights.from_darknet import load_darknet
from crossstage.weights.loading import create_model, load, load_detector
from tests.darknet import nets
from tests.darknet.nets import conv, drawn, load_text, net, undrawn, yolo, yolov4_tiny
from tests.darknet.test_opencv import opencv_twin
from tests.sweep import kind_of_model, sweep

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"


@torch.no_grad()
def test_yolov4_tiny_with_real_weights_on_a_real_photo(shared, tmp_path):
    weights = shared / "weights" / "yolov4-tiny.weights"
    (tmp_path / "net.cfg").write_text(yolov4_tiny())
    read = darknet.load(tmp_path / "net.cfg", weights)
    native = undrawn(lambda: create_model("cspdarknet53_tiny_yolo"))
    assert load_darknet(native, "cspdarknet53_tiny_yolo", weights).exact
    tensor, _ = prepare(load_image(PHOTOS / "000000009483.jpg"), Preprocessing((416, 416)))
    x = tensor.unsqueeze(0)
    deep, shallow = read(x)
    raw = native(x)
    for ours, theirs in zip(raw.values(), (shallow, deep), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    boxes, scores = native.decode(raw, (416, 416))
    their_boxes, their_scores = read.detections(x)
    count = shallow.shape[2] * shallow.shape[3] * 3
    torch.testing.assert_close(boxes, torch.cat([their_boxes[:, -count:], their_boxes[:, :-count]], 1))
    torch.testing.assert_close(scores, torch.cat([their_scores[:, -count:], their_scores[:, :-count]], 1))


RELEASED = {
    "darknet_reference": nets.darknet_reference,
    "darknet53": nets.darknet53,
    "cspdarknet53": nets.cspdarknet53,
    "cspdarknet53_s": partial(nets.cspdarknet53, first="plain"),
    "cspdarknet53_m": partial(nets.cspdarknet53, first="half"),
    "cspdarknet53_elastic": nets.cspdarknet53_elastic,
    "resnet10": nets.resnet10,
    "resnet50": nets.resnet50,
    "resnext50": nets.resnext50,
    "cspresnet50": nets.cspresnet50,
    "cspresnet50c": partial(nets.cspresnet50, narrow_first=False),
    "cspresnet50_elastic": partial(nets.cspresnet50, narrow_first=False, elastic=True),
    "cspresnext50": nets.cspresnext50,
    "cspresnext50c": partial(nets.cspresnext50, narrow_first=False),
    "cspresnext50_elastic": partial(nets.cspresnext50, narrow_first=False, elastic=True),
    "mobilenetv2": nets.mobilenetv2,
    "cspmobilenetv2": nets.cspmobilenetv2,
}


@pytest.mark.parametrize("name", sweep(RELEASED, lambda name: getattr(RELEASED[name], "func", RELEASED[name])))
@torch.no_grad()
def test_classifiers_take_the_weights_of_the_released_topology(name, tmp_path):
    read = load_text(RELEASED[name](64), tmp_path)
    darknet.save_weights(read, tmp_path / "net.weights")
    native = undrawn(lambda: create_model(name))
    load_darknet(native, name, tmp_path / "net.weights")
    x = torch.rand(2, 3, 64, 128)
    logits = read(x)[-1]
    logits = logits.mean((2, 3)) if logits.dim() == 4 else logits
    torch.testing.assert_close(native(x), logits.flatten(1), rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


DETECTORS = {
    "yolov3": nets.yolov3,
    "yolov3_spp": partial(nets.yolov3, spp=True),
    "yolov3_tiny": nets.yolov3_tiny,
    "yolov3_tiny_prn": nets.yolov3_tiny_prn,
    "yolov4": nets.yolov4,
    "cspdarknet53_panet_spp": lambda width: nets.panet_spp(nets.cspdarknet53(width), (54, 85)),
    "cspresnet50_panet_spp": lambda width: nets.panet_spp(nets.cspresnet50(width), (38, 65)),
    "cspresnext50_panet_spp": lambda width: nets.panet_spp(nets.cspresnext50(width), (38, 65)),
}


@pytest.mark.parametrize("name", sweep(DETECTORS, kind_of_model))
@torch.no_grad()
def test_detectors_take_the_weights_of_the_released_topology(name, tmp_path):
    """Outputs equal our reader's and OpenCV's."""
    read = load_text(DETECTORS[name](64), tmp_path)
    x = torch.rand(1, 3, 64, 64)
    largest = max(float(tensor.abs().max()) for tensor in read(x))
    for head in (module for module in read.modules() if isinstance(module, nn.Conv2d) and module.bias is not None):
        head.weight *= 3 / largest  # or sizes, which are exponentials, would leave the range of numbers
    twin = opencv_twin(read, tmp_path / "net.cfg")
    darknet.save_weights(read, tmp_path / "net.weights")
    native = undrawn(lambda: create_model(name))
    load_darknet(native, name, tmp_path / "net.weights")
    raw = native(x)
    for ours, theirs in zip(raw.values(), sorted(read(x), key=lambda tensor: -tensor.shape[2]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    boxes, scores = native.decode(raw, (64, 64))
    twin.setInput(x.numpy())
    outputs = [torch.from_numpy(out) for out in twin.forward(twin.getUnconnectedOutLayersNames())]
    found = sorted(outputs, key=len, reverse=True)  # x, y, w, h in shares of the input, objectness, scores
    at = 0
    for theirs, level, tensor in zip(found, native.head.levels, raw.values(), strict=True):
        mine = slice(at, at + len(theirs))
        at += len(theirs)
        shape = (len(level.anchors), *tensor.shape[2:], -1)  # OpenCV's anchors are innermost
        ours = [t[0, mine].view(shape).permute(1, 2, 0, 3).flatten(0, 2) for t in (boxes, scores)]
        kept = theirs[:, 5:] > 0  # OpenCV leaves out scores below a threshold
        assert kept.any()
        centre, half = theirs[:, :2], theirs[:, 2:4] / 2
        torch.testing.assert_close(ours[0] / 64, torch.cat([centre - half, centre + half], 1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours[1][kept], theirs[:, 5:][kept], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("photo", sorted(PHOTOS.glob("*.jpg")), ids=lambda path: path.stem)
@torch.no_grad()
def test_yolov3_tiny_with_real_weights_finds_what_opencv_finds(photo, yolov3_tiny_weights, tmp_path):
    (tmp_path / "net.cfg").write_text(nets.yolov3_tiny())
    twin = opencv_twin(darknet.load(tmp_path / "net.cfg", yolov3_tiny_weights), tmp_path / "net.cfg")
    native = undrawn(lambda: create_model("yolov3_tiny"))
    load_darknet(native, "yolov3_tiny", yolov3_tiny_weights)
    x = prepare(load_image(photo), Preprocessing((416, 416)))[0].unsqueeze(0)
    (found,) = native.detect(native(x), (416, 416), NMS(0.3, 0.45))
    twin.setInput(x.numpy())
    rows = np.concatenate(twin.forward(twin.getUnconnectedOutLayersNames()))
    candidates, classes = (rows[:, 5:] > 0.3).nonzero()
    scores = rows[candidates, 5 + classes]
    boxes = rows[candidates, :4] * 416
    boxes[:, :2] -= boxes[:, 2:] / 2
    kept = cv2.dnn.NMSBoxesBatched(boxes, scores, classes, 0.3, 0.45)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    assert len(kept) > 0 and found.class_ids.tolist() == classes[kept].tolist()
    np.testing.assert_allclose(found.scores, scores[kept], atol=1e-4)
    boxes[:, 2:] += boxes[:, :2]
    np.testing.assert_allclose(found.boxes_xyxy, boxes[kept], atol=0.01)  # of 416 pixels


def test_omega_networks_are_the_same_graphs_with_mish(tmp_path):
    text = nets.cspresnet50(64).replace("activation=leaky", "activation=mish")
    read = load_text(text, tmp_path)
    darknet.save_weights(read, tmp_path / "net.weights")
    native = undrawn(lambda: create_model("cspresnet50", act="mish"))
    load_darknet(native, "cspresnet50", tmp_path / "net.weights")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (logits,) = read(x)
        torch.testing.assert_close(native(x), logits.flatten(1), rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


def test_group_norm_has_no_place_in_a_darknet_file(tmp_path):
    (tmp_path / "net.weights").write_bytes(b"")
    with torch.device("meta"):
        grouped = create_model("darknet53", norm="group")
    with pytest.raises(ConfigError, match=r"backbone\.stem\.0 is normalised by GroupNorm"):
        load_darknet(grouped, "darknet53", tmp_path / "net.weights")


@pytest.mark.parametrize(("norm", "bn"), [("frozen", 1), ("none", 0)])
def test_a_frozen_norm_is_stored_as_batch_norm_and_without_norm_there_are_biases(norm, bn, tmp_path):
    read = load_text(net(16) + conv(4, 3, bn=bn) + conv(6, bn=bn), tmp_path)
    darknet.save_weights(read, tmp_path / "net.weights")
    style = ConvStyle(norm=norm)
    native = undrawn(lambda: nn.Sequential(ConvNormAct(3, 4, 3, style=style), ConvNormAct(4, 6, style=style)))
    assert read_into(tmp_path / "net.weights", module_slots([("native", native)])).exact
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(native(x), read(x)[0])


@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
def test_every_norm_but_groups_is_written_as_darknets(norm, tmp_path):
    style = ConvStyle(norm=norm)
    model = drawn(lambda: nn.Sequential(ConvNormAct(3, 4, 3, 2, style=style), ConvNormAct(4, 6, style=style))).eval()
    x = torch.rand(1, 3, 16, 16)
    write_darknet(torch.export.export(model, (x,)), tmp_path / "net.cfg", name="a test", size=(16, 16))
    with torch.no_grad():
        (read,) = darknet.load(tmp_path / "net.cfg", tmp_path / "net.weights")(x)
        torch.testing.assert_close(read, model(x))


@pytest.fixture
def files(shared, tmp_path) -> Path:
    """YOLOv4-tiny's three files side by side, as Darknet's users have them."""
    (tmp_path / "mine.cfg").write_text(yolov4_tiny())
    shutil.copy(shared / "weights" / "yolov4-tiny.weights", tmp_path / "mine.weights")
    shutil.copy(shared / "weights" / "coco.names", tmp_path / "mine.names")
    return tmp_path / "mine.cfg"


def test_a_cfg_with_its_weights_beside_it_predicts_like_the_native_model(files):
    options = {"conf": 0.3, "imgsz": 320}
    (ours,) = load(files).predict(PHOTOS / "000000009483.jpg", **options)
    (theirs,) = load("cspdarknet53_tiny_yolo.coco").predict(PHOTOS / "000000009483.jpg", **options)
    assert sorted(ours.data["class_name"]) == sorted(theirs.data["class_name"]) and len(ours) > 2
    torch.testing.assert_close(torch.tensor(ours.xyxy), torch.tensor(theirs.xyxy), rtol=0, atol=1.0)


def test_names_are_optional_and_counted(files):
    files.with_suffix(".names").unlink()
    assert load_detector(files).class_names[:2] == ("0", "1")
    files.with_suffix(".names").write_text("cat\ndog\n")
    with pytest.raises(ConfigError, match="2 class names for a network with 80 classes"):
        load(files)
    files.with_suffix(".names").write_bytes(b"\xff\xfa")
    with pytest.raises(ConfigError, match=r"mine\.names:1: byte 1 \(0xff\) is no UTF-8; expected a class name"):
        load(files)
    with pytest.raises(WeightsError, match=r"other\.weights: cannot be read"):
        load_darknet_detector(files, files.with_name("other.weights"))


def test_a_letterboxed_network_keeps_the_aspect(tmp_path):
    text = net(64, 32).replace("channels=3", "channels=3\nletter_box=1")
    text += conv(8, 3, 32) + conv(7, activation="linear", bn=0) + yolo("0", "20,20", classes=2)
    darknet.save_weights(load_text(text, tmp_path), tmp_path / "net.weights")
    detector = load(tmp_path / "net.cfg")
    assert detector.preprocessing.size == (32, 64) and detector.preprocessing.resize == "letterbox"
    assert detector.size_divisor == 32
    (found,) = detector.predict(Image.new("RGB", (50, 50)), conf=0.0, imgsz=(64, 128))
    assert found.xyxy.min() >= 0 and found.xyxy.max() <= 50


def test_a_network_without_boxes_is_no_detector(tmp_path):
    darknet.save_weights(load_text(net(8) + conv(3), tmp_path), tmp_path / "net.weights")
    with pytest.raises(ConfigError, match=r"no \[yolo\], \[region\] or other box layer"):
        load(tmp_path / "net.cfg")
