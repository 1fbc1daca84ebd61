"""Runtimes that run exported files, each as one function from a batch to its outputs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossstage.errors import ConfigError, ExportError

Runtime = Literal["onnxruntime", "openvino", "opencv"]
Precision = Literal["fp32", "bf16"]
Floats = NDArray[np.float32]
Session = Callable[[Floats], list[Floats]]
"""From images ``(N, 3, H, W)`` to the file's outputs in its header's order."""

RUNTIMES: dict[Runtime, str] = {"openvino": "openvino", "onnxruntime": "onnxruntime", "opencv": "cv2"}
_READS: dict[Runtime, tuple[str, ...]] = {
    "openvino": (".xml", ".onnx"),
    "onnxruntime": (".onnx",),
    "opencv": (".onnx",),
}
_PRECISIONS: dict[Runtime, tuple[Precision, ...]] = {
    "openvino": ("fp32", "bf16"),
    "onnxruntime": ("fp32",),
    "opencv": ("fp32",),
}


def installed(path: Path | None = None, precision: Precision = "fp32") -> list[Runtime]:
    """The installed runtimes that have a precision, and that read a file if one is given."""
    return [
        runtime
        for runtime, module in RUNTIMES.items()
        if importlib.util.find_spec(module) is not None
        and (path is None or path.suffix in _READS[runtime])
        and precision in _PRECISIONS[runtime]
    ]


def start(
    path: Path, runtime: Runtime, outputs: Sequence[str], *, threads: int | None = None, precision: Precision = "fp32"
) -> Session:
    """Load an exported file into a runtime.

    Args:
        path: An ``.onnx`` file, or OpenVINO's ``.xml``.
        runtime: What runs it.
        outputs: Names of the outputs.
        threads: How many to use; None leaves it to the runtime.
        precision: Of the arithmetic: ``"bf16"`` where the processor has it. What a file stores as int8 stays int8.

    Raises:
        ConfigError: The runtime is not installed, does not read such a file or has no such precision.
        ExportError: The runtime cannot load the file.
    """
    if runtime not in installed():
        raise ConfigError(f"{runtime} is not installed; try: pip install {_PACKAGES[runtime]}")
    if path.suffix not in _READS[runtime]:
        raise ConfigError(f"{runtime} does not read {path}; expected {' or '.join(_READS[runtime])}")
    if precision not in _PRECISIONS[runtime]:
        raise ConfigError(f"{runtime} has no {precision} arithmetic on a CPU; openvino and torch have")
    try:
        return _START[runtime](path, list(outputs), threads, precision)
    except Exception as error:  # each runtime has errors of its own, without a common base
        raise ExportError(f"{path}: {runtime} cannot load it: {_first_line(error)}") from error


def _onnxruntime(path: Path, outputs: list[str], threads: int | None, _precision: Precision) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of every constant that it cannot fold
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(images: Floats) -> list[Floats]:
        results: Any = session.run(outputs, {name: images})
        return results

    return run


def _openvino(path: Path, outputs: list[str], threads: int | None, precision: Precision) -> Session:
    import openvino

    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
    }
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    core = openvino.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError("this processor has no bf16 arithmetic")
    request = core.compile_model(str(path), "CPU", options).create_infer_request()

    def run(images: Floats) -> list[Floats]:
        request.infer([images], share_inputs=True)
        return [request.get_tensor(name).data.copy() for name in outputs]

    return run


def _opencv(path: Path, outputs: list[str], threads: int | None, _precision: Precision) -> Session:
    import cv2

    if threads is not None:
        cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(str(path))

    def run(images: Floats) -> list[Floats]:
        net.setInput(images)
        results: Any = net.forward(outputs)
        return list(results)

    return run


_START: dict[Runtime, Callable[[Path, list[str], int | None, Precision], Session]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "opencv": _opencv,
}
_PACKAGES: dict[Runtime, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "opencv": "opencv-python-headless",
}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
