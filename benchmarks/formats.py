"""Every model in every format, run by every runtime: how far its outputs are from PyTorch's.

    python benchmarks/formats.py run FOLDER [PATTERN] [--opencv5 SITE]    # one line of FOLDER/*.json for each model
    python benchmarks/formats.py report FOLDER > docs/claims/formats.md

Weights are random, batch norm's statistics those of noise. OpenCV 5 cannot be installed beside 4: ``SITE`` is a folder
that ``pip install --target SITE 'opencv-python-headless>=5'`` filled.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import machine

from crossstage import CrossStageError, create_model, list_models
from crossstage.detectors import Detector, OneStageDetector
from crossstage.export import FORMATS, FormatName, export
from crossstage.export.export import FLOOR, TOLERANCE
from crossstage.heads import Classifier
from crossstage.runtimes import installed, start

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
    parser.add_argument("--opencv5", type=Path)
    options = parser.parse_args()
    if options.verb == "report":
        print(report(options.folder))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in list_models(options.pattern):
        record = options.folder / f"{name}.json"
        known = json.loads(record.read_text()) if record.is_file() else {}
        begun = time.perf_counter()
        found = known | measure(name, options.opencv5, known)
        record.write_text(json.dumps(found, indent=1))
        print(f"{name}: {time.perf_counter() - begun:.0f} s, {found}", file=sys.stderr, flush=True)


def measure(name: str, opencv5: Path | None, known: Mapping[str, Any]) -> dict[str, Any]:
    """For each column that is not known the largest relative difference, or why there is none."""
    columns = {"onnx": "onnxruntime", "openvino": "openvino_folder"}
    missing: list[FormatName] = [format for format in FORMATS if columns.get(format, format) not in known]
    if not missing:
        return {}
    model = prepared(name)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format in missing:
            column = "openvino_folder" if format == "openvino" else format
            path = Path(folder) / f"model{FORMATS[format].suffix}"
            try:
                found[column] = export(model, name, format, path, imgsz=PIXELS).difference
            except CrossStageError as error:
                found[column] = str(error)
        written = found.pop("onnx", None)
        if isinstance(written, float):
            found |= in_runtimes(Path(folder) / "model.onnx", model, opencv5)
        elif written is not None:
            found |= dict.fromkeys((*RUNTIMES, "opencv5"), written)
    return found


def prepared(name: str) -> Detector | Classifier:
    """The model with random weights, and activations of a sensible size all the way down."""
    torch.manual_seed(0)
    model = create_model(name)
    assert isinstance(model, (Detector, Classifier))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # an average of all passes
    with torch.no_grad():
        model.train()(torch.rand(4, 3, PIXELS, PIXELS))
    return model.eval()


def in_runtimes(path: Path, model: Detector | Classifier, opencv5: Path | None) -> dict[str, Any]:
    """The ONNX file in each runtime."""
    images = torch.rand(1, 3, PIXELS, PIXELS)
    with torch.inference_mode():
        output = model(images)
    expected = [tensor.numpy() for tensor in ([output] if isinstance(output, torch.Tensor) else output)]
    outputs = names(model)
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
    assert isinstance(model, OneStageDetector)
    return [f"stride{level.stride}" for level in model.head.levels]


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

Written by `python benchmarks/formats.py report`, whose `run` made the files: every model of the registry with random
weights and batch norm's statistics of noise, at {pixels} x {pixels} pixels, exported to every format and run. A figure
is the largest difference to the outputs of PyTorch's unfused model, relative to the largest output; the bar is 1e-4.
ONNX files are of opset 18, by PyTorch's dynamo exporter, simplified. {machine}; {versions}.

"""


def report(folder: Path) -> str:
    """The table, and what does not run and why."""
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    packages = ("onnx", "onnxscript", "onnxslim", "onnxruntime", "openvino", "opencv-python-headless", "ncnn", "pnnx")
    told = ", ".join(f"{package} {version(package)}" for package in packages)
    lines = [HEAD.format(pixels=PIXELS, machine=machine(), versions=told)]
    lines.append(f"| model | {' | '.join(COLUMNS.values())} |")
    lines.append(f"|---|{'---:|' * len(COLUMNS)}")
    reasons: dict[str, list[str]] = {}
    for name, found in records.items():
        cells = []
        for column, title in COLUMNS.items():
            value = found.get(column)
            if isinstance(value, float):
                cells.append(f"{value:.0e}" if value <= TOLERANCE else f"**{value:.0e}**")
            else:
                cells.append("-")
                if value:
                    reasons.setdefault(f"{title}: {value.replace(name, '...')}", []).append(name)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    met = sum(isinstance(v, float) and v <= TOLERANCE for found in records.values() for v in found.values())
    lines += ["", f"{met} of {len(records) * len(COLUMNS)} agree to 1e-4.", "", "## What does not", ""]
    lines += [f"- {reason} ({len(models)}: {', '.join(models)})" for reason, models in sorted(reasons.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
