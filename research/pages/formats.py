"""Every model in every format, run by every runtime: how far its outputs are from PyTorch's.

    python -m research.pages.formats run FOLDER [PATTERN] [--formats ...] [--opencv5 SITE]
    python -m research.pages.formats report FOLDER > docs/tables/formats.md

``run`` leaves a file for each model, and measures what is not yet in it. OpenCV 5 cannot be installed beside 4:
``SITE`` is a folder that ``pip install --target SITE 'opencv-python-headless>=5'`` filled.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from crossstage import CrossStageError, create_model, list_models
from crossstage.deploy.backends import formats
from crossstage.deploy.backends.onnx import OPSET
from crossstage.deploy.export import FLOOR, TOLERANCE, export
from crossstage.deploy.graph import sample
from crossstage.deploy.reading import read_header
from crossstage.deploy.sessions import installed, start
from crossstage.files import write_text
from crossstage.models.classifier import Classifier
from crossstage.models.composed import ComposedDetector
from crossstage.models.detector import Detector
from research.bench.timing import machine

FIRST = {"onnx": "onnxruntime", "openvino": "openvino_folder"}  # columns that are not called as their format is
PIXELS = 128  # of the square input; small, as nothing of what is compared depends on it
RUNTIMES = {"onnxruntime": "ONNX, ONNX Runtime", "openvino": "ONNX, OpenVINO", "opencv": "ONNX, OpenCV 4"}
COLUMNS = {
    **RUNTIMES,
    "opencv5": "ONNX, OpenCV 5",
    "openvino_folder": "OpenVINO",
    "torchscript": "TorchScript",
    "exported_program": "exported program",
    "ncnn": "ncnn",
    "darknet": "Darknet",
    "darknet_opencv": "Darknet, OpenCV 4",
}
OPENCV = """
import sys, cv2, numpy
net = cv2.dnn.readNetFromONNX(sys.argv[1])
net.setInput(numpy.load(sys.argv[2]))
numpy.savez(sys.argv[3], *net.forward(sys.argv[4:]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["run", "report"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("pattern", nargs="?", default="*")
    parser.add_argument("--formats", nargs="+", choices=formats(), default=list(formats()))
    parser.add_argument("--opencv5", type=Path)
    options = parser.parse_args()
    if options.verb == "report":
        print(report(options.folder))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    # PyTorch's recorders keep what they recorded: new processes now and then bound the memory.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=16) as pool:
        for name in list_models(options.pattern):
            record = options.folder / f"{name}.json"
            known = json.loads(record.read_text()) if record.is_file() else {}
            begun = time.perf_counter()
            for format in options.formats:
                if FIRST.get(format, format) not in known:
                    known |= pool.submit(measure, name, format, options.opencv5).result()
                    write_text(record, json.dumps(known, indent=1))
            print(f"{name}: {time.perf_counter() - begun:.0f} s, {known}", file=sys.stderr, flush=True)


def measure(name: str, format: str, opencv5: Path | None) -> dict[str, Any]:
    """For each column of a format the largest relative difference, or why there is none."""
    model = prepared(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{formats()[format].suffix}"
        try:
            varying = model.preprocessing is not None and model.preprocessing.resize == "shortest"
            own = export(model, name, format, path, imgsz=PIXELS, dynamic=varying).difference
        except CrossStageError as error:
            columns = {"onnx": (*RUNTIMES, "opencv5"), "darknet": ("darknet", "darknet_opencv")}
            return dict.fromkeys(columns.get(format, (FIRST.get(format, format),)), str(error))
        if format == "onnx" and read_header(path).outputs == "instances":
            return {"onnxruntime": own}  # whose detections the export compared with ours; their number varies
        if format == "onnx":
            return in_runtimes(path, model, opencv5)
        if format == "darknet":
            return {"darknet": own, "darknet_opencv": darknet_in_opencv(path, model)}
        return {FIRST.get(format, format): own}


def prepared(name: str) -> Detector | Classifier:
    """The model with random weights, and activations of a sensible size all the way down.

    Shifts of about 1 keep most activations out of their kink. With shifts of about 0 a random network of a hundred
    layers is chaotic: float32 itself is 1e-4 away from float64.
    """
    torch.manual_seed(0)
    model = create_model(name)
    assert isinstance(model, (Detector, Classifier))
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.weight, 1, 0.1)
            torch.nn.init.normal_(norm.bias, 1, 0.1)
            norm.momentum = None  # an average of all passes
    with torch.no_grad():
        model.train()(sample(model, PIXELS, 4, seed=1))
    return model.eval()


def expected_of(model: Detector | Classifier, images: torch.Tensor) -> list[np.ndarray]:
    """What PyTorch computes."""
    with torch.inference_mode():
        output = model(images)
    return [tensor.numpy() for tensor in ([output] if isinstance(output, torch.Tensor) else output.values())]


def darknet_in_opencv(path: Path, model: Detector | Classifier) -> float | str:
    """The Darknet files in OpenCV: of a classifier behind the softmax, of a detector what enters the output layers."""
    images = sample(model, PIXELS, 1)
    expected = expected_of(model, images)
    sections = [line for line in path.read_text().splitlines() if line.startswith("[")][1:]
    heads = [index for index, section in enumerate(sections) if section == "[yolo]"]
    try:
        net = cv2.dnn.readNetFromDarknet(str(path), str(path.with_suffix(".weights")))
        net.setInput(images.numpy())
        if heads:
            found = difference(list(net.forward([f"conv_{head - 1}" for head in heads])), expected)
        else:
            found = difference([net.forward()], [torch.from_numpy(expected[0]).softmax(1).numpy()])
    except cv2.error as error:
        found = str(error)
    met = isinstance(found, float) and found <= TOLERANCE
    if not met and "maxpool_depth" in path.read_text():
        return "OpenCV takes `maxpool_depth`, which is Maxout, for a pooling of pixels"
    return found


def in_runtimes(path: Path, model: Detector | Classifier, opencv5: Path | None) -> dict[str, Any]:
    """The ONNX file in each runtime."""
    images = sample(model, PIXELS, 1)
    expected, outputs = expected_of(model, images), names(model)
    found: dict[str, Any] = {}
    for runtime in installed(path):
        try:
            found[runtime] = difference(start(path, runtime, outputs)(images.numpy()), expected)
        except Exception as error:  # what a runtime cannot do is what the table tells
            found[runtime] = str(error)
    if opencv5:
        found["opencv5"] = in_opencv5(path, images.numpy(), expected, outputs, opencv5)
    return found


def names(model: Detector | Classifier) -> list[str]:
    """Of the file's outputs."""
    if isinstance(model, Classifier):
        return ["logits"]
    assert isinstance(model, ComposedDetector)
    return list(model.head.raw_names)


def in_opencv5(
    path: Path, images: np.ndarray, expected: list[np.ndarray], outputs: list[str], site: Path
) -> float | str:
    """In a process that finds OpenCV 5 first."""
    inputs, results = path.with_name("inputs.npy"), path.with_name("results.npz")
    np.save(inputs, images)
    command = [sys.executable, "-c", OPENCV, str(path), str(inputs), str(results), *outputs]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return done.stderr.strip().splitlines()[-1]
    return difference([array for _, array in np.load(results).items()], expected)


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest difference, relative to the largest value of the output."""
    return max(
        float(np.abs(a.reshape(b.shape) - b).max() / max(FLOOR, np.abs(b).max()))
        for a, b in zip(found, expected, strict=True)
    )


HEAD = """# Formats and runtimes

Every model of the registry, exported to every format that `crossstage export` writes
([how](../guides/exporting.md)), and run. A figure is the largest difference to the outputs of PyTorch's unfused model
in float32, relative to the largest output; the bar is 1e-4, and what misses it is **bold**. "-" does not run, for the
reasons below the table.

    python -m research.pages.formats run FOLDER --opencv5 SITE
    python -m research.pages.formats report FOLDER > docs/tables/formats.md

Weights are random, images noise, {pixels} x {pixels} pixels. ONNX files are of opset {opset}, by PyTorch's dynamo
exporter, simplified; "OpenVINO" is its own format, "Darknet" a cfg and weights, read by `crossstage.darknet`.
{machine}, {date}; {versions}.
"""


def report(folder: Path) -> str:
    """The table, and what does not run and why."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    packages = ("onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino", "opencv-python-headless", "ncnn", "pnnx")
    shown = ", ".join(f"{package} {version(package)}" for package in packages)
    today = f"{date.today():%Y-%m-%d}"
    lines = [HEAD.format(pixels=PIXELS, opset=OPSET, machine=machine(), date=today, versions=shown)]
    lines.append(f"| model | {' | '.join(COLUMNS.values())} |")
    lines.append(f"|---|{'---:|' * len(COLUMNS)}")
    met: Counter[str] = Counter()
    reasons: dict[str, list[str]] = {}
    for name, found in records.items():
        cells = []
        for column, title in COLUMNS.items():
            value = found.get(column)
            if isinstance(value, float):
                cells.append(f"{value:.0e}" if value <= TOLERANCE else f"**{value:.0e}**")
                met[column] += value <= TOLERANCE
            else:
                cells.append("-")
                shown = "not measured" if value is None else plain(value.replace(name, "the model"))
                reasons.setdefault(f"{title}: {shown}", []).append(name)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"| **of {len(records)} agree** | {' | '.join(str(met[column]) for column in COLUMNS)} |")
    if reasons:
        lines += ["", "## What does not run", ""]
        lines += [f"- {reason} ({', '.join(models)})." for reason, models in sorted(reasons.items())]
    return "\n".join(lines)


def plain(message: str) -> str:
    """An error's first line, without the place in OpenCV's source that it comes from."""
    return re.sub(r"OpenCV\(.*?\) .*?: error: ", "", message.strip().splitlines()[0])


if __name__ == "__main__":
    main()
