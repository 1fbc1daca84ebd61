"""Exported files: they compute what the model does, say what they are, and are written whole or not at all."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import openvino
import pytest
import torch

import crossstage
from crossstage import ConfigError, ExportError
from crossstage.cli import main, names
from crossstage.deploy.backends import BACKENDS, formats
from crossstage.deploy.export import export
from crossstage.deploy.exported import open_exported
from crossstage.deploy.reading import read_header
from crossstage.deploy.sessions import installed
from crossstage.errors import DataError
from crossstage.evaluation import evaluate
from crossstage.inference.images import load_image
from crossstage.inference.preprocessing import prepare
from crossstage.models.backbones import BACKBONES
from crossstage.models.detector import Detector
from crossstage.models.spec import ModelSpec
from crossstage.nn.pooling import Maxout
from crossstage.nn.residual import Elastic
from crossstage.ops.nms import NMS
from crossstage.structures import Preprocessing
from crossstage.weights.from_darknet import convert_darknet
from crossstage.weights.model_file import write_model
from research.pages import formats as formats_page
from tests.darknet.nets import randomize
from tests.sweep import sweep

PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
PHOTO_SIZE = (416, 416)
COLOURS = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))  # mean and deviation


@pytest.fixture(scope="module")
def tiny() -> Detector:
    model = crossstage.load("cspdarknet53_tiny_yolo.coco")
    assert isinstance(model, Detector)
    return model


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    pixels = load_image(PHOTOS / "000000009483.jpg")
    return prepare(pixels, Preprocessing((416, 416)))[0].unsqueeze(0)


@pytest.fixture(scope="module")
def tiny_onnx(tiny, tmp_path_factory) -> Path:
    return export(tiny, "tiny", "onnx", tmp_path_factory.mktemp("onnx") / "tiny.onnx").path


@pytest.mark.parametrize("format", formats())
def test_every_format_computes_what_the_model_does(tiny, format, tmp_path):
    done = export(tiny, "tiny", format, tmp_path / f"x{formats()[format].suffix}", imgsz=96)
    assert done.difference is not None and done.difference < 1e-5
    assert set(tmp_path.iterdir()) == ({done.path} if formats()[format].graph else set(done.files))


def test_the_onnx_file_agrees_with_opencv_on_darknets_own_files(photo, shared, tmp_path):
    """The oracle knows neither PyTorch nor this package: OpenCV reads Darknet's cfg and weights."""
    cfg, weights = PHOTOS.parent / "darknet" / "yolov4-tiny.cfg", shared / "weights" / "yolov4-tiny.weights"
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    net.setInput(photo.numpy())
    wanted = {array.shape: array for array in net.forward(["conv_36", "conv_29"])}  # what enters the output layers
    names = shared / "weights" / "coco.names"
    told = {"model": "cspdarknet53_tiny_yolo", "names": names, "source": "-", "licence": "-", "trained_on": "-"}
    convert_darknet(weights, tmp_path / "full.safetensors", half=False, **told)
    path = export(crossstage.load(tmp_path / "full.safetensors"), "x", "onnx", tmp_path / "x.onnx").path
    for runtime in ("onnxruntime", "openvino", "opencv"):
        for tensor in open_exported(path, runtime)(photo):
            np.testing.assert_allclose(tensor.numpy(), wanted[tuple(tensor.shape)], rtol=1e-4, atol=5e-3)


