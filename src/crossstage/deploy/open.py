"""Models opened by name or file, to be run by PyTorch or another runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from crossstage.deploy.cached import exported_file
from crossstage.deploy.choosing import Candidate, choose
from crossstage.deploy.pytorch import fast
from crossstage.errors import ConfigError
from crossstage.heads import Classifier
from crossstage.inference import DetectionModel
from crossstage.inference.classify import ClassificationModel
from crossstage.runtimes import (
    ExportedClassifier,
    ExportedDetector,
    Precision,
    Runtime,
    installed,
    is_exported,
    open_exported,
)
from crossstage.zoo import load_on
from crossstage.zoo.registry import Model

Engine = Literal["auto", "torch", "onnxruntime", "openvino", "opencv"]
Runnable = Model | ExportedDetector | ExportedClassifier


@dataclass(frozen=True)
class Opened:
    """A model that is ready to run; one of ``detector`` and ``classifier`` is set.

    Attributes:
        runtime: What runs it.
        detector: The detector.
        classifier: The classifier.
        told: How the runtime was chosen, for people; empty where there was no choice.
    """

    runtime: str
    detector: DetectionModel | None = None
    classifier: ClassificationModel | None = None
    told: str = ""


def _opened(model: Runnable, runtime: str, told: str = "") -> Opened:
    if isinstance(model, (Classifier, ExportedClassifier)):
        return Opened(runtime, classifier=model, told=told)
    return Opened(runtime, detector=model, told=told)


def open_model(
    name_or_path: str | Path,
    *,
    runtime: Engine | None = None,
    device: str | None = None,
    threads: int | None = None,
    precision: Precision = "fp32",
    compiled: bool = False,
    imgsz: int | None = None,
    batch: int = 1,
) -> Opened:
    """Open a model to run it.

    Args:
        name_or_path: See :func:`crossstage.load`; or an ``.onnx`` file or OpenVINO folder of ``crossstage export``.
        runtime: What runs it. ``"auto"`` takes the fastest installed that reproduces PyTorch's output on this machine,
            and remembers which that was. None takes PyTorch; for an exported file the first installed that reads it.
        device: For PyTorch, such as ``"cuda:1"``; None takes a GPU if there is one. The others run on the CPU.
        threads: How many to use on a CPU; None leaves it to the runtime.
        precision: Of the arithmetic: ``"bf16"`` where runtime and processor have it.
        compiled: Have PyTorch compile the model.
        imgsz: Side of the input in pixels that it will be given; None for the size the model was trained at.
        batch: Pictures of a pass that it will be given.

    Raises:
        ConfigError: A name, an option or a runtime is unknown or not there.
        WeightsError: A file is damaged or not one of ours.
        ExportError: The model cannot be exported for the runtime, or the runtime cannot run it.
    """
    if threads is not None:
        if threads < 1:
            raise ConfigError(f"threads={threads}; expected at least 1")
        torch.set_num_threads(threads)
    if is_exported(name_or_path):
        return _exported(Path(name_or_path), runtime, device, threads, precision, compiled)
    elsewhere = runtime not in (None, "torch")
    if elsewhere and (compiled or device not in (None, "cpu")):
        raise ConfigError(f"{runtime} runs on the CPU and does not compile; device and compiled are for torch")
    model = load_on(name_or_path, "cpu" if elsewhere else device)
    if not elsewhere:
        return _opened(fast(model, precision=precision, compiled=compiled), "torch")

    def candidate(engine: Runtime) -> Runnable:
        file = exported_file(model, str(name_or_path), imgsz=imgsz, batch=batch)
        return open_exported(file, engine, threads=threads, precision=precision)

    if runtime != "auto":
        return _opened(candidate(runtime), runtime)
    candidates: dict[str, Candidate] = {"torch": lambda: fast(model, precision=precision)}
    candidates |= {engine: (lambda engine=engine: candidate(engine)) for engine in installed(precision=precision)}
    chosen = choose(model, candidates, imgsz=imgsz, batch=batch, threads=threads, precision=precision)
    return _opened(chosen.model, chosen.runtime, str(chosen))


def _exported(
    path: Path, runtime: Engine | None, device: str | None, threads: int | None, precision: Precision, compiled: bool
) -> Opened:
    if runtime == "torch" or compiled:
        raise ConfigError(f"torch does not run {path}; expected the model that it was exported from")
    if device not in (None, "cpu"):
        raise ConfigError(f"{path} runs on the CPU; device {device!r} is for models that torch runs")
    engine = None if runtime in (None, "auto") else runtime
    model = open_exported(path, engine, threads=threads, precision=precision)
    return _opened(model, model.runtime)
