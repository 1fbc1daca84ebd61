"""Models opened to run: each runtime gives PyTorch's results, and the fastest is found and remembered."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import crossstage
from crossstage import ConfigError
from crossstage.cli import main
from crossstage.data.formats.coco import find_coco
from crossstage.deploy import choose as choosing
from crossstage.deploy.backends.torch import fast
from crossstage.deploy.cache import cached
from crossstage.deploy.choose import choose
from crossstage.deploy.open import open_model, streams_for
from crossstage.errors import ExportError
from crossstage.evaluation import evaluate
from crossstage.inference.classify import ClassPredictor
from crossstage.inference.images import load_image
from crossstage.machine import has_bf16
from crossstage.structures import Preprocessing


class SlowedDown(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        time.sleep(0.05)
        return self.model(images)


PHOTOS = Path(__file__).parents[2] / "examples" / "photos"
TINY = "cspdarknet53_tiny_yolo.coco"


def tensors(raw) -> list[torch.Tensor]:
    """Raw tensors by name, as modules return, or in order, as exported files do."""
    return list(raw.values() if isinstance(raw, dict) else raw)


@pytest.fixture(autouse=True)
def _threads():
    """The number of threads that a model is opened with is torch's from then on."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


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
        return tuple(crossstage.load(TINY)(images).values())


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino", "opencv", "ncnn"])
def test_each_runtime_computes_the_same(cache, images, expected, runtime):
    opened = open_model(TINY, runtime=runtime, imgsz=128)
    assert opened.runtime == runtime and opened.classifier is None and opened.detector is not None
    with torch.inference_mode():
        for found, wanted in zip(tensors(opened.detector(images)), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_a_file_is_exported_once(cache, images, monkeypatch):
    open_model(TINY, runtime="onnxruntime", imgsz=128)
    monkeypatch.setattr("crossstage.deploy.cache.export", None)  # would fail if called
    opened = open_model(TINY, runtime="openvino", imgsz=128)
    assert opened.detector is not None and len(list((cache / "exported").glob("*/model.onnx"))) == 1


@pytest.mark.parametrize("runtime", ["torch", "openvino", "ncnn"])
def test_bfloat16_is_near_and_comes_out_as_float32(cache, images, expected, runtime):
    if not has_bf16():
        pytest.skip("the processor has no bf16")
    opened = open_model(TINY, runtime=runtime, precision="bf16", imgsz=128)
    assert opened.detector is not None
    with torch.inference_mode():
        for found, wanted in zip(tensors(opened.detector(images)), expected, strict=True):
            assert found.dtype == torch.float32
            error = (found - wanted).abs().max() / wanted.abs().max()
            assert 0 < error < 0.05


@pytest.mark.parametrize("runtime", [None, "auto", "openvino"])
def test_a_processor_without_bfloat16_is_told(cache, monkeypatch, runtime):
    monkeypatch.setattr("crossstage.deploy.sessions.has_bf16", lambda: False)
    with pytest.raises(ConfigError, match="no bfloat16"):
        open_model(TINY, runtime=runtime, device="cpu", precision="bf16", imgsz=128)


def test_the_processors_flags_tell_of_bfloat16(monkeypatch):
    flags = "flags : sse avx2 avx512f"
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _: flags)
    assert not has_bf16()
    flags += " avx512_bf16 amx_bf16"
    assert has_bf16()


def test_the_fastest_is_taken_and_remembered(cache, monkeypatch):
    monkeypatch.setattr(choosing, "ROUNDS", 3)
    first = open_model(TINY, runtime="auto", imgsz=128)
    assert "measured now" in first.message
    (record,) = (cache / "runtimes").iterdir()
    times = json.loads(record.read_text())["milliseconds"]
    assert {"torch", "onnxruntime", "openvino", "ncnn"} <= set(times) and first.runtime == min(times, key=times.get)
    monkeypatch.setattr(choosing, "in_turns", None)  # would fail if called
    second = open_model(TINY, runtime="auto", imgsz=128)
    assert second.runtime == first.runtime and "remembered" in second.message
    record.write_text("not JSON")
    with pytest.raises(TypeError):  # measured anew
        open_model(TINY, runtime="auto", imgsz=128)


