"""Exported files as models: what :mod:`crossstage.inference` and :mod:`crossstage.evaluation` ask of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossstage.deploy.backends.sessions import Precision, Runtime, Session, installed, start
from crossstage.deploy.header import Header, read_header
from crossstage.errors import ConfigError, ExportError, WeightsError
from crossstage.ops.nms import NMS, postprocess
from crossstage.structures import Instances, Preprocessing


class _Exported:
    """A header and a session."""

    def __init__(self, header: Header, session: Session, path: Path, runtime: Runtime) -> None:
        self.header, self.session, self.path, self.runtime = header, session, path, runtime
        self.class_names = header.class_names
        self.size_divisor = header.size_divisor

    def run(self, images: Tensor) -> list[Tensor]:
        """The file's outputs for ``(N, 3, H, W)`` images.

        Raises:
            ConfigError: The file takes another number of images, or another size.
            ExportError: The runtime failed.
        """
        self._check(tuple(images.shape))
        try:
            outputs = self.session(np.ascontiguousarray(images.numpy(), dtype=np.float32))
        except Exception as error:  # each runtime has errors of its own, without a common base
            raise ExportError(f"{self.path}: {self.runtime} cannot run it: {error}") from error
        return [torch.from_numpy(output) for output in outputs]

    def _check(self, shape: tuple[int, ...]) -> None:
        expected = self.header.preprocessing
        if self.header.batch is None or expected is None or shape == (self.header.batch, 3, *expected.size):
            return
        raise ConfigError(
            f"{self.path} takes {self.header.batch} x 3 x {expected.size[0]} x {expected.size[1]}, not "
            f"{' x '.join(map(str, shape))}; export it with --dynamic, or for that size"
        )


class ExportedDetector(_Exported):
    """A detector in an exported file; meets :class:`~crossstage.structures.DetectionModel`.

    Args:
        header: What the file says of itself.
        session: Runs it.
        path: For messages.
        runtime: For messages.
    """

    def __init__(self, header: Header, session: Session, path: Path, runtime: Runtime) -> None:
        super().__init__(header, session, path, runtime)
        if header.preprocessing is None:
            raise WeightsError(f"{path}: a detector's header without preprocessing")
        self.preprocessing: Preprocessing = header.preprocessing

    def __call__(self, images: Tensor) -> list[Tensor]:
        """The file's outputs for ``(N, 3, H, W)`` images in [0, 1]; see :meth:`detect`.

        Raises:
            ConfigError: The file takes another number of images, or another size.
            ExportError: The runtime failed.
        """
        outputs = self.run(images)
        if self.header.outputs == "detections":  # rows of all images: apart, as other outputs are
            rows = outputs[0]
            return [rows[rows[:, 0] == index] for index in range(len(images))]
        return outputs

    def decode(self, raw: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes ``(N, K, 4)`` as xyxy in pixels of the input, and scores ``(N, K, C)`` in [0, 1].

        Raises:
            ConfigError: Boxes were suppressed inside the graph.
            WeightsError: The outputs are not what the header says.
        """
        if self.header.outputs == "detections":
            raise ConfigError(f"{self.path} suppresses boxes inside its graph; expected one exported without --nms")
        shapes = [tuple(tensor.shape[1:]) for tensor in raw]
        classes = len(self.class_names)
        if self.header.outputs == "raw":
            return self._decode_raw(raw, image_size)
        boxes, scores = raw
        if boxes.dim() != 3 or boxes.shape[2] != 4 or scores.shape != (*boxes.shape[:2], classes):
            raise WeightsError(f"{self.path}: outputs {shapes}; its header tells of boxes and {classes} scores each")
        return boxes, scores

    def _decode_raw(self, raw: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        head = self.header.head
        assert head is not None
        try:
            boxes, scores = head.module.decode(dict(zip(head.raw_names, raw, strict=True)), image_size)
        except (ValueError, RuntimeError, LookupError) as error:
            raise WeightsError(f"{self.path}: its outputs are not those of the head it tells of: {error}") from None
        if scores.shape[2] != len(self.class_names):
            told = f"its outputs hold {scores.shape[2]} classes; its header tells of {len(self.class_names)}"
            raise WeightsError(f"{self.path}: {told}")
        return boxes, scores

    def detect(self, raw: Sequence[Tensor], image_size: tuple[int, int], nms: NMS | None = None) -> list[Instances]:
        """See :meth:`crossstage.Detector.detect`.

        Raises:
            ConfigError: The file suppresses boxes inside its graph, and other thresholds are asked for than it has.
        """
        nms = nms or NMS()
        if self.header.outputs == "detections":
            self._check_suppression(nms)
            return [_read(rows, nms) for rows in raw]
        return postprocess(*self.decode(raw, image_size), nms)

    def _check_suppression(self, nms: NMS) -> None:
        low, own = self.header.score_threshold or 0.0, self.header.iou_threshold
        if nms.score < low or nms.iou != own or nms.kind != "iou":
            raise ConfigError(
                f"{self.path} suppresses boxes inside its graph, at conf {low} and iou {own}; "
                f"conf {nms.score}, iou {nms.iou} and nms {nms.kind} need one exported without --nms"
            )


def _read(rows: Tensor, nms: NMS) -> Instances:
    keep = rows[:, 2] > nms.score
    if nms.class_ids is not None:
        keep &= torch.isin(rows[:, 1].long(), torch.tensor(nms.class_ids, dtype=torch.long))
    rows = rows[keep][: nms.max_detections]
    return Instances(rows[:, 3:], rows[:, 2], rows[:, 1].long())


class ExportedClassifier(_Exported):
    """A classifier in an exported file; meets :class:`~crossstage.inference.classify.ClassificationModel`."""

    def __init__(self, header: Header, session: Session, path: Path, runtime: Runtime) -> None:
        super().__init__(header, session, path, runtime)
        self.preprocessing: Preprocessing | None = header.preprocessing

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of ``(N, 3, H, W)`` normalised images.

        Raises:
            ConfigError: The file takes another number of images, or another size.
            ExportError: The runtime failed.
        """
        return self.run(images)[0]


def is_exported(path: str | Path) -> bool:
    """Whether a path looks like an exported file that :func:`open_exported` opens."""
    path = Path(path)
    return path.suffix in (".onnx", *_IN_FOLDERS) or (path.is_dir() and bool(_graphs(path)))


def open_exported(
    path: str | Path,
    runtime: Runtime | None = None,
    *,
    threads: int | None = None,
    precision: Precision = "fp32",
    streams: int = 1,
) -> ExportedDetector | ExportedClassifier:
    """Open a file that ``crossstage export`` wrote.

    Args:
        path: An ``.onnx`` file, OpenVINO's ``.xml``, ncnn's ``.param``, or the folder that holds one of them.
        runtime: What runs it; None takes the first installed of :data:`~crossstage.deploy.backends.sessions.RUNTIMES` that reads it.
        threads: How many to use; None leaves it to the runtime.
        precision: Of the arithmetic: ``"bf16"`` where runtime and processor have it.
        streams: From how many threads it will be called at once; they share ``threads``.

    Raises:
        ConfigError: No installed runtime reads it, or the chosen one does not.
        WeightsError: It cannot be read, or was not written by crossstage.
        ExportError: The runtime cannot load it.
    """
    path = _file(Path(path))
    if runtime is None:
        able = installed(path)
        if not able:
            package = "ncnn" if path.suffix == ".param" else "openvino"
            raise ConfigError(f"{path}: no runtime is installed that reads it; try: pip install {package}")
        runtime = able[0]
    header = read_header(path)
    session = start(path, runtime, header.output_names, threads=threads, precision=precision, streams=streams)
    kind = ExportedClassifier if header.task == "classify" else ExportedDetector
    return kind(header, session, path, runtime)


def _file(path: Path) -> Path:
    if path.is_dir():
        found = _graphs(path)
        if len(found) != 1:
            told = " and ".join(_IN_FOLDERS)
            raise WeightsError(f"{path}: holds {len(found)} {told} files; expected one, of OpenVINO or ncnn")
        return found[0]
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    return path


_IN_FOLDERS = (".xml", ".param")


def _graphs(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in _IN_FOLDERS)
