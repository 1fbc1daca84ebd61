"""Exported files as models: what :mod:`crossstage.inference` and :mod:`crossstage.evaluation` ask of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from crossstage.deploy.backends import BACKENDS, runtimes
from crossstage.deploy.backends.base import Arithmetic
from crossstage.deploy.header import ExportHeader
from crossstage.deploy.instances import from_rows
from crossstage.deploy.reading import graph_file, read_header
from crossstage.deploy.sessions import installed, start
from crossstage.errors import ConfigError, ExportError, WeightsError
from crossstage.models.heads.base import Head, Raw
from crossstage.ops.nms import NMS, postprocess
from crossstage.structures import Instances, Preprocessing

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Session

T = TypeVar("T")


class _Exported:
    """What exported detectors and classifiers have in common.

    Args:
        header: What the file says of itself.
        session: Runs the file.
        path: The file, for messages.
        runtime: The name of what runs it, for messages.
    """

    def __init__(self, header: ExportHeader, session: Session, path: Path, runtime: str) -> None:
        self.header, self.session, self.path, self.runtime = header, session, path, runtime
        self.class_names = header.class_names
        self.size_divisor = header.size_divisor

    def run(self, images: Tensor) -> list[Tensor]:
        """Return the file's outputs for prepared images ``(N, 3, H, W)``.

        Raises:
            ConfigError: The file takes another number of images, or another size.
            ExportError: The runtime failed.
        """
        self._check(tuple(images.shape))
        try:
            outputs = self.session(np.ascontiguousarray(images.numpy(), dtype=np.float32))
        except Exception as error:  # each runtime has errors of its own, without a common base
            raise ExportError(f"{self.path}: {self.runtime} cannot run it: {error}") from error
        if len(outputs) != len(self.header.output_names):
            raise WeightsError(f"{self.path}: {len(outputs)} outputs; its header says {len(self.header.output_names)}")
        return [torch.from_numpy(np.asarray(output)) for output in outputs]

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = self.header.preprocessing
        if (
            self.header.batch is None
            or expected is None
            or shape == (wanted := (self.header.batch, expected.channels, *expected.size))
        ):
            return
        raise ConfigError(
            f"{self.path} takes {' x '.join(map(str, wanted))}, not "
            f"{' x '.join(map(str, shape))}; export it with --dynamic, or for that size"
        )


class ExportedDetector(_Exported):
    """A detector in an exported file; meets :class:`~crossstage.inference.model.DetectionModel`.

    Args:
        header: What the file says of itself.
        session: Runs the file.
        path: The file, for messages.
        runtime: The name of what runs it, for messages.

    Raises:
        WeightsError: The header says nothing of preprocessing.
    """

    def __init__(self, header: ExportHeader, session: Session, path: Path, runtime: str) -> None:
        super().__init__(header, session, path, runtime)
        if header.preprocessing is None:
            raise WeightsError(f"{path}: a detector's header without preprocessing")
        self.preprocessing: Preprocessing = header.preprocessing

    def __call__(self, images: Tensor) -> list[Any]:
        """Return the file's outputs for prepared images ``(N, 3, H, W)``, for :meth:`detect` alone to read.

        Raises:
            ConfigError: The file takes another number of images, or another size.
            ExportError: The runtime failed.
        """
        if self.header.outputs == "instances":
            return [self.run(image) for image in images.split(1)]
        outputs = self.run(images)
        if self.header.outputs == "detections":  # rows of all images: apart, as other outputs are
            rows = self._rows(outputs)[0]
            return [rows[rows[:, 0] == index] for index in range(len(images))]
        return outputs

    def decode(self, raw: Sequence[Any], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Turn outputs into boxes and scores.

        Args:
            raw: What the call returned.
            image_size: Height and width of the input in pixels.

        Returns:
            Boxes ``(N, K, 4)`` as xyxy in pixels of the input, and scores ``(N, K, C)`` in [0, 1].

        Raises:
            ConfigError: Boxes were suppressed inside the graph.
            WeightsError: The outputs are not what the header says.
        """
        if self.header.outputs == "instances":
            raise ConfigError(f"{self.path} holds both stages of its detector; what comes out has been decoded")
        if self.header.outputs == "detections":
            raise ConfigError(f"{self.path} suppresses boxes inside its graph; expected one exported without --nms")
        boxes, scores = self._decode_raw(raw, image_size) if self.header.outputs == "raw" else (raw[0], raw[1])
        classes = len(self.class_names)
        if boxes.dim() != 3 or boxes.shape[2] != 4 or scores.shape != (*boxes.shape[:2], classes):
            shapes = [tuple(tensor.shape[1:]) for tensor in raw]
            raise WeightsError(f"{self.path}: outputs {shapes}; its header says boxes with {classes} scores each")
        return boxes, scores

    def _decode_raw(self, raw: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return self._by_head(lambda head, named: head.decode(named, image_size), raw)

    def _by_head(self, ask: Callable[[Head, Raw], T], raw: Sequence[Tensor]) -> T:
        stored = self.header.head
        assert stored is not None
        try:
            return ask(stored.module, dict(zip(stored.raw_names, raw, strict=True)))
        except Exception as error:  # what a header claims may not fit what a graph computes in any way
            raise WeightsError(f"{self.path}: its outputs are not those of the head in its header: {error}") from error

    @property
    def finds_masks(self) -> bool:
        """Whether detections have masks."""
        return self.header.masks or bool(self.header.head and self.header.head.module.finds_masks)

    @property
    def nms(self) -> NMS:
        """How decoded boxes become detections where nothing else is said."""
        return self.header.nms or (self.header.head.module.nms if self.header.head else NMS())

    def detect(
        self,
        raw: Sequence[Any],
        image_size: tuple[int, int],
        nms: NMS | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Instances]:
        """Return the detections of each image; see :meth:`crossstage.Detector.detect`.

        Args:
            raw: What the call returned.
            image_size: Height and width of the input in pixels.
            nms: Thresholds and kind of suppression; None takes :attr:`nms`.
            sizes: Height and width in pixels that each image has in the input, below and to the right of which it is
                padded; None where all images fill it. A file with its suppression inside takes all of its input.

        Raises:
            ConfigError: The file suppresses boxes inside its graph, and not as ``nms`` says.
            WeightsError: The outputs are not what the header says.
        """
        nms = nms or self.nms
        if self.header.outputs in ("detections", "instances"):
            self._check_suppression(nms)
            whole = self.header.outputs == "instances"
            return [from_rows(self._rows(outputs) if whole else [outputs], nms) for outputs in raw]
        if self.header.head is not None:
            return self._by_head(lambda head, named: head.detect(named, image_size, nms, sizes), raw)
        return postprocess(*self.decode(raw, image_size), nms)

    def _rows(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return outputs that are detections, as the header says.

        Raises:
            WeightsError: They are not: rows of seven numbers, of classes that have names, and a mask for each.
        """
        rows, classes = outputs[0], len(self.class_names)
        shapes = [tuple(output.shape) for output in outputs]
        if rows.dim() != 2 or rows.shape[1] != 7 or any(len(masks) != len(rows) for masks in outputs[1:]):
            raise WeightsError(f"{self.path}: outputs {shapes}; its header says detections, rows of 7 numbers each")
        ids = rows[:, 1][torch.isfinite(rows).all(1)]
        if len(ids) and not 0 <= float(ids.min()) <= float(ids.max()) < classes:
            raise WeightsError(
                f"{self.path}: finds class {float(ids.max()):g}; its header has {classes} names of classes"
            )
        return outputs

    @property
    def _otherwise(self) -> str:
        return "with these" if self.header.outputs == "instances" else "without --nms"

    def _check_suppression(self, nms: NMS) -> None:
        own = self.header.nms
        assert own is not None
        if nms.score < own.score or (nms.iou, nms.kind) != (own.iou, own.kind):
            raise ConfigError(
                f"{self.path} suppresses boxes inside its graph, at conf {own.score} and iou {own.iou}; "
                f"conf {nms.score}, iou {nms.iou} and nms {nms.kind} need one exported {self._otherwise}"
            )
        if nms.max_detections > own.max_detections:
            raise ConfigError(
                f"{self.path} finds at most {own.max_detections} objects inside its graph, not {nms.max_detections}"
            )


class ExportedClassifier(_Exported):
    """A classifier in an exported file; meets :class:`~crossstage.inference.model.ClassificationModel`."""

    def __init__(self, header: ExportHeader, session: Session, path: Path, runtime: str) -> None:
        super().__init__(header, session, path, runtime)
        self.preprocessing: Preprocessing | None = header.preprocessing

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits ``(N, classes)`` of prepared images ``(N, 3, H, W)``.

        Raises:
            ConfigError: The file takes another number of images, or another size.
            ExportError: The runtime failed.
            WeightsError: The output is not what the header says.
        """
        logits = self.run(images)[0]
        if logits.dim() != 2 or (self.class_names and logits.shape[1] != len(self.class_names)):
            shape, classes = tuple(logits.shape), len(self.class_names)
            raise WeightsError(f"{self.path}: an output {shape}; its header says a score for each of {classes} classes")
        return logits


def open_exported(
    path: str | Path,
    runtime: str | None = None,
    *,
    threads: int | None = None,
    precision: Arithmetic = "fp32",
    streams: int = 1,
) -> ExportedDetector | ExportedClassifier:
    """Open a file that ``crossstage export`` wrote.

    Args:
        path: The file, or the folder that holds it.
        runtime: The name of the backend that runs it; None takes the first installed one that reads it.
        threads: Number of threads that all passes together use; None leaves it to the runtime.
        precision: What it computes in: ``"bf16"`` where runtime and processor have it.
        streams: Number of threads that will call it at once.

    Raises:
        ConfigError: No installed runtime reads it, or the chosen one does not.
        WeightsError: It cannot be read, or was not written by crossstage.
        ExportError: The runtime cannot load it.
    """
    path = graph_file(Path(path))
    runtime = runtime or first_installed(path)
    header = read_header(path)
    if header.outputs == "instances" and not runtimes()[runtime].second_stage:
        able = [name for name, other in runtimes().items() if other.second_stage]
        raise ConfigError(f"{path} holds a second stage, which {runtime} does not run; {' and '.join(able)} do")
    session = start(path, runtime, header.output_names, threads=threads, precision=precision, streams=streams)
    kind = ExportedClassifier if header.task == "classify" else ExportedDetector
    return kind(header, session, path, runtime)


def first_installed(path: Path) -> str:
    """Return the name of the first installed runtime that reads a file.

    Raises:
        ConfigError: None is installed.
    """
    if able := installed(path):
        return able[0]
    names = [name for name, runtime in runtimes().items() if path.suffix in runtime.reads]
    hint = f"; try: pip install '{BACKENDS[names[0]].install}'" if names else ""
    raise ConfigError(f"{path}: no runtime is installed that reads it{hint}")
