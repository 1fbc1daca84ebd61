"""ONNX Runtime runs ONNX files on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossstage.deploy.backends.base import Arithmetic, Backend, Runtime

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Floats, Session


def start(path: Path, outputs: Sequence[str], threads: int | None, _precision: Arithmetic, _streams: int) -> Session:
    """Load a file; see :class:`~crossstage.deploy.backends.base.Runtime`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of every constant that it cannot fold
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    names = list(outputs)

    def run(images: Floats) -> list[Floats]:
        results: Any = session.run(names, {name: images})
        return results

    return run


BACKENDS = {
    "onnxruntime": Backend(
        label="ONNX Runtime",
        module="onnxruntime",
        install="crossstage[export]",
        preference=30,
        distributions=("onnxruntime",),
        runtime=Runtime(reads=(".onnx",), start=start, format="onnx", int8_format="onnx", second_stage=True),
    )
}
