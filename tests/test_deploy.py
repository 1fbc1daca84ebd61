"""Models opened to run: each runtime gives PyTorch's results, and the fastest is found and remembered."""

import json
from pathlib import Path

import pytest
import torch

import crossstage
from crossstage import ConfigError
from crossstage.cli import main
from crossstage.deploy import choosing, open_model
from crossstage.deploy.choosing import choose
from crossstage.deploy.pytorch import fast
from crossstage.errors import ExportError
from crossstage.export import export

PHOTOS = Path(__file__).parents[1] / "examples" / "photos"
TINY = "cspdarknet53_tiny_yolo.coco"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSSTAGE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def expected(images):
    with torch.inference_mode():
        return crossstage.load(TINY)(images)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino", "opencv"])
def test_each_runtime_computes_the_same(cache, images, expected, runtime):
    opened = open_model(TINY, runtime=runtime, imgsz=128)
    assert opened.runtime == runtime and opened.classifier is None and opened.detector is not None
    with torch.inference_mode():
        for found, wanted in zip(opened.detector(images), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_a_file_is_exported_once(cache, images, monkeypatch):
    open_model(TINY, runtime="onnxruntime", imgsz=128)
    monkeypatch.setattr("crossstage.deploy.cached.export", None)  # would fail if called
    opened = open_model(TINY, runtime="openvino", imgsz=128)
    assert opened.detector is not None and len(list((cache / "onnx").iterdir())) == 1


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_bfloat16_is_near_and_comes_out_as_float32(cache, images, expected, runtime):
    if runtime == "openvino":
        openvino = pytest.importorskip("openvino")
        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("the processor has no bf16")
    opened = open_model(TINY, runtime=runtime, precision="bf16", imgsz=128)
    assert opened.detector is not None
    with torch.inference_mode():
        for found, wanted in zip(opened.detector(images), expected, strict=True):
            assert found.dtype == torch.float32
            error = (found - wanted).abs().max() / wanted.abs().max()
            assert 0 < error < 0.05


def test_the_fastest_is_taken_and_remembered(cache, monkeypatch):
    first = open_model(TINY, runtime="auto", imgsz=64)
    assert "measured now" in first.told
    (record,) = (cache / "runtimes").iterdir()
    times = json.loads(record.read_text())["milliseconds"]
    assert {"torch", "onnxruntime", "openvino"} <= set(times) and first.runtime == min(times, key=times.get)
    monkeypatch.setattr(choosing, "in_turns", None)  # would fail if called
    second = open_model(TINY, runtime="auto", imgsz=64)
    assert second.runtime == first.runtime and "remembered" in second.told
    record.write_text("not JSON")
    with pytest.raises(TypeError):  # measured anew
        open_model(TINY, runtime="auto", imgsz=64)


def test_what_computes_something_else_or_fails_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))
    model = crossstage.create_model("csppeleenet", num_classes=3).eval()

    def broken():
        raise ExportError("it is broken")

    candidates = {"torch": lambda: model, "wrong": lambda: lambda x: torch.zeros(len(x), 3) + 7, "broken": broken}
    chosen = choose(model, candidates, imgsz=64, batch=1, threads=None, precision="fp32")
    assert chosen.runtime == "torch" and chosen.refused["broken"] == "it is broken"
    assert "differs from PyTorch's" in chosen.refused["wrong"] and set(chosen.milliseconds) == {"torch"}


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path / "file"))
    model = crossstage.create_model("csppeleenet", num_classes=3).eval()
    chosen = choose(model, {"torch": lambda: model}, imgsz=64, batch=1, threads=None, precision="fp32")
    assert chosen.runtime == "torch"


def test_the_fast_copy_is_of_the_models_class_and_computes_the_same():
    model = crossstage.create_model("cspresnext50", num_classes=5).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(fast(model)(images), model(images), rtol=1e-4, atol=1e-5)
    assert type(fast(model)) is type(model)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"runtime": "openvino", "device": "cuda"}, "openvino runs on the CPU"),
        ({"runtime": "opencv", "compiled": True}, "does not compile"),
        ({"threads": 0}, "threads=0; expected at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        open_model(TINY, **options)


def test_the_command_line_exports_and_runs_the_file_with_nothing_else(tmp_path, capsys):
    file = tmp_path / "tiny.onnx"
    assert main(["export", TINY, "--format", "onnx", "--out", str(file), "--imgsz", "256"]) == 0
    assert "differ from PyTorch's by" in capsys.readouterr().out
    results = []
    for model in (TINY, str(file)):
        out = tmp_path / f"{len(results)}.jsonl"
        assert main(["predict", str(PHOTOS), "--model", model, "--imgsz", "256", "--json", str(out)]) == 0
        results.append([json.loads(line) for line in out.read_text().splitlines()])
    for own, other in zip(*results, strict=True):
        assert [found["class_name"] for found in own["detections"]] == [
            found["class_name"] for found in other["detections"]
        ]
    assert sum(len(entry["detections"]) for entry in results[0]) > 10


def test_the_command_line_tells_what_is_wrong(tmp_path, capsys):
    assert main(["export", TINY, "--int8"]) == 2
    assert "--int8 --calib DATA" in capsys.readouterr().err
    path = export(
        crossstage.create_model("cspdarknet53_tiny_yolo").eval(), "x", "onnx", tmp_path / "x.onnx", imgsz=64
    ).path
    assert main(["predict", str(PHOTOS), "--model", str(path), "--runtime", "torch"]) == 2
    assert "torch does not run" in capsys.readouterr().err
