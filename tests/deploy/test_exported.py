"""Exported files opened: as a user would, and as an enemy would."""

import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from crossstage import ConfigError, CrossStageError, WeightsError
from crossstage.deploy.backends.base import KEY
from crossstage.deploy.exported import open_exported
from crossstage.deploy.header import ExportHeader, StoredHead
from crossstage.deploy.reading import is_exported, read_header
from crossstage.deploy.sessions import start
from crossstage.errors import ExportError
from crossstage.models.heads.yolo import YoloConfig
from crossstage.ops.nms import NMS
from crossstage.ops.priors import AnchorLevel
from crossstage.structures import Preprocessing

HEAD = StoredHead(YoloConfig(levels=(AnchorLevel(32, ((1.0, 2.0),), 1.05),)), (1,), (32,), 2)
HEADER = ExportHeader("x", "detect", "raw", 32, Preprocessing((64, 96)), ("ä", "b"), head=HEAD)


@pytest.fixture(scope="module")
def small() -> Path:
    """A detector of two classes at 64 x 64, which version 0.1.0 exported."""
    return Path(__file__).parents[1] / "fixtures" / "v0.1.0" / "exports" / "detector.onnx"


def identity(metadata: dict[str, str]) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 96]) for name in ("images", "stride32")]
    node = helper.make_node("Identity", ["images"], ["stride32"])
    model = helper.make_model(helper.make_graph([node], "g", value[:1], value[1:]), ir_version=8)
    model.opset_import[0].version = 18
    helper.set_model_props(model, metadata)
    return model


def test_a_header_survives_its_file():
    assert ExportHeader.from_json(HEADER.to_json(), "x") == HEADER


def test_a_header_is_read_without_the_graph(tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(identity({"author": "someone", KEY: HEADER.to_json()}).SerializeToString())
    assert read_header(path) == HEADER


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (identity({}).SerializeToString(), "expected a file of `crossstage export`"),
        (identity({KEY: "{}"}).SerializeToString(), "does not describe a crossstage model"),
        (identity({KEY: HEADER.to_json().replace('"format":2', '"format":9')}).SerializeToString(), "format 9"),
        (identity({KEY: HEADER.to_json().replace('"raw"', '"cooked"')}).SerializeToString(), "cooked"),
        (identity({KEY: "[" * 100_000}).SerializeToString(), "does not describe"),
        (b"", "expected a file of"),
        (b"\xff" * 40, "not an ONNX file"),
        (b"\x3a\xff\xff\xff\xff\x7f", "reaches beyond its end"),
        (b"\x08\x01" * 20_000, "more than 10,000 fields"),
        (b"PK\x03\x04 a zip file", "not an ONNX file"),
    ],
)
def test_a_file_that_is_not_ours_is_told_apart(content, told, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=told):
        open_exported(path)


def xml(header: str) -> bytes:
    """What OpenVINO writes, but for the graph."""
    net = ElementTree.Element("net", name="x", version="11")
    ElementTree.SubElement(ElementTree.SubElement(net, "layers"), "layer", id="0", name="images", type="Parameter")
    ElementTree.SubElement(ElementTree.SubElement(net, "rt_info"), KEY, value=header)
    return ElementTree.tostring(net)


def test_openvinos_header_is_read_without_openvino(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "x.xml").write_bytes(xml(HEADER.to_json()))
    assert read_header(tmp_path / "x.xml") == HEADER


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not an OpenVINO file"),
        (b"<net>" * 100_000, "not an OpenVINO file"),
        (b"<net><rt_info/></net>", "expected a file of"),
        (xml("[" * 100_000), "does not describe"),
        (xml(HEADER.to_json()).replace(b"rt_info", b"info"), "expected a file of"),
        (b'<!DOCTYPE net [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><net>&b;</net>', "defines entities"),
        (b"<net>\xff</net>", "not an OpenVINO file"),
    ],
)
def test_an_openvino_file_that_is_not_ours_is_told_apart(content, told, tmp_path):
    path = tmp_path / "model.xml"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=told):
        open_exported(tmp_path)


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_damaged_files_end_in_our_errors(suffix, tmp_path):
    header = HEADER.to_json()
    content = xml(header) if suffix == ".xml" else identity({KEY: header}).SerializeToString()
    chance = random.Random(0)
    path = tmp_path / f"x{suffix}"
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.randint(1, len(damaged))])
        try:
            read_header(path)
        except WeightsError as error:
            assert str(path) in str(error)


def test_a_header_that_lies_ends_in_our_error(small, tmp_path):
    model = onnx.load(str(small))
    header = read_header(small)
    lies = [
        header.to_json().replace('"stride":16', '"stride":8'),
        header.to_json().replace('"raw"', '"boxes"'),
        header.to_json().replace("[8.5,9.0],", ""),
    ]
    for lie in lies:
        assert lie != header.to_json()
        helper.set_model_props(model, {KEY: lie})
        onnx.save(model, str(tmp_path / "lie.onnx"))
        with pytest.raises(CrossStageError):
            detector = open_exported(tmp_path / "lie.onnx", "onnxruntime")
            detector.detect(detector(torch.zeros(1, 3, 64, 64)), (64, 64))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "opencv"])
