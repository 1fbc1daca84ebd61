"""What an exported file costs in accuracy, and files that are kept within a bound of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crossstage.data.find import part_to_measure
from crossstage.data.records import ClassificationData, Dataset
from crossstage.deploy.backends import formats
from crossstage.deploy.export import Exported, export, layers_by_harm, target
from crossstage.deploy.exported import ExportedClassifier, ExportedDetector
from crossstage.deploy.open import Opened, open_model
from crossstage.errors import ConfigError, DataError
from crossstage.evaluation.classification import measure_classifier
from crossstage.evaluation.detection import evaluate
from crossstage.files import whole_file, whole_folder
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.ops.nms import NMS

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Floats


@dataclass(frozen=True)
class ExportCost:
    """What was written, and what it is worth on labelled images.

    Attributes:
        exported: What was written.
        runtime: The name of the backend that ran it.
        before: The model's own scores by PyTorch, from 0 to 1: ``ap`` and ``ap50``, or ``top1`` and ``top5``.
        after: The same of the file.
        in_float: Names of the layers that were to be int8 and stayed in float, the most harmful first.
        within: Whether the loss is within the bound; True where none was set. What is not is not left behind.
    """

    exported: Exported
    runtime: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    in_float: tuple[str, ...] = ()
    within: bool = True

    @property
    def loss(self) -> float:
        """How much lower the first score is, in points of 100; negative if it is higher."""
        (name, score), *_ = self.before.items()
        return 100 * (score - self.after[name])


def export_measured(
    model: Detector | Classifier,
    name: str,
    format: str,
    out: str | Path | None = None,
    *,
    val: str | Path,
    max_loss: float | None = None,
    progress: bool = False,
    **options: Any,
) -> ExportCost:
    """Write a model as :func:`~crossstage.deploy.export.export` does, and measure it before and after.

    With a bound on the loss, an int8 file that exceeds it is written again with 1, 2, 4 and so on layers in float,
    those first that rounding harms most, until it is within.

    Args:
        model: The model with its weights.
        name: Its name.
        format: One of :func:`~crossstage.deploy.backends.formats`.
        out: The file or folder to write; None as for ``export``.
        val: The dataset to measure on: its validation part, else its test part.
        max_loss: The most points of 100 of average precision, or of top-1 accuracy, that may be lost; None sets no
            bound. A file that cannot be kept within it is not left behind.
        progress: Whether progress bars are shown on stderr.
        options: The other arguments of ``export``.

    Raises:
        ConfigError: The bound is negative, the data are not of the model's task, or as for ``export``.
        DataError: The data cannot be read, or hold nothing to score on.
        ExportError: As for ``export``.
    """
    if max_loss is not None and max_loss < 0:
        raise ConfigError(f"max_loss={max_loss:g}; expected points of 100, at least 0")
    dataset = part_to_measure(val)
    if isinstance(model, Classifier) != isinstance(dataset, ClassificationData):
        raise ConfigError(f"{val} holds no data of the model's task; expected labels for it")
    path, size = target(name, format, out), options.get("imgsz")
    if max_loss is None:
        done = export(model, name, format, path, **options)
        return _cost(model, done, format, dataset, size, progress)
    with tempfile.TemporaryDirectory(prefix="crossstage-") as folder:
        cost = None
        for tried in _tries(model, name, format, options):
            done = export(model, name, format, Path(folder) / path.name, in_float=tried, **options)
            cost = replace(_cost(model, done, format, dataset, size, progress), in_float=tried)
            if cost.loss <= max_loss:
                return replace(cost, exported=_moved(done, format, path))
    assert cost  # there is one try at least
    return replace(cost, within=False)


def _tries(
    model: Detector | Classifier, name: str, format: str, options: Mapping[str, Any]
) -> Iterator[tuple[str, ...]]:
    """Yield the layers to leave in float: none, and for int8 ever more of the most harmful."""
    yield ()
    if options.get("calib") is None:
        return
    layers = layers_by_harm(model, name, format, **{key: value for key, value in options.items() if key != "half"})
    count = 1
    while layers and count < len(layers):
        yield tuple(layers[:count])
        count *= 2
    if layers:
        yield tuple(layers)


def _moved(done: Exported, format: str, path: Path) -> Exported:
    """Put what was written to a scratch folder in its place."""
    kind = formats()[format]
    with (whole_folder if kind.graph else whole_file)(path) as temporary:
        if kind.graph:
            shutil.copytree(done.path, temporary, dirs_exist_ok=True)
        else:
            for suffix in (done.path.suffix, *kind.beside):
                shutil.copyfile(done.path.with_suffix(suffix), temporary.with_suffix(suffix))
    files = tuple(path / file.name if kind.graph else path.with_name(file.name) for file in done.files)
    return replace(done, path=path, files=files)


def _cost(
    model: Detector | Classifier,
    done: Exported,
    format: str,
    dataset: Dataset,
    imgsz: int | tuple[int, int] | None,
    progress: bool,
) -> ExportCost:
    there = _opened(done, format, imgsz)
    here = open_model(model, runtime="torch", device="cpu", imgsz=imgsz)
    nms = None
    if done.header.outputs in ("detections", "instances") and there.detector:
        nms = there.detector.nms  # what lies inside of the file cannot be undone, so both are measured by it
    before, after = (_scores(opened, dataset, nms, progress) for opened in (here, there))
    return ExportCost(done, there.runtime, before, after)


def _opened(done: Exported, format: str, imgsz: int | tuple[int, int] | None) -> Opened:
    """Open what was written; files that no runtime of ours reads are run by their format's own check."""
    kind = formats()[format]
    if kind.check is None or kind.read_header is None:
        return open_model(done.path, imgsz=imgsz)
    check = kind.check

    def session(images: Floats) -> list[Floats]:
        return check(done.path, done.header, torch.from_numpy(images))

    if done.header.task == "classify":
        classifier = ExportedClassifier(done.header, session, done.path, format)
        return Opened(format, classifier=classifier, imgsz=imgsz)
    return Opened(format, detector=ExportedDetector(done.header, session, done.path, format), imgsz=imgsz)


def _scores(opened: Opened, dataset: Dataset, nms: NMS | None, progress: bool) -> dict[str, float]:
    if isinstance(dataset, ClassificationData):
        assert opened.classifier
        accuracy, _ = measure_classifier(opened.classifier, dataset, imgsz=opened.imgsz, progress=progress)
        return {"top1": accuracy.top1, "top5": accuracy.top5}
    assert opened.detector
    report = evaluate(opened.detector, dataset, imgsz=opened.imgsz, nms=nms, progress=progress)
    if report.ap is None or report.ap50 is None:
        raise DataError(f"{dataset.path}: no object to score on; expected images with labelled objects")
    return {"ap": report.ap, "ap50": report.ap50}