def test_what_computes_something_else_or_fails_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))
    model = crossstage.create_model("csppeleenet", num_classes=3).eval()

    def broken(_):
        raise ExportError("it is broken")

    candidates = {"torch": lambda _: model, "wrong": lambda _: lambda x: torch.zeros(len(x), 3) + 7, "broken": broken}
    chosen = choose(model, candidates, imgsz=64, batch=1, threads=None, precision="fp32")
    assert chosen.runtime == "torch" and chosen.refused["broken"] == "it is broken"
    assert "differs from PyTorch's" in chosen.refused["wrong"] and set(chosen.milliseconds) == {"torch"}


@pytest.mark.slow
def test_what_no_longer_opens_is_chosen_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))
    model = crossstage.create_model("csppeleenet", num_classes=3).eval()
    works = True

    def other(_):
        if not works:
            raise ExportError("its library is gone")
        return model

    candidates = {"torch": lambda _: SlowedDown(model), "other": other}
    options = {"imgsz": 64, "batch": 1, "threads": None, "precision": "fp32"}
    assert choose(model, candidates, **options).runtime == "other"
    works = False
    chosen = choose(model, candidates, **options)
    assert chosen.runtime == "torch" and not chosen.remembered


@pytest.mark.parametrize("damage", [b"", b"whol", b"whole "])
def test_a_damaged_entry_of_the_cache_is_made_anew(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))
    made = []

    def make(folder):
        (folder / "file").write_bytes(b"whole")
        made.append(folder)

    first = cached("things", "key", make)
    assert cached("things", "key", make) == first and len(made) == 1
    (first / "file").write_bytes(damage)
    again = cached("things", "key", make)
    assert (again / "file").read_bytes() == b"whole" and len(made) == 2
    assert [entry.name for entry in (tmp_path / "things").iterdir()] == [again.name]


def test_what_cannot_be_made_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path))

    def make(folder):
        (folder / "file").write_bytes(b"half")
        raise ExportError("no such operator")

    with pytest.raises(ExportError):
        cached("things", "key", make)
    assert not list((tmp_path / "things").iterdir())


AT_ONCE = """
import sys, time
from pathlib import Path
import torch
from crossstage import create_model
from crossstage.deploy.backends import BACKENDS
from crossstage.deploy.cache import exported_file
from crossstage.deploy.cache import cached
from crossstage.deploy.choose import choose
from crossstage.deploy.exported import open_exported
from tests.deploy.test_new_backend import TOY

me, other = (Path(name) for name in sys.argv[1:])
torch.manual_seed(0)
model = create_model("resnet10", num_classes=3).eval()
BACKENDS["toy"] = TOY
me.touch()
while not other.exists():
    time.sleep(0.01)
file = exported_file(model, "small", "toy", imgsz=64)
candidates = {"torch": lambda _: model, "toy": lambda _: open_exported(file, "toy", threads=1)}
chosen = choose(model, candidates, imgsz=64, batch=1, threads=1, precision="fp32")
print(chosen.runtime, file)
"""


@pytest.mark.slow
def test_two_processes_may_export_and_choose_at_once(tmp_path):
    environment = {**os.environ, "CROSSSTAGE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    marks = str(tmp_path / "one"), str(tmp_path / "two")
    both = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", AT_ONCE, *order], env=environment, stdout=subprocess.PIPE, text=True
        )
        for order in (marks, marks[::-1])
    ]
    outputs = [process.communicate(timeout=900)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (record,) = (tmp_path / "cache" / "runtimes").iterdir()
    assert json.loads(record.read_text())["runtime"] in {runtime for runtime, _ in outputs}
    kept = sorted((tmp_path / "cache" / "exported").iterdir())
    assert {Path(file).parents[1] for _, file in outputs} == set(kept)  # and nothing half-made


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path / "file"))
    model = crossstage.create_model("csppeleenet", num_classes=3).eval()
    chosen = choose(model, {"torch": lambda _: model}, imgsz=64, batch=1, threads=None, precision="fp32")
    assert chosen.runtime == "torch"


