"""A backend that this file defines: everything else works with it, and no other file knows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import crossstage
from crossstage import ConfigError, WeightsError
from crossstage.cli import main
from crossstage.deploy import choose as choosing
from crossstage.deploy.backends import BACKENDS
from crossstage.deploy.backends.base import KEY, Backend, FileFormat, Recipe, Runtime
from crossstage.deploy.backends.shared import header_in_zip, silent
from crossstage.deploy.benchmark import benchmark as benchmarking
from crossstage.deploy.benchmark import peak
from crossstage.deploy.benchmark.benchmark import benchmark
from crossstage.deploy.export import export
from crossstage.deploy.header import ExportHeader
from tests.conftest import PHOTOS

TINY = "cspdarknet53_tiny_yolo.coco"


def write(recipe: Recipe, path: Path) -> ExportHeader:
    """An exported program under another name, in a folder."""
    with silent():
        torch.export.save(recipe.plan.record(), path / "graph.toy", extra_files={KEY: recipe.plan.header.to_json()})
    return recipe.plan.header


def start(path, outputs, threads, precision, streams):
    with silent():
        module = torch.export.load(path).module()

    def run(images):
        with torch.inference_mode():
            found = module(torch.from_numpy(images))
        assert len(found) == len(outputs)
        return [output.numpy() for output in found]

    return run


TOY = Backend(
    label="Toy",
    module="torch",
    install="toybox",
    preference=100,
    format=FileFormat(
        suffix="_toy",
        options=frozenset({"decode", "dynamic"}),
        write=write,
        read_header=header_in_zip,
        graph="graph.toy",
        note="wooden",
    ),
    runtime=Runtime(reads=(".toy",), start=start, format="toy"),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch, tmp_path_factory) -> Iterator[None]:
    monkeypatch.setitem(BACKENDS, "toy", TOY)
    monkeypatch.setenv("CROSSSTAGE_CACHE", str(tmp_path_factory.getbasetemp() / "toys"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def found_in(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("options", [[], ["--decode"]])
def test_the_command_line_writes_and_runs_it(options, tmp_path, capsys):
    photo, out = str(PHOTOS / "000000009483.jpg"), tmp_path / "x_toy"
    written = ["export", TINY, "--format", "toy", "--out", str(out), "--imgsz", "256", *options]
    assert main(written) == 0
    told = capsys.readouterr().out
    assert "wooden" in told and "differ from PyTorch's by" in told
    results = []
    for model in ([TINY], [str(out)], [str(out), "--runtime", "toy"]):
        file = tmp_path / "x.jsonl"
        assert main(["predict", photo, "--model", *model, "--imgsz", "256", "--json", str(file)]) == 0
        results.append([found["class_name"] for found in found_in(file)[0]["detections"]])
    assert results[0] and results[0] == results[1] == results[2]


def test_a_model_is_taken_to_it_and_evaluated(shapes, tmp_path):
    model = crossstage.create_model("cspdarknet53_tiny_yolo", class_names=("circle", "square"))
    opened = crossstage.open_model(model, runtime="toy", imgsz=64)
    assert opened.runtime == "toy" and opened.detector is not None
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for found, wanted in zip(opened.detector(images), model.eval()(images).values(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    done = export(model.eval(), "x", "toy", tmp_path / "x", imgsz=64)
    arguments = ["val", "--model", str(done.path), "--data", str(shapes), "--json", str(tmp_path / "val.json")]
    assert main(arguments) == 0 and "ap" in json.loads((tmp_path / "val.json").read_text())


def test_the_fastest_runtime_may_be_it(monkeypatch):
    monkeypatch.setattr(choosing, "ROUNDS", 1)
    monkeypatch.setattr("crossstage.deploy.open.installed", lambda **_: ["toy"])
    opened = crossstage.open_model(TINY, runtime="auto", imgsz=64)
    assert "toy" in opened.message and "torch" in opened.message


def test_it_is_benchmarked(monkeypatch):
    monkeypatch.setattr(peak, "convolutions", lambda _: [])
    monkeypatch.setattr(benchmarking, "convolutions", lambda _: [])
    result = benchmark(["resnet10"], imgsz=32, runtimes=["torch", "toy"], rounds=2, threads=1, memory=False)
    assert [row.runtime for row in result.rows] == ["torch fused", "Toy"]
    assert all(len(row.milliseconds) == 2 for row in result.rows), result.rows


def test_what_it_lacks_is_refused_in_its_name(tmp_path, monkeypatch):
    model = crossstage.create_model("resnet10", num_classes=2).eval()
    with pytest.raises(ConfigError, match="toy files do not take --half"):
        export(model, "x", "toy", tmp_path / "x", imgsz=32, half=True)
    with pytest.raises(ConfigError, match=r"format 'toys' is unknown; expected one of onnx, .*, toy"):
        export(model, "x", "toys", tmp_path / "x", imgsz=32)
    with pytest.raises(ConfigError, match=r"runtime 'toys' is unknown; expected one of auto, torch, .*, toy"):
        crossstage.open_model(model, runtime="toys")
    done = export(model, "x", "toy", tmp_path / "x", imgsz=32)
    (done.path / "graph.toy").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"graph\.toy: not a Toy file"):
        crossstage.open_model(done.path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="no runtime is installed that reads it; try: pip install 'toybox'"):
        crossstage.open_model(done.path)


def test_the_table_needs_neither_torch_nor_packages():
    code = (
        "import sys\nfrom crossstage.deploy.backends import BACKENDS\n"
        "from crossstage.deploy.benchmark.ways import ways\n"
        "assert BACKENDS and ways()\n"
        "print({'torch', 'numpy', 'onnx', 'openvino', 'onnxruntime', 'cv2', 'ncnn'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"


def test_the_extras_of_the_table_install_what_it_needs():
    import tomllib

    content = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    extras = content["project"]["optional-dependencies"]
    for name, backend in BACKENDS.items():
        if backend.install.startswith("crossstage["):
            packages = " ".join(extras[backend.install.removeprefix("crossstage[").removesuffix("]")])
            assert any(package in packages for package in backend.distributions), name
