"""From a model to a file that other programs run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossstage.deploy.backends.formats import FORMATS, FormatName, Recipe
from crossstage.deploy.calibration import calibration_inputs
from crossstage.deploy.graph import plan
from crossstage.deploy.header import Header
from crossstage.errors import ConfigError, CrossStageError, ExportError
from crossstage.files import whole_file, whole_folder
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector

TOLERANCE = 1e-4  # of float32 outputs, relative to their largest value
FLOOR = 1e-3  # outputs that are all nearer to 0 are compared absolutely


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file, or the folder.
        files: All files of it.
        header: What it says of itself.
        difference: Largest difference between its outputs and PyTorch's, relative to the largest output; None where
            suppression inside the graph leaves nothing to compare.
        seconds: How long it took.
    """

    path: Path
    files: tuple[Path, ...]
    header: Header
    difference: float | None
    seconds: float


def export(
    model: Detector | Classifier,
    name: str,
    format: FormatName,
    out: str | Path | None = None,
    *,
    imgsz: int | tuple[int, int] | None = None,
    dynamic: bool = False,
    half: bool = False,
    calib: str | Path | Sequence[Tensor] | None = None,
    decode: bool = False,
    suppression: tuple[float, float] | None = None,
) -> Exported:
    """Write a model as a file that other programs run, and check that it computes the same.

    Args:
        model: With its weights; left as it is.
        name: Its name, for the file's name and header.
        format: One of :data:`~crossstage.deploy.backends.formats.FORMATS`.
        out: The file or folder to write; by default ``name`` with the format's suffix, in the current folder.
        imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
        dynamic: Take any number of images of any size; else one of that size.
        half: Store and, but for OpenVINO and ncnn, compute in float16.
        calib: What to quantise to int8 by: a dataset, whose training part is taken, a folder, glob or list of
            images, or inputs ``(1, 3, H, W)``.
        decode: Give a detector's boxes and scores instead of its raw maps.
        suppression: Score and IoU thresholds of suppression inside the graph, whose output is then detections alone.

    Returns:
        What was written.

    Raises:
        ConfigError: The format has no such option, a size does not fit, or a package is not installed.
        DataError: There are no images to quantise by, or the file cannot be written.
        ExportError: The network cannot be written in this format, or float32 outputs differ by more than 1e-4 of the
            largest: then nothing is left behind.
    """
    start = time.perf_counter()
    kind = FORMATS[format]
    _check_options(
        format,
        model,
        {"dynamic": dynamic, "half": half, "int8": calib is not None, "decode": decode, "nms": suppression is not None},
    )
    planned = plan(
        model,
        name,
        imgsz=imgsz,
        dynamic=dynamic,
        half=half and kind.half_inside,
        decode=decode or suppression is not None,
        fused=kind.fused,
    )
    calibration: Sequence[Tensor] = ()
    if isinstance(calib, (str, Path)):
        if planned.header.preprocessing is None:
            raise ConfigError("the classifier has no preprocessing, as before training; int8 needs it for images")
        calibration = calibration_inputs(calib, planned.header.preprocessing)
    elif calib is not None:
        calibration = calib
    path = Path(out) if out else Path(name.replace("/", "_").replace(":", "_") + kind.suffix)
    if kind.suffix.startswith(".") and path.suffix != kind.suffix:
        raise ConfigError(f"{path}: expected a name that ends with {kind.suffix}")
    recipe = Recipe(planned, half, calibration, suppression)
    with (whole_folder if kind.folder else whole_file)(path) as temporary:
        header = _written(recipe, format, temporary)
        difference = None if suppression else _difference(recipe, kind.run(temporary, header, planned.images))
        exact = not (half or calibration)
        if exact and difference is not None and not difference <= TOLERANCE:
            raise ExportError(f"{name} as {format} computes something else: outputs differ by {difference:.1e}")
    files = path.iterdir() if kind.folder else (path.with_suffix(suffix) for suffix in (kind.suffix, *kind.beside))
    return Exported(path, tuple(filter(Path.is_file, files)), header, difference, time.perf_counter() - start)


def _written(recipe: Recipe, format: FormatName, path: Path) -> Header:
    try:
        return FORMATS[format].write(recipe, path)
    except CrossStageError:
        raise
    except Exception as error:  # exporters have errors of their own, without a common base
        raise ExportError(f"{recipe.plan.header.name} cannot be written as {format}: {error}") from error


def _check_options(format: FormatName, model: Detector | Classifier, asked: dict[str, bool]) -> None:
    wanted = {option for option, given in asked.items() if given}
    if refused := wanted - FORMATS[format].options:
        able = [name for name, kind in FORMATS.items() if refused <= kind.options]
        raise ConfigError(f"{format} files cannot be {' and '.join(sorted(refused))}; {' and '.join(able)} files can")
    if isinstance(model, Classifier) and wanted & {"decode", "nms"}:
        raise ConfigError("a classifier has no boxes; decode and nms are for detectors")
    if {"half", "int8"} <= wanted:
        raise ConfigError("half and int8 exclude each other")


def _difference(recipe: Recipe, outputs: list[np.ndarray[Any, Any]]) -> float:
    """Largest relative difference to what PyTorch computes, unfused and in float32."""
    with torch.inference_mode():
        expected = recipe.plan.reference()
    return max(
        float(np.abs(found.reshape(wanted.shape) - wanted).max() / max(FLOOR, np.abs(wanted).max()))
        for found, wanted in zip(outputs, (tensor.numpy() for tensor in expected), strict=True)
    )