def test_a_classifier_gives_the_same_logits(tmp_path):
    model = randomize(crossstage.create_model("resnet10", num_classes=7)).eval()
    path = export(model, "x", "onnx", tmp_path / "x.onnx", imgsz=64).path
    images = torch.rand(1, 3, 64, 64)
    for runtime in ("onnxruntime", "openvino", "opencv"):
        with torch.inference_mode():
            torch.testing.assert_close(open_exported(path, runtime)(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("format", sweep(["onnx", "openvino"], bool))
def test_a_trained_classifiers_file_predicts_with_nothing_else(format, colours, tmp_path, capsys):
    """Class names, crop, mean and deviation come from the file: on other pixels the probabilities would differ."""
    spec = ModelSpec("resnet10", 3, ("red", "green", "blue"), {}, Preprocessing((64, 96), "crop", *COLOURS))
    model = randomize(crossstage.create_model("resnet10", num_classes=3))
    model.fc.weight.data *= 0.05  # so that no class has all of the probability
    (tmp_path / "run").mkdir()
    write_model(tmp_path / "run" / "best.safetensors", model.state_dict(), spec)  # as a training leaves it
    out = tmp_path / f"x{formats()[format].suffix}"
    assert main(["export", str(tmp_path / "run"), "--format", format, "--out", str(out)]) == 0
    assert ("opset 18" in capsys.readouterr().out) == (format == "onnx")
    told = []
    for name in (tmp_path / "run", out):
        assert main(["predict", str(PHOTOS), "--model", str(name), "--json", str(tmp_path / "x.jsonl")]) == 0
        told.append([json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()])
        assert main(["val", "--model", str(name), "--data", str(colours), "--json", str(tmp_path / "x.json")]) == 0
        told[-1].append(json.loads((tmp_path / "x.json").read_text())["top1"])
    *own, top1 = told[0]
    assert top1 == told[1].pop() and len(own) == len(told[1]) > 1
    for here, there in zip(own, told[1], strict=True):
        assert [row["class_name"] for row in here["classes"]] == [row["class_name"] for row in there["classes"]]
        found, wanted = ([row["probability"] for row in side["classes"]] for side in (here, there))
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", crossstage.list_models())
def test_every_model_computes_the_same_in_every_runtime(name):
    found = formats_page.measure(name, "onnx", None)
    assert set(found) in (set(formats_page.RUNTIMES), {"onnxruntime"})  # of a detector of two stages the latter
    if name not in BACKBONES and isinstance(found.get("opencv"), str):  # its importer lacks operations of some heads
        del found["opencv"]
    assert all(isinstance(difference, float) and difference < 1e-4 for difference in found.values()), found


def test_hard_sigmoids_are_spelled_out_for_opencv(tmp_path):
    """OpenCV 4 refuses, and 5 miscomputes, a gate ``y * HardSigmoid(x)`` as if it were a hard swish of x."""
    model = randomize(crossstage.create_model("vovnet19_slim_v2", num_classes=7)).eval()
    path = export(model, "x", "onnx", tmp_path / "x.onnx", imgsz=64).path
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert "HardSigmoid" not in kinds and kinds.count("Clip") == 4  # one for each module
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(open_exported(path, "opencv")(images), model(images), rtol=1e-4, atol=1e-4)


def test_ncnn_gets_what_its_converter_can_read(tmp_path):
    """pnnx crashes at maps enlarged to another's size, and ncnn has no steps in slices and no infinity."""
    model = randomize(crossstage.create_model("resnet18", num_classes=3)).eval()
    half, widen = torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.Conv2d(24, 64, 1)
    further = (Elastic(half, torch.nn.Identity()), Maxout(24), widen)
    model.backbone.stages[0] = torch.nn.Sequential(model.backbone.stages[0], *further)
    done = export(model, "x", "ncnn", tmp_path / "x", imgsz=64)
    assert done.difference is not None and done.difference < 1e-4


def test_what_ncnn_lacks_is_refused_by_name(tmp_path):
    model = crossstage.create_model("resnet18", num_classes=3).eval()
    model.backbone.stages[0] = torch.nn.Sequential(model.backbone.stages[0], Sorted())
    with pytest.raises(ExportError, match=r"x cannot be written as ncnn, which has no .*sort"):
        export(model, "x", "ncnn", tmp_path / "x", imgsz=64)
    assert list(tmp_path.iterdir()) == []


class Sorted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(dim=1).values


def test_the_command_line_knows_every_format():
    assert names.export_formats() == list(formats())


def test_a_dynamic_file_takes_any_number_of_images_of_any_size(tiny, tmp_path):
    path = export(tiny, "x", "onnx", tmp_path / "x.onnx", imgsz=96, dynamic=True).path
    for runtime in ("onnxruntime", "openvino"):
        model = open_exported(path, runtime)
        for shape in [(1, 3, 96, 96), (3, 3, 64, 160)]:
            images = torch.rand(shape)
            with torch.inference_mode():
                for found, wanted in zip(model(images), tiny(images).values(), strict=True):
                    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_half_stores_half_the_bytes(tiny, tiny_onnx, tmp_path):
    for format in ("onnx", "openvino", "ncnn"):
        done = export(tiny, "x", format, tmp_path / f"x{formats()[format].suffix}", half=True)
        files = [done.path] if done.path.is_file() else done.path.iterdir()
        assert sum(file.stat().st_size for file in files) < 0.52 * tiny_onnx.stat().st_size
        assert done.difference is not None and 0 < done.difference < 0.02


@pytest.mark.parametrize("format", sweep(["onnx", "openvino"], bool))
def test_suppression_inside_the_graph_finds_the_same(tiny, photo, format, tmp_path):
    path = export(tiny, "x", format, tmp_path / f"x{formats()[format].suffix}", nms=NMS(0.3, 0.5)).path
    with torch.inference_mode():
        (wanted,) = tiny.detect(tiny(photo), PHOTO_SIZE, NMS(0.3, 0.5))
    assert len(wanted.scores) > 2
    for runtime in installed(path / "model.xml" if path.is_dir() else path):
        if runtime == "opencv":  # reads no suppression
            continue
        model = open_exported(path, runtime)
        (found,) = model.detect(model(photo), PHOTO_SIZE, NMS(0.3, 0.5))
        assert found.class_ids.tolist() == wanted.class_ids.tolist()
        torch.testing.assert_close(found.boxes_xyxy, wanted.boxes_xyxy, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-4)
        (higher,) = model.detect(model(photo), PHOTO_SIZE, NMS(0.6, 0.5))
        assert higher.scores.tolist() == [score for score in found.scores.tolist() if score > 0.6]
        with pytest.raises(ConfigError, match=r"conf 0.3 and iou 0.5.*without --nms"):
            model.detect(model(photo), PHOTO_SIZE, NMS(0.1, 0.5))


def test_the_file_says_what_it_is_and_nothing_of_this_machine(tiny, tiny_onnx):
    model = open_exported(tiny_onnx)
    assert model.class_names == tiny.class_names
    assert model.preprocessing == tiny.preprocessing
    assert model.header.output_names == ["stride16", "stride32"]
    graph = onnx.load(str(tiny_onnx))
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [18]
    assert [value.name for value in graph.graph.output] == ["stride16", "stride32"]
    content = tiny_onnx.read_bytes()
    for trace in (b"site-packages", str(Path.home()).encode() + b"/", b"crossstage/nn", b"stack_trace"):
        assert trace not in content


def test_an_openvino_folder_says_the_same(tiny, tmp_path):
    path = export(tiny, "x", "openvino", tmp_path / "x", imgsz=96).path
    assert sorted(file.name for file in path.iterdir()) == ["model.bin", "model.xml"]
    model = open_exported(path)
    assert model.class_names == tiny.class_names and model.preprocessing is not None
    assert model.preprocessing.size == (96, 96)


@pytest.mark.parametrize("format", sweep(["openvino", "onnx"], bool))
def test_int8_runs_in_int8(tiny, format, tmp_path):
    path = export(tiny, "x", format, tmp_path / f"x{formats()[format].suffix}", imgsz=96, calib=PHOTOS).path
    if format == "onnx":
        graph = onnx.load(str(path)).graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("QuantizeLinear") > 15
        makers = {output: node.op_type for node in graph.node for output in node.output}
        assert {makers[value.name] for value in graph.output} == {"Conv"}  # those that predict are in float
    else:
        operations = openvino.Core().read_model(str(path / "model.xml")).get_ops()
        assert sum(operation.get_type_name() == "FakeQuantize" for operation in operations) > 15


def dot_products_do_not_saturate() -> bool:
    """Whether the processor adds int8 products in 32 bits; older ones add pairs in 16, where ONNX Runtime saturates."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text().split() if info.is_file() else []
    return not {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}.isdisjoint(flags)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_loses_at_most_a_point_of_ap50(tiny, coco256, format, tmp_path):
    """Calibrated on the training part, measured on the other."""
    if format == "onnx" and not dot_products_do_not_saturate():
        pytest.skip("ONNX Runtime's int8 saturates on processors without VNNI: 48.9 AP50 becomes 35.6, as in 0.1.0")
    dataset = crossstage_part(coco256)
    path = export(tiny, "x", format, tmp_path / f"x{formats()[format].suffix}", calib=coco256).path
    full, eighth = (evaluate(model, dataset) for model in (tiny, open_exported(path)))
    assert full.ap50 is not None and eighth.ap50 is not None
    assert full.ap50 - eighth.ap50 < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "opencv"])
def test_ap_is_the_same(tiny, tiny_onnx, coco256, runtime):
    dataset = crossstage_part(coco256)
    here, there = (evaluate(model, dataset) for model in (tiny, open_exported(tiny_onnx, runtime)))
    assert here.ap is not None and there.ap is not None
    assert abs(here.ap - there.ap) < 0.001


def crossstage_part(folder: Path):
    from crossstage.data.find import part_to_measure
    from crossstage.data.records import DetectionData

    dataset = part_to_measure(folder)
    assert isinstance(dataset, DetectionData)
    return dataset


def test_a_file_that_computes_something_else_is_not_left_behind(tiny, tmp_path, monkeypatch):
    backend = BACKENDS["torchscript"]
    kind = backend.format
    assert kind and kind.check

    def wrong(path, header, images):
        return [output + 1 for output in kind.check(path, header, images)]

    monkeypatch.setitem(BACKENDS, "torchscript", replace(backend, format=replace(kind, check=wrong)))
    with pytest.raises(ExportError, match="computes something else"):
        export(tiny, "x", "torchscript", tmp_path / "x.torchscript", imgsz=96)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def in_folder(monkeypatch) -> str:
    """A format whose files lie in a folder, as OpenVINO's and ncnn's do, and that is written at once."""
    backend, name = BACKENDS["torchscript"], "x.torchscript"
    kind = backend.format
    assert kind and kind.check
    folder = replace(
        kind,
        suffix="_folder",
        graph=name,
        write=lambda recipe, path: kind.write(recipe, path / name),
        check=lambda path, header, images: kind.check(path / name, header, images),
    )
    monkeypatch.setitem(BACKENDS, "folder", replace(backend, format=folder))
    return "folder"


def test_a_folder_with_other_things_in_it_is_kept(tiny, in_folder, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").write_text("years")
    with pytest.raises(DataError, match=r"holds thesis.txt already"):
        export(tiny, "x", in_folder, tmp_path / "x", imgsz=96)
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["thesis.txt"]


def test_an_earlier_export_is_replaced(tiny, in_folder, tmp_path):
    first = export(tiny, "x", in_folder, tmp_path / "x", imgsz=96)
    second = export(tiny, "x", in_folder, tmp_path / "x", imgsz=64)
    assert first.path == second.path and [file.name for file in tmp_path.iterdir()] == ["x"]
    header = read_header(second.path / "x.torchscript")
    assert header.preprocessing is not None and header.preprocessing.size == (64, 64)


@pytest.mark.parametrize(
    ("format", "options", "told"),
    [
        (
            "torchscript",
            {"dynamic": True},
            "torchscript files do not take --dynamic; onnx and openvino and exported_program",
        ),
        ("ncnn", {"nms": NMS(0.1, 0.5)}, "ncnn files do not take --nms; onnx and openvino files do"),
        ("onnx", {"half": True, "calib": "x"}, "half and int8 exclude each other"),
        ("onnx", {"imgsz": 100}, "imgsz=100; expected a multiple of 32, such as 96 or 128"),
        ("onnx", {"out": "x.pt"}, "x.pt: expected a name that ends with .onnx"),
    ],
)
def test_options_that_do_not_fit_are_refused(tiny, format, options, told):
    with pytest.raises(ConfigError, match=told):
        export(tiny, "x", format, **options)


def test_inputs_of_many_sizes_need_a_dynamic_file(tmp_path):
    model = crossstage.create_model("cspdarknet53_tiny_yolo", class_names=("a", "b")).eval()
    model.preprocessing = Preprocessing((70, 110), "shortest", divisor=32)
    with pytest.raises(ConfigError, match="differs in size from image to image; expected --dynamic"):
        export(model, "x", "torchscript", tmp_path / "x.torchscript")
    done = export(model, "x", "exported_program", tmp_path / "x.pt2", dynamic=True)
    assert done.header.preprocessing == model.preprocessing and done.difference is not None
    assert read_header(done.path) == done.header


def test_a_classifier_has_no_boxes(tmp_path):
    model = crossstage.create_model("csppeleenet", num_classes=2)
    with pytest.raises(ConfigError, match="a classifier has no boxes"):
        export(model, "x", "onnx", tmp_path / "x.onnx", imgsz=64, decode=True)
    with pytest.raises(ConfigError, match="expected imgsz"):
        export(model, "x", "onnx", tmp_path / "x.onnx")


def test_int8_wants_images(tiny, tmp_path):
    with pytest.raises(DataError):
        export(tiny, "x", "onnx", tmp_path / "x.onnx", imgsz=96, calib=tmp_path)
