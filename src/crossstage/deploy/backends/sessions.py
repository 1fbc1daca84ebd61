"""Runtimes that run exported files, each as one function from a batch to its outputs."""

from __future__ import annotations

import importlib
import importlib.util
import os
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossstage.errors import ConfigError, ExportError
from crossstage.machine import cores, has_bf16

Runtime = Literal["onnxruntime", "openvino", "opencv", "ncnn"]
Precision = Literal["fp32", "bf16"]
Floats = NDArray[np.float32]
Session = Callable[[Floats], list[Floats]]
"""From images ``(N, 3, H, W)`` to the file's outputs in its header's order."""

RUNTIMES: dict[Runtime, str] = {"openvino": "openvino", "onnxruntime": "onnxruntime", "ncnn": "ncnn", "opencv": "cv2"}
_READS: dict[Runtime, tuple[str, ...]] = {
    "openvino": (".xml", ".onnx"),
    "onnxruntime": (".onnx",),
    "ncnn": (".param",),
    "opencv": (".onnx",),
}
_PRECISIONS: dict[Runtime, tuple[Precision, ...]] = {
    "openvino": ("fp32", "bf16"),
    "onnxruntime": ("fp32",),
    "ncnn": ("fp32", "bf16"),
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
    path: Path,
    runtime: Runtime,
    outputs: Sequence[str],
    *,
    threads: int | None = None,
    precision: Precision = "fp32",
    streams: int = 1,
) -> Session:
    """Load an exported file into a runtime.

    Args:
        path: An ``.onnx`` file, OpenVINO's ``.xml`` or ncnn's ``.param``.
        runtime: What runs it.
        outputs: Names of the outputs.
        threads: How many to use; None leaves it to the runtime.
        precision: Of the arithmetic: ``"bf16"`` where the processor has it. What a file stores as int8 stays int8.
        streams: From how many threads it will be called at once; they share ``threads``.

    Raises:
        ConfigError: The runtime is not installed, does not read such a file or has no such precision, or the processor
            has not.
        ExportError: The runtime cannot load the file.
    """
    if runtime not in installed():
        raise ConfigError(f"{runtime} is not installed; try: pip install {_PACKAGES[runtime]}")
    if path.suffix not in _READS[runtime]:
        raise ConfigError(f"{runtime} does not read {path}; expected {' or '.join(_READS[runtime])}")
    if precision not in _PRECISIONS[runtime]:
        raise ConfigError(f"{runtime} has no {precision} arithmetic on a CPU; torch, openvino and ncnn have")
    check_precision(precision)
    if streams > 1:
        threads = max(1, (threads or cores()) // streams)
    try:
        return _START[runtime](path, list(outputs), threads, precision, streams)
    except Exception as error:  # each runtime has errors of its own, without a common base
        raise ExportError(f"{path}: {runtime} cannot load it: {_first_line(error)}") from error


def check_precision(precision: Precision) -> None:
    """Refuse what the processor has no arithmetic for, and would imitate slowly.

    Raises:
        ConfigError: It has no bfloat16.
    """
    if precision == "bf16" and not has_bf16():
        raise ConfigError("precision bf16: this processor has no bfloat16 arithmetic; expected fp32")


def _onnxruntime(path: Path, outputs: list[str], threads: int | None, _precision: Precision, _streams: int) -> Session:
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


def _openvino(path: Path, outputs: list[str], threads: int | None, precision: Precision, streams: int) -> Session:
    import openvino

    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": streams,
    }
    if streams > 1:
        options["ENABLE_CPU_PINNING"] = False  # what surrounds the network would wait for its core
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads * streams
    compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def session() -> Session:
        request = compiled.create_infer_request()

        def run(images: Floats) -> list[Floats]:
            request.infer([images], share_inputs=True)
            return [request.get_tensor(name).data.copy() for name in outputs]

        return run

    return _shared([session() for _ in range(streams)])


def _opencv(path: Path, outputs: list[str], threads: int | None, _precision: Precision, streams: int) -> Session:
    import cv2

    if threads is not None:
        cv2.setNumThreads(threads)

    def session() -> Session:
        net = cv2.dnn.readNetFromONNX(str(path))

        def run(images: Floats) -> list[Floats]:
            net.setInput(images)
            results: Any = net.forward(outputs)
            return list(results)

        return run

    return _shared([session() for _ in range(streams)])


def _ncnn(path: Path, outputs: list[str], threads: int | None, precision: Precision, _streams: int) -> Session:
    """The only one with Winograd's convolutions beside OpenCV; outputs are numbered in its files."""
    ncnn = _ncnn_module()
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = precision == "bf16"
    net.opt.num_threads = threads or cores()
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise RuntimeError("it is damaged, or has a layer that this version lacks")

    def run(images: Floats) -> list[Floats]:
        if len(images) != 1:
            raise ValueError(f"it takes one image at a time, not {len(images)}")
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(images[0]))
        results = []
        for index, name in enumerate(outputs):
            failed, output = extractor.extract(f"out{index}")
            if failed:
                raise RuntimeError(f"it has not computed {name}")
            results.append(np.array(output)[None])
        return results

    return run


def _ncnn_module() -> Any:
    """The package, whose threads wait for each other in a loop only for a moment.

    By default for milliseconds, during which a thread may hold the core that the one it waits for needs. The OpenMP
    library that lies in the package reads this when it is loaded, and never again.
    """
    name = "GOMP_SPINCOUNT"
    told = os.environ.get(name)
    os.environ[name] = told or "10000"
    try:
        return importlib.import_module("ncnn")  # an import statement's stub lacks all that is used here
    finally:
        if told is None:
            del os.environ[name]


def _shared(sessions: Sequence[Session]) -> Session:
    """One session of several that take a call at a time."""
    if len(sessions) == 1:
        return sessions[0]
    idle: queue.SimpleQueue[Session] = queue.SimpleQueue()
    for session in sessions:
        idle.put(session)

    def run(images: Floats) -> list[Floats]:
        session = idle.get()
        try:
            return session(images)
        finally:
            idle.put(session)

    return run


_START: dict[Runtime, Callable[[Path, list[str], int | None, Precision, int], Session]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "opencv": _opencv,
}
_PACKAGES: dict[Runtime, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn pnnx",
    "opencv": "opencv-python-headless",
}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
