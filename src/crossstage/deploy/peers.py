"""What users would run instead: the same networks by others, and others' networks for the same job."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage.deploy.rows import Run, billions
from crossstage.detectors import Detector
from crossstage.errors import CrossStageError
from crossstage.export import export
from crossstage.export.onnx import OPSET, silent
from crossstage.runtimes import installed, start
from crossstage.zoo.peers import twin_of
from crossstage.zoo.registry import Model

NANO = ("yolov8n", "yolo11n")


@dataclass(frozen=True)
class Peer:
    """A competitor, ready to run.

    Attributes:
        model: Its name.
        runtime: What runs it, for people.
        gflops: Of a pass, in billions; None if nobody counted.
        run: Runs it.
    """

    model: str
    runtime: str
    gflops: float | None
    run: Run


def peers_of(name: str, model: Model, size: int, threads: int) -> Iterator[Peer]:
    """Those that there are for a network and that are installed.

    Args:
        name: The network's name.
        model: The network.
        size: Side of the input in pixels.
        threads: For each runtime.
    """
    yield from _opencv_darknet(name, model, size, threads)
    yield from _timm(name, size)
    if isinstance(model, Detector):
        yield from _ultralytics(size, threads)


def _opencv_darknet(name: str, model: Model, size: int, threads: int) -> Iterator[Peer]:
    """The paper's own set-up on a CPU; of networks that Darknet cannot express there is none."""
    if importlib.util.find_spec("cv2") is None:
        return
    import cv2

    if not hasattr(cv2.dnn, "readNetFromDarknet"):  # gone in OpenCV 5
        return
    with tempfile.TemporaryDirectory(prefix="crossstage-") as folder:
        cfg = Path(folder) / "model.cfg"
        try:
            export(model, "model", "darknet", cfg, imgsz=size)
            net = cv2.dnn.readNetFromDarknet(str(cfg), str(cfg.with_suffix(".weights")))
        except (CrossStageError, cv2.error):
            return
    cv2.setNumThreads(threads)
    outputs = net.getUnconnectedOutLayersNames()

    def run(images: Tensor) -> object:
        net.setInput(images.numpy())
        return net.forward(outputs)

    yield Peer(name, "OpenCV DNN, Darknet files", billions(model, size), run)


def _timm(name: str, size: int) -> Iterator[Peer]:
    twin = twin_of(name, "timm")
    if twin is None or importlib.util.find_spec("timm") is None:
        return
    timm: Any = importlib.import_module("timm")
    network = timm.create_model(twin).eval()
    yield Peer(f"timm {twin}", "torch eager", billions(network, size), network)


def _ultralytics(size: int, threads: int) -> Iterator[Peer]:
    """Untrained, as speed does not depend on weights; in PyTorch, and in the first runtime that is installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return
    ultralytics: Any = importlib.import_module("ultralytics")
    for name in NANO:
        network = ultralytics.YOLO(f"{name}.yaml").model.eval().fuse()
        gflops = billions(network, size)
        yield Peer(f"ultralytics {name}", "torch fused", gflops, network)
        for runtime in installed()[:1]:
            with tempfile.TemporaryDirectory(prefix="crossstage-") as folder, silent():
                path = Path(folder) / "model.onnx"
                torch.onnx.export(
                    network,
                    (torch.zeros(1, 3, size, size),),
                    path,
                    dynamo=True,
                    opset_version=OPSET,
                    input_names=["images"],
                    output_names=["predictions"],
                    verbose=False,
                )
                session = start(path, runtime, ["predictions"], threads=threads)
            yield Peer(f"ultralytics {name}", runtime, gflops, lambda images, session=session: session(images.numpy()))