def test_predicting_in_python_is_as_simple_as_with_torch(cache):
    expected = list(crossstage.load(TINY).predict(PHOTOS, imgsz=128))
    opened = crossstage.open_model(TINY, runtime="openvino", imgsz=128, streams=2, threads=1)
    for found, wanted in zip(opened.predict(PHOTOS), expected, strict=True):
        assert found.metadata == wanted.metadata  # type: ignore[union-attr]
        np.testing.assert_allclose(found.xyxy, wanted.xyxy, atol=0.05)  # type: ignore[union-attr]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_model_in_memory_may_be_opened_and_is_left_as_it_is(cache, images, expected, runtime):
    model = crossstage.load(TINY).train()
    opened = crossstage.open_model(model, runtime=runtime, device="cpu", imgsz=128)
    assert model.training and opened.detector is not None
    with torch.inference_mode():
        torch.testing.assert_close(tensors(opened.detector(images))[0], expected[0], rtol=1e-4, atol=1e-3)


def test_an_opened_classifier_predicts():
    model = crossstage.create_model("csppeleenet", num_classes=3).eval()
    model.preprocessing = Preprocessing((64, 64), "crop")
    found = list(crossstage.open_model(model, device="cpu", streams=2).predict(PHOTOS, top=1))
    wanted = list(model.predict(PHOTOS, top=1))
    assert [entry.class_ids for entry in found] == [entry.class_ids for entry in wanted]  # type: ignore[union-attr]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino", "opencv", "ncnn"])
def test_passes_side_by_side_find_the_same(cache, runtime):
    results = []
    for streams in (1, 2):
        opened = open_model(TINY, runtime=runtime, device="cpu", imgsz=128, streams=streams, threads=1)
        assert opened.streams == streams
        results.append(list(opened.predict([str(photo) for photo in sorted(PHOTOS.glob("*.jpg"))] * 2)))
    for alone, beside in zip(*results, strict=True):
        assert alone.metadata == beside.metadata
        np.testing.assert_allclose(alone.xyxy, beside.xyxy, atol=1e-2)


@pytest.mark.parametrize(("source", "streams"), [({"single": True}, 1), ({"live": True}, 1), ({}, 3)])
def test_only_a_folders_passes_are_computed_side_by_side(source, streams):
    assert streams_for(3, **{"single": False, "live": False} | source) == streams


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
        ({"batch": 0}, "batch=0; expected at least 1"),
        ({"runtime": "ncnn", "batch": 2}, "one image at a time"),
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


@pytest.mark.parametrize("data", ["detection", "classes"])
def test_val_finds_the_same_in_batches(data, request, tmp_path):
    """Four images in passes of one and of three."""
    if data == "detection":
        dataset = find_coco(request.getfixturevalue("coco256"), split="val")[:4]
        model = crossstage.load(TINY)
        reports = [evaluate(model, dataset, imgsz=128, batch=batch) for batch in (1, 3)]
        assert reports[0].ap == pytest.approx(reports[1].ap, abs=1e-3)
        return
    model = crossstage.create_model("csppeleenet", num_classes=2, class_names=("a", "b"))
    model.preprocessing = Preprocessing((64, 64), "crop")
    images = sorted(PHOTOS.glob("*.jpg"))[:4]
    found = [ClassPredictor(model).classify_batch([load_image(p) for p in images[:n]]) for n in (1, 4)]
    assert len(found[1]) == 4
    np.testing.assert_allclose(found[0][0].probabilities, found[1][0].probabilities, atol=1e-5)


def test_the_command_line_tells_what_is_wrong(tmp_path, capsys):
    assert main(["export", TINY, "--int8"]) == 2
    assert "--int8 --calib DATA" in capsys.readouterr().err
    path = Path(__file__).parents[1] / "fixtures" / "v0.1.0" / "exports" / "detector.onnx"
    assert main(["predict", str(PHOTOS), "--model", str(path), "--runtime", "torch"]) == 2
    assert "torch does not run" in capsys.readouterr().err
