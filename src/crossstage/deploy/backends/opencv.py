"""OpenCV's DNN module runs ONNX files. It also reads Darknet's, which :mod:`crossstage.deploy.benchmark.peers` uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossstage.deploy.backends.base import Arithmetic, Backend, Runtime
from crossstage.deploy.backends.shared import take_turns

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Floats, Session


def start(path: Path, outputs: Sequence[str], threads: int | None, _precision: Arithmetic, streams: int) -> Session:
    """Load a file; see :class:`~crossstage.deploy.backends.base.Runtime`."""
    import cv2

    if threads is not None:
        cv2.setNumThreads(threads)
    names = list(outputs)

    def session() -> Session:
        net = cv2.dnn.readNetFromONNX(str(path))

        def run(images: Floats) -> list[Floats]:
            net.setInput(images)
            results: Any = net.forward(names)
            return list(results)

        return run

    return take_turns([session() for _ in range(streams)])


BACKENDS = {
    "opencv": Backend(
        label="OpenCV DNN",
        module="cv2",
        install="crossstage[opencv]",
        preference=50,
        distributions=("opencv-python-headless", "opencv-python"),
        runtime=Runtime(reads=(".onnx",), start=start, format="onnx", winograd=True),
    )
}
