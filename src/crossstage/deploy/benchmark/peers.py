"""What users would run instead: the same networks by others, and others' networks for the same job."""

from __future__ import annotations

import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage.deploy.backends.onnx import OPSET
from crossstage.deploy.backends.shared import silent
from crossstage.deploy.benchmark.networks import billions
from crossstage.deploy.benchmark.running import Run
from crossstage.deploy.cache import exported_as
from crossstage.deploy.sessions import installed, start
from crossstage.errors import ConfigError, ExportError
from crossstage.models.detector import Detector
from crossstage.models.registry import Model
from crossstage.weights.peers import twin_of
from crossstage.weights.ref import NAMED, parse

NANO = ("yolov8n", "yolo11n")
DARKNET = "OpenCV DNN, Darknet files"
PINNED = f"{DARKNET}, a core for each thread"


@dataclass(frozen=True)
class Peer:
    """A competitor.

    Attributes:
        model: The network's name.
        runtime: What runs it, for people.
        gflops: Billions of operations of a pass; None if nobody counted.
        open: Makes the network run; raises whatever its library does.
    """

    model: str
    runtime: str
    gflops: float | None
    open: Callable[[], Run]

    @property
    def label(self) -> str:
        """Model and runtime."""
        return f"{self.model}, {self.runtime}"


def peers_of(name: str, model: Model, size: int, threads: int) -> Iterator[Peer]:
    """Yield the peers that there are for a network and that are installed.

    Args:
        name: The network's name.
        model: The network.
        size: Side of the input in pixels.
        threads: Number of threads of each runtime.
    """
    if importlib.util.find_spec("cv2") is not None:
        flops = billions(model, size)
        yield Peer(name, DARKNET, flops, lambda: opencv_darknet(model, size, threads))
        yield Peer(name, PINNED, flops, lambda: own_cores(opencv_darknet(model, size, threads), size, threads))
    yield from _timm(name, size)
    if isinstance(model, Detector):
        yield from _ultralytics(size, threads)


def opencv_darknet(model: Model, size: int, threads: int) -> Run:
    """Return the paper's own set-up on a CPU: Darknet's files of a network in OpenCV's DNN module.

    Args:
        model: The network.
        size: Side of the input in pixels.
        threads: Number of threads of OpenCV.

    Raises:
        ExportError: Darknet, or OpenCV's reader of its files, has no layers for the network.
    """
    import cv2

    if not hasattr(cv2.dnn, "readNetFromDarknet"):
        raise ExportError(f"OpenCV {cv2.__version__} no longer reads Darknet's files; expected a version before 5")
    cfg = exported_as(model, "model", "darknet", imgsz=size)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(cfg.with_suffix(".weights")))
    cv2.setNumThreads(threads)
    outputs = net.getUnconnectedOutLayersNames()

    def run(images: Tensor) -> object:
        net.setInput(images.numpy())
        return net.forward(outputs)

    return run


def own_cores(run: Run, size: int, threads: int) -> Run:
    """Return a run whose threads get a core each.

    Threads that wait for each other look idle, and some schedulers put such on one core while another has nothing to
    do. OpenCV's wait; those of other runtimes ask again and again, or are bound to cores by the runtime.

    Args:
        run: A pass that keeps its threads from call to call.
        size: Side of an input in pixels.
        threads: Number of its threads.

    Raises:
        ConfigError: The system does not let threads be bound (Linux does).
    """
    if not _TASKS.is_dir():
        raise ConfigError("this system does not bind threads to cores")
    images = torch.rand(1, 3, size, size)
    run(images)
    time.sleep(QUIET)
    before = _busy()
    run(images)
    spent = {thread: ns - before.get(thread, 0) for thread, ns in _busy().items() if thread != os.getpid()}
    workers = sorted(spent, key=lambda thread: spent[thread], reverse=True)[: threads - 1]
    everywhere = sorted(os.sched_getaffinity(0))
    places = {thread: everywhere[index % len(everywhere)] for index, thread in enumerate((os.getpid(), *workers))}

    def bound(images: Tensor) -> object:
        for thread, core in places.items():
            os.sched_setaffinity(thread, {core})
        try:
            return run(images)
        finally:
            for thread in places:
                os.sched_setaffinity(thread, everywhere)

    return bound


_TASKS = Path("/proc/self/task")
QUIET = 0.2  # seconds in which other runtimes' threads stop asking for work


def _busy() -> dict[int, int]:
    """Return the nanoseconds that each thread has run."""
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) for task in _TASKS.iterdir()}


def _timm(name: str, size: int) -> Iterator[Peer]:
    ref = parse(name)
    twin = twin_of(ref.name, "timm") if ref.kind in NAMED else None
    if twin is None or importlib.util.find_spec("timm") is None:
        return
    timm: Any = importlib.import_module("timm")
    network = timm.create_model(twin).eval()
    yield Peer(f"timm {twin}", "torch eager", billions(network, size), lambda: network)


def _ultralytics(size: int, threads: int) -> Iterator[Peer]:
    """Yield untrained networks, as weights do not change speed, in PyTorch and each runtime that reads ONNX files."""
    if importlib.util.find_spec("ultralytics") is None:
        return
    ultralytics: Any = importlib.import_module("ultralytics")
    for name in NANO:
        with silent():
            network = ultralytics.YOLO(f"{name}.yaml").model.eval().fuse()
        gflops = billions(network, size)
        yield Peer(f"ultralytics {name}", "torch fused", gflops, lambda network=network: network)
        for runtime in installed(Path("model.onnx")):
            yield Peer(
                f"ultralytics {name}",
                runtime,
                gflops,
                partial(_in_runtime, network, runtime, size=size, threads=threads),
            )


def _in_runtime(network: torch.nn.Module, runtime: str, *, size: int, threads: int) -> Run:
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
    return lambda images: session(images.numpy())
