"""Models opened by name or file, to be run by PyTorch or another runtime."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crossstage.deploy.backends import BACKENDS, ordered, runtime_names
from crossstage.deploy.backends.base import Arithmetic
from crossstage.deploy.cache import exported_file
from crossstage.deploy.choose import REFERENCE, Candidate, choose
from crossstage.deploy.exported import ExportedClassifier, ExportedDetector, open_exported
from crossstage.deploy.reading import is_exported
from crossstage.deploy.sessions import check_precision, installed, installed_runtime
from crossstage.errors import ConfigError, one_of
from crossstage.inference.class_names import class_ids_of
from crossstage.inference.classify import Classification, ClassPredictor
from crossstage.inference.model import ClassificationModel, DetectionModel
from crossstage.inference.predictor import Predictor
from crossstage.machine import cores
from crossstage.models.classifier import Classifier
from crossstage.models.registry import Model
from crossstage.ops.nms import NMSKind, changed
from crossstage.weights.loading import LOADED, load_on
from crossstage.weights.ref import parse

if TYPE_CHECKING:
    from supervision import Detections

AUTO = "auto"
"""The choice of ``runtime`` that takes the fastest."""

Runnable = Model | ExportedDetector | ExportedClassifier
MOST_STREAMS = 8  # each has activations of its own


@dataclass(frozen=True)
class Opened:
    """A model that is ready to run; one of ``detector`` and ``classifier`` is set.

    Attributes:
        runtime: The name of the backend that runs it.
        detector: The detector; None if the model is a classifier.
        classifier: The classifier; None if the model is a detector.
        imgsz: Side of the input in pixels, or its height and width, that it was opened for; None for the model's own.
        batch: Images of a pass.
        streams: Passes that are computed side by side.
        message: How the runtime was chosen, for people; empty where there was no choice.
    """

    runtime: str
    detector: DetectionModel | None = None
    classifier: ClassificationModel | None = None
    imgsz: int | tuple[int, int] | None = None
    batch: int = 1
    streams: int = 1
    message: str = ""

    def predict(
        self,
        source: Any,
        *,
        conf: float = 0.25,
        iou: float | None = None,
        classes: Sequence[str | int] | None = None,
        nms: NMSKind | None = None,
        max_detections: int = 300,
        top: int = 5,
    ) -> Iterator[Detections] | Iterator[Classification]:
        """Predict by this runtime, as :meth:`crossstage.Detector.predict` or a classifier's method of that name does.

        Args:
            source: Images, as for :meth:`crossstage.Detector.predict`.
            conf: Detections score more than this, in [0, 1].
            iou: Of two boxes of a class that overlap more than this, in [0, 1], the weaker goes; None takes the
                model's own, 0.45 of YOLO detectors.
            classes: Name, names or ids of the classes to look for; None looks for all.
            nms: The kind of suppression, see :class:`~crossstage.ops.nms.NMS`; None takes the model's own.
            max_detections: The most detections of an image.
            top: Number of classes that a classifier names for each image, the likeliest first.

        Raises:
            DataError: Nothing was found at ``source``.
            ConfigError: An option is out of range or a class is unknown.
        """
        size, batch = self.imgsz, self.batch
        if self.classifier is not None:
            predictor = ClassPredictor(self.classifier, imgsz=size, top=top, batch=batch, streams=self.streams)
            return (entry for entry in predictor.predict(source) if isinstance(entry, Classification))
        assert self.detector is not None
        class_ids = class_ids_of(classes, self.detector.class_names)
        settings = changed(
            self.detector.nms, score=conf, iou=iou, kind=nms, max_detections=max_detections, class_ids=class_ids
        )
        return Predictor(self.detector, settings, imgsz=size, batch=batch, streams=self.streams).detections(source)


def open_model(
    model: str | Path | Model,
    *,
    runtime: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    precision: Arithmetic = "fp32",
    compiled: bool = False,
    imgsz: int | tuple[int, int] | None = None,
    batch: int = 1,
    streams: int = 1,
) -> Opened:
    """Open a model to run it::

        for detections in crossstage.open_model("cspdarknet53_tiny_yolo.coco", runtime="auto").predict("photos"):
            print(detections.data["class_name"], detections.confidence)

    Args:
        model: A name or file, see :func:`crossstage.load`; what ``crossstage export`` wrote for ONNX, OpenVINO, ncnn or
            another backend that runs files; or a detector or classifier.
        runtime: The name of the backend that runs it, such as ``"torch"`` or ``"openvino"``. ``"auto"`` takes the
            fastest installed one that reproduces PyTorch's output on this machine, and remembers which that was. None
            takes PyTorch; for an exported file the first installed one that reads it.
        device: The device for PyTorch, such as ``"cuda:1"``; None takes a GPU if there is one. The others run on the
            CPU.
        threads: Number of threads to use on a CPU; None leaves it to the runtime.
        precision: What it computes in: ``"bf16"`` where runtime and processor have it.
        compiled: Whether PyTorch compiles the model.
        imgsz: Side of the input in pixels, or its height and width, that the model will be given; None for the size it
            was trained at.
        batch: Images of a pass that the model will be given.
        streams: Passes to compute side by side, which share the threads: on a CPU more images of a folder in a
            second than one after the other, each of them later.

    Raises:
        ConfigError: A name, an option or a runtime is unknown or not there.
        DataError: The cache of exported files cannot be written.
        WeightsError: A file is damaged or not one of ours.
        ExportError: The model cannot be exported for the runtime, or the runtime cannot run it.
    """
    for option, value in (("threads", threads), ("batch", batch), ("streams", streams)):
        if value is not None and value < 1:
            raise ConfigError(f"{option}={value}; expected at least 1")
    if runtime not in (None, AUTO, *runtime_names()):
        raise ConfigError(f"runtime {runtime!r} is unknown; {one_of(runtime, [AUTO, *runtime_names()])}")
    if threads is not None:
        torch.set_num_threads(threads)
    opened: dict[str, Any] = {"imgsz": imgsz, "batch": batch, "streams": streams}
    if isinstance(model, (str, Path)):
        ref = parse(model, (*LOADED, "exported"), is_exported)
        if ref.kind == "exported":
            exported = _exported(ref.file, runtime, device, threads, precision, compiled, streams)
            return _opened(exported, exported.runtime, **opened)
    prepare = BACKENDS[runtime or REFERENCE].prepare if runtime != AUTO else None
    if prepare is None and (compiled or device not in (None, "cpu")):
        raise ConfigError(f"{runtime} runs on the CPU and does not compile; device and compiled are for torch")
    if prepare is None and runtime and runtime != AUTO:
        installed_runtime(runtime)  # before a minute of exporting
    name = str(model) if isinstance(model, (str, Path)) else type(model).__name__
    loaded = _loaded(model, device if prepare else "cpu")
    on_cpu = next(loaded.parameters()).device.type == "cpu"
    if on_cpu:
        check_precision(precision)
    if prepare:
        if compiled or not on_cpu:
            opened["streams"] = 1  # a GPU's work is one stream; compiled code has its number of threads built in
        return _opened(prepare(loaded, precision, compiled), runtime or REFERENCE, **opened)

    def candidate(name_of_runtime: str, streams: int) -> Runnable:
        file = exported_file(loaded, name, name_of_runtime, imgsz=imgsz, batch=batch)
        return open_exported(file, name_of_runtime, threads=threads, precision=precision, streams=streams)

    if runtime and runtime != AUTO:
        return _opened(candidate(runtime, streams), runtime, **opened)
    candidates: dict[str, Candidate] = {
        other: lambda _, make=backend.prepare: make(loaded, precision, False)
        for other, backend in ordered().items()
        if backend.prepare and backend.installed
    }
    candidates |= {other: partial(candidate, other) for other in installed(precision=precision)}
    chosen = choose(loaded, candidates, imgsz=imgsz, batch=batch, threads=threads, precision=precision, streams=streams)
    return _opened(chosen.model, chosen.runtime, **opened, message=str(chosen))


def _loaded(model: str | Path | Model, device: str | None) -> Model:
    if isinstance(model, (str, Path)):
        return load_on(model, device)
    return copy.deepcopy(model).to(device or next(model.parameters()).device).eval()


def _opened(model: Runnable, runtime: str, **about: Any) -> Opened:
    if isinstance(model, (Classifier, ExportedClassifier)):
        return Opened(runtime, classifier=model, **about)
    return Opened(runtime, detector=model, **about)


def streams_for(threads: int | None, *, single: bool, live: bool) -> int:
    """Return how many passes to compute side by side for a source.

    Threads that share a pass wait for each other at every layer, and so for each image that another thread reads or
    draws on one's core; passes of one thread each do not. An image alone, or a camera's, is wanted soon.

    Args:
        threads: Number of threads to use; None for a thread on each core.
        single: Whether the source is one image.
        live: Whether images come when they come, as from a camera.
    """
    return 1 if single or live else min(MOST_STREAMS, threads or cores())


def _exported(
    path: Path,
    runtime: str | None,
    device: str | None,
    threads: int | None,
    precision: Arithmetic,
    compiled: bool,
    streams: int,
) -> ExportedDetector | ExportedClassifier:
    if compiled or (runtime not in (None, AUTO) and BACKENDS[runtime].runtime is None):
        raise ConfigError(f"{runtime or REFERENCE} does not run {path}; expected the model that it was exported from")
    if device not in (None, "cpu"):
        raise ConfigError(f"{path} runs on the CPU; device {device!r} is for models that torch runs")
    chosen = None if runtime == AUTO else runtime
    return open_exported(path, chosen, threads=threads, precision=precision, streams=streams)
