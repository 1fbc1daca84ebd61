"""The one parser of names: kinds and parts, spellings that look like others, and what is said about unknown ones."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossstage.errors import ConfigError, WeightsError
from crossstage.models.registry import REGISTRY
from crossstage.weights.loading import create_model, load
from crossstage.weights.ref import KINDS, Ref, parse
from crossstage.weights.starting import start_model


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("darknet53", "model", {"name": "darknet53"}),
        ("vovnet39_efm", "model", {"name": "vovnet39_efm"}),
        ("vovnet39_efm_yolo", "model", {"name": "vovnet39_efm_yolo"}),
        ("cspdarknet53_tiny_yolo.coco", "weights", {"name": "cspdarknet53_tiny_yolo", "tag": "coco"}),
        ("yolov3_tiny.coco", "weights", {"name": "yolov3_tiny", "tag": "coco"}),
        ("timm:resnet50", "peer", {"library": "timm", "name": "resnet50"}),
        ("timm:a.b.c", "peer", {"library": "timm", "name": "a", "tag": "b.c"}),
        ("torchvision:resnet50.IMAGENET1K_V2", "peer", {"name": "resnet50", "tag": "IMAGENET1K_V2"}),
        ("timm-network:vit.tag.more", "peer-network", {"library": "timm", "name": "vit", "tag": "tag.more"}),
        ("torchvision-network:vit_b_16", "peer-network", {"library": "torchvision", "name": "vit_b_16"}),
        ("net.cfg", "cfg", {"path": Path("net.cfg")}),
        ("a.b/darknet53.safetensors", "file", {"path": Path("a.b/darknet53.safetensors")}),
        (r"C:\x\y.safetensors", "file", {"path": Path(r"C:\x\y.safetensors")}),
        (r"C:\x\y.cfg", "cfg", {"path": Path(r"C:\x\y.cfg")}),
        (r"C:\x\y.py:build", "function", {"name": "build", "path": Path(r"C:\x\y.py")}),
        ("./timm:x.safetensors", "file", {"path": Path("timm:x.safetensors")}),
        ("my/net.py:Net", "function", {"name": "Net", "path": Path("my/net.py")}),
        ("x.onnx", "exported", {"path": Path("x.onnx")}),
    ],
)
def test_a_text_has_a_kind_and_parts(text, kind, parts):
    ref = parse(text, is_exported=lambda path: path.suffix == ".onnx")
    assert ref.kind == kind and str(ref) == text
    assert {name: getattr(ref, name) for name in parts} == parts
    assert parse(ref) is ref


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_name_of_ours_is_a_model(name):
    assert parse(name) == Ref(name, "model", name)


def test_a_name_comes_before_a_folder_and_a_path_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("darknet53", "export", "timm:resnet18", "cspdarknet53_tiny_yolo.coco"):
        Path(folder).mkdir()
    Path("export/model.xml").touch()
    Path("odd").touch()
    assert parse("darknet53").kind == "model"
    assert parse("timm:resnet18").kind == "peer"
    assert parse("cspdarknet53_tiny_yolo.coco").kind == "weights"
    for text in ("./darknet53", "./timm:resnet18", Path("darknet53"), Path("timm:resnet18"), "export", "."):
        assert parse(text).kind == "run"
    assert parse("export", is_exported=lambda path: (path / "model.xml").exists()).kind == "exported"
    assert parse("odd").kind == "file"
    assert parse(Path("resnet18")).kind == "model"  # there is no such path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("csppeleent", "model 'csppeleent' is unknown; did you mean csppeleenet"),
        ("CSPResNet50", "did you mean .*cspresnet50"),
        ("csppeleent_prn3l", "did you mean .*csppeleenet_prn3l"),
        ("vovnet27_slm_efm", "did you mean .*vovnet27_slim_efm"),
        ("vovnet27_slim_efm_yol", "did you mean .*vovnet27_slim_efm_yolo"),
        ("cspdarknet53_tiny_yolo.cocoo", r"no weights 'cocoo'; .* did you mean cspdarknet53_tiny_yolo\.coco"),
        ("resnet50.a1_in1k", r"there are none of it yet; did you mean timm:resnet50\.a1_in1k"),
        ("tim:resnet18", "did you mean timm:resnet18"),
        ("timm-netwrk:resnet18", "did you mean timm-network:resnet18"),
        ("timm:", "expected the name of a network"),
        ("runs/nowhere", "runs/nowhere: no such file or folder"),
        (r"runs\nowhere", r"runs\\nowhere: no such file or folder"),
        ("nowhere.onnx", r"model 'nowhere\.onnx' is unknown and there is no such file"),
        ("net.py", "expected the name of a function too, as in net.py:build"),
        ("", "'' names no model; expected a model's name"),
        ("x" * 5000, "names no model"),
        ("\0", "unknown"),
    ],
)
def test_what_is_unknown_is_said_with_what_it_may_have_been(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)


@settings(max_examples=15, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text):
    try:
        ref = parse(text)
    except ConfigError:
        return
    assert ref.kind in KINDS


def test_what_a_caller_cannot_use_is_refused_with_the_right_spelling(tmp_path):
    with pytest.raises(ConfigError, match=r"its weights in our network are timm:resnet18\.a1_in1k"):
        load("timm-network:resnet18.a1_in1k")
    with pytest.raises(ConfigError, match="spelled timm-network:vit_tiny"):
        load("timm:vit_tiny")
    with pytest.raises(ConfigError, match=r"own\.py:build is a function of your own .*; expected a model's name, "):
        load("own.py:build")
    with pytest.raises(ConfigError, match=r"net\.cfg is a Darknet \.cfg; expected"):
        start_model("net.cfg", ["a"])
    with pytest.raises(ConfigError, match=r"expected a model's name$"):
        parse("timm:resnet18", ("model",))
    (tmp_path / "export.onnx").write_bytes(b"junk")
    with pytest.raises(WeightsError, match=r"not a safetensors file: .*; expected a model file, or one that a"):
        load(tmp_path / "export.onnx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no weights; expected a training's folder with best\.safetensors"):
        load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("darknet53", "darknet53"),
        ("cspdarknet53_tiny_yolo.coco", "cspdarknet53_tiny_yolo.coco"),
        ("timm:resnet50.a1_in1k", "timm_resnet50.a1_in1k"),
        ("runs/mine.safetensors", "mine"),
        ("runs/net.cfg", "net"),
        ("a/b.py:Net", "Net"),
    ],
)
def test_files_that_are_made_of_it_have_a_short_name(text, stem):
    assert parse(text).stem == stem


def test_any_weights_start_a_model_of_other_classes_or_a_bare_backbone(tmp_path):
    from crossstage.models.spec import ModelSpec
    from crossstage.weights.model_file import write_model

    small = {"widths": (8, 16), "depths": (1, 1)}
    state = create_model("darknet53", 4, **small).state_dict()
    write_model(tmp_path / "best.safetensors", state, ModelSpec("darknet53", 4, tuple("abcd"), small))
    model = create_model(tmp_path, class_names=["b", "z"])
    assert model.class_names == ("b", "z")
    assert (model.fc.weight[0] == state["fc.weight"][1]).all()
    backbone = create_model(tmp_path / "best.safetensors", out_indices=(0, 1))
    assert backbone.channels == [8, 16]
    for name, tensor in backbone.state_dict().items():
        assert (tensor == state[f"backbone.{name}"]).all()