def test_a_runtime_that_cannot_load_a_file_says_so(runtime, tmp_path):
    model = identity({KEY: HEADER.to_json()})
    model.graph.node[0].op_type = "Teleport"
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=f"x.onnx: {runtime} cannot load it"):
        open_exported(path, runtime)


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 96, 64)])
def test_another_input_than_the_file_takes_is_refused(small, shape):
    with pytest.raises(ConfigError, match=r"takes 1 x 3 x 64 x 64, not .*--dynamic"):
        open_exported(small)(torch.zeros(shape))


def test_what_a_runtime_lacks_is_refused(small, tmp_path):
    with pytest.raises(ConfigError, match="onnxruntime has no bf16"):
        open_exported(small, "onnxruntime", precision="bf16")
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(ConfigError, match=r"opencv does not read .*model.xml"):
        start(tmp_path / "model.xml", "opencv", [])
    with pytest.raises(WeightsError, match=r"model.xml: says nothing of classes"):
        open_exported(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        open_exported(tmp_path / "absent.onnx")


def test_a_missing_runtime_is_named(small, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="no runtime is installed that reads it"):
        open_exported(small)
    with pytest.raises(ConfigError, match=r"pip install 'crossstage\[export\]'"):
        open_exported(small, "onnxruntime")


def test_exported_files_are_known_by_their_names(small, tmp_path):
    assert is_exported(small) and not is_exported(tmp_path) and not is_exported("cspdarknet53_tiny_yolo.coco")


def changed(**parts) -> str:
    """The header with other values; those of ``head`` and ``row`` inside of it."""
    content = json.loads(HEADER.to_json())
    row = content["head"]["row"]["YoloConfig"]
    row |= parts.pop("row", {})
    if isinstance(parts.get("head"), dict):
        content["head"] |= parts.pop("head")
    return json.dumps(content | parts)


LEVEL = {"AnchorLevel": {"stride": 32, "anchors": [[1.0, 2.0]], "scale_x_y": 1.0}}
DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "text",
    [
        changed(head={"channels": [10**9]}),
        changed(head={"channels": [10**30]}),
        changed(head={"channels": [-1]}),
        changed(head={"channels": [True]}),
        changed(head={"channels": ["1"]}),
        changed(head={"channels": "1"}),
        changed(head={"channels": [1] * 10_000, "strides": [32] * 10_000}),
        changed(head={"channels": []}),
        changed(head={"strides": [0]}),
        changed(head={"strides": [16, 32]}),
        changed(head={"num_classes": 10**12}),
        changed(head={"num_classes": 3}),
        changed(head={"num_classes": None}),
        changed(head={"row": None}),
        changed(head={"row": {"Path": {"0": "/etc/passwd"}}}),
        changed(head={"row": {"Partial": {}}}),
        changed(head={"row": {"YoloConfig": {"levels": [LEVEL], "color": 1}}}),
        changed(head={"row": {"YoloConfig": {}, "Partial": {}}}),
        changed(head={"row": DEEP}),
        changed(row={"levels": 5}),
        changed(row={"levels": "wide"}),
        changed(row={"levels": [[]]}),
        changed(row={"levels": DEEP}),
        changed(row={"levels": [LEVEL] * 5_000}),
        changed(row={"levels": [{"AnchorLevel": {"stride": 10**9, "anchors": [[1, 2]], "scale_x_y": 1.0}}]}),
        changed(row={"loss": {"YoloLossConfig": {"box_gain": float("inf")}}}),
        changed(head="a head"),
        changed(size_divisor=0),
        changed(size_divisor=1e400),
        changed(size_divisor=10**9),
        changed(batch=-3),
        changed(batch=[1]),
        changed(preprocessing={"size": [10**9, 10**9], "resize": "stretch"}),
        changed(preprocessing={"size": [0, 64], "resize": "stretch"}),
        changed(preprocessing={"size": [64], "resize": "stretch"}),
        changed(preprocessing="stretched"),
        changed(class_names=7),
        changed(class_names=None),
        changed(nms={"score": 0.1, "iou": 0.5, "kind": "iou", "max_detections": 300}),
        changed(outputs="detections"),
        changed(outputs="detections", head=None, nms={"score": 7, "iou": 0.5, "kind": "iou", "max_detections": 300}),
        changed(outputs="detections", head=None, nms={"score": 0.1, "iou": 0.5, "kind": "soft", "max_detections": 1}),
        changed(outputs="boxes"),
        changed(task="steal"),
        changed(format="2"),
        changed(format=None),
        "{}",
        "7",
        "null",
        '"format"',
        '{"format": 1}',
        '{"format": 1, "levels": [{}], "class_names": []}',
    ],
)
def test_a_hostile_header_ends_in_our_error_at_once(text):
    begun = time.perf_counter()
    with pytest.raises(WeightsError, match=r"there\.onnx: "):
        ExportHeader.from_json(text, "there.onnx")
    assert time.perf_counter() - begun < 2


def test_suppression_and_heads_survive_their_file():
    nms = NMS(0.125, 0.5, "iou", 7)
    for header in (HEADER, replace(HEADER, outputs="detections", head=None, nms=nms)):
        assert ExportHeader.from_json(header.to_json(), "x") == header
