"""Average precision of the shipped detector in every format and runtime, from floats to int8.

    python -m research.pages.exported ../shared/data/coco256/coco256.tar [--opencv5 SITE] > docs/tables/exported.md

All get the same pixels, thresholds and suppression; int8 is calibrated on the training part. OpenCV 5 cannot be
installed beside 4: ``SITE`` is a folder that ``pip install --target SITE 'opencv-python-headless>=5'`` filled.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from crossstage.darknet.detector import load_darknet_detector
from crossstage.data.find import part_to_measure
from crossstage.data.records import DetectionData
from crossstage.deploy.backends import formats
from crossstage.deploy.export import export
from crossstage.deploy.exported import ExportedDetector, open_exported
from crossstage.deploy.header import ExportHeader
from crossstage.evaluation import evaluate
from crossstage.inference.model import DetectionModel
from crossstage.models.composed import ComposedDetector
from crossstage.models.detector import Detector
from crossstage.ops.nms import NMS
from crossstage.weights.loading import load_detector
from research.bench.peers import OpenCVDetector
from research.bench.timing import machine

NAME = "cspdarknet53_tiny_yolo.coco"
SUPPRESSION = NMS(0.001, 0.45)
FLOAT_BAR, INT8_BAR = 0.1, 1.0  # points of AP of floats, of AP50 of int8
RUNTIMES: dict[str, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "opencv": "OpenCV 4"}

HEAD = """# Average precision of exported files

`{name}` at 416 x 416 on coco256 (128 images of COCO val2017), scores above 0.001, suppression at IoU
0.45, the same pixels for all. Floats are to stay within {floats} AP of PyTorch, int8 within {int8:.0f} point of AP50;
int8 is calibrated on coco256's other 128 images.

    python -m research.pages.exported ../shared/data/coco256/coco256.tar --opencv5 SITE

{machine}; {versions}.

| file | run by | AP | AP50 | AP50 - PyTorch's | met |
|---|---|---:|---:|---:|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--opencv5", type=Path)
    parser.add_argument("--one", type=Path, help="measure this ONNX file in OpenCV, for the process of OpenCV 5")
    options = parser.parse_args()
    if options.one:
        print(*scores(opened(options.one, "opencv"), part_to_measure(options.archive)))
        return
    packages = ("onnxruntime", "openvino", "nncf", "opencv-python-headless", "ncnn")
    shown = ", ".join(f"{package} {version(package)}" for package in packages)
    print(HEAD.format(name=NAME, floats=FLOAT_BAR, int8=INT8_BAR, machine=machine(), versions=shown), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(options.archive) as file:
            file.extractall(f"{scratch}/coco256", filter="data")
        table(Path(scratch), options.opencv5)


def table(scratch: Path, opencv5: Path | None) -> None:
    """Print a row for each file and runtime."""
    model, data = load_detector(NAME), scratch / "coco256"
    dataset = part_to_measure(data)
    reference: tuple[float, float] | None = None
    for file, runtime, measure in variants(model, data, dataset, scratch, opencv5):
        ap, ap50 = measure()
        reference = reference or (ap, ap50)
        change = ap50 - reference[1]
        met = change >= -INT8_BAR if "int8" in file else abs(ap - reference[0]) <= FLOAT_BAR
        cells = (file, runtime, f"{ap:.2f}", f"{ap50:.2f}", f"{change:+.2f}")
        print(f"| {' | '.join(cells)} | {'yes' if met else '**no**'} |", flush=True)


def scores(model: DetectionModel, dataset: object) -> tuple[float, float]:
    """AP and AP50 in points."""
    assert isinstance(dataset, DetectionData)
    report = evaluate(model, dataset)
    assert report.ap is not None and report.ap50 is not None
    return 100 * report.ap, 100 * report.ap50


def variants(
    model: Detector, data: Path, dataset: object, scratch: Path, opencv5: Path | None
) -> Iterator[tuple[str, str, Callable[[], tuple[float, float]]]]:
    """What was written, what runs it, and how to measure it."""

    def written(format: str, kind: str = "", **options: object) -> Path:
        out = scratch / f"{format}{kind}{formats()[format].suffix}"
        with contextlib.redirect_stdout(sys.stderr):  # NNCF's progress is no part of the page
            return export(model, NAME, format, out, **options).path  # pyright: ignore[reportArgumentType]

    yield "-", "PyTorch", lambda: scores(model, dataset)
    plain = written("onnx")
    for runtime, title in RUNTIMES.items():
        yield "ONNX", title, lambda runtime=runtime: scores(opened(plain, runtime), dataset)
    if opencv5:
        yield "ONNX", "OpenCV 5", lambda: in_opencv5(plain, data, opencv5)
    kinds = {
        "decode": {"decode": True},
        "dynamic": {"dynamic": True},
        "nms": {"nms": SUPPRESSION},
        "half": {"half": True},
        "int8": {"calib": data},
    }
    for kind, options in kinds.items():
        file = written("onnx", kind, **options)
        yield f"ONNX, {kind}", "ONNX Runtime", lambda file=file: scores(opened(file, "onnxruntime"), dataset)
    for kind in ("", "nms", "half", "int8"):
        file = written("openvino", kind, **kinds.get(kind, {}))
        title = ", ".join(filter(None, ("OpenVINO", kind)))
        yield title, "OpenVINO", lambda file=file: scores(opened(file), dataset)
    header = opened(plain).header
    script = torch.jit.load(str(written("torchscript")))
    yield "TorchScript", "PyTorch", lambda: scores(by_torch(script, header), dataset)
    program = torch.export.load(written("exported_program")).module()
    yield "exported program", "PyTorch", lambda: scores(by_torch(program, header), dataset)
    folder = written("ncnn")
    yield "ncnn", "ncnn", lambda: scores(opened(folder), dataset)
    cfg = written("darknet")
    yield "Darknet", "crossstage.darknet", lambda: scores(load_darknet_detector(cfg), dataset)
    assert isinstance(model, ComposedDetector)
    twin = OpenCVDetector(cfg, cfg.with_suffix(".weights"), model)
    yield "Darknet", "OpenCV 4", lambda: scores(twin, dataset)


def opened(file: Path, runtime: str | None = None) -> ExportedDetector:
    """An exported detector."""
    model = open_exported(file, runtime)
    assert isinstance(model, ExportedDetector)
    return model


def by_torch(module: Callable[..., tuple[torch.Tensor, ...]], header: ExportHeader) -> ExportedDetector:
    """A module of PyTorch's behind the contract of exported files."""

    def run(images):
        with torch.inference_mode():
            return [output.numpy() for output in module(torch.from_numpy(images))]

    return ExportedDetector(header, run, Path(NAME), "onnxruntime")


def in_opencv5(file: Path, data: Path, site: Path) -> tuple[float, float]:
    """In a process that finds OpenCV 5 first."""
    paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "research.pages.exported", str(data), "--one", str(file)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True)
    ap, ap50 = done.stdout.split()[-2:]
    return float(ap), float(ap50)


if __name__ == "__main__":
    main()
