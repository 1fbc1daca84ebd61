"""From a model to a file that other programs run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from crossstage.deploy import instances
from crossstage.deploy.backends import BACKENDS, formats
from crossstage.deploy.backends.base import ExportOption, FileFormat, Recipe
from crossstage.deploy.calibration import calibration_inputs, remarks_on, remarks_on_objects
from crossstage.deploy.exported import first_installed
from crossstage.deploy.graph import ExportPlan, plan
from crossstage.deploy.header import ExportHeader
from crossstage.deploy.sessions import start
from crossstage.errors import ConfigError, CrossStageError, ExportError, WeightsError, one_of
from crossstage.files import whole_file, whole_folder
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.ops.nms import NMS

if TYPE_CHECKING:
    from crossstage.deploy.backends.base import Floats

INPUT = "images"  # the input's name in every file
TOLERANCE = 1e-4  # of float32 outputs, relative to their largest value
INSTANCES_TOLERANCE = 1e-3  # of detections, behind which lie two networks and a choice between them
LEAST_SHARED = 0.1  # share of PyTorch's detections that the file finds, too; near ties in noise fall either way
FLOOR = 1e-3  # outputs that are all nearer to 0 are compared absolutely


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file, or the folder.
        files: All files of it.
        header: What the file says of itself.
        difference: Largest difference between the file's outputs and PyTorch's, relative to the largest output; None
            where suppression inside the graph leaves nothing to compare.
        seconds: How long exporting took.
        remarks: What people should know of the file.
    """

    path: Path
    files: tuple[Path, ...]
    header: ExportHeader
    difference: float | None
    seconds: float
    remarks: tuple[str, ...] = ()


def export(
    model: Detector | Classifier,
    name: str,
    format: str,
    out: str | Path | None = None,
    *,
    imgsz: int | tuple[int, int] | None = None,
    dynamic: bool = False,
    half: bool = False,
    calib: str | Path | Sequence[Tensor] | None = None,
    decode: bool = False,
    nms: NMS | None = None,
    in_float: Sequence[str] = (),
) -> Exported:
    """Write a model as a file that other programs run, and check that it computes the same.

    Args:
        model: The model with its weights, which is left as it is.
        name: The model's name, for the file's name and header.
        format: One of :func:`~crossstage.deploy.backends.formats`.
        out: The file or folder to write; by default ``name`` with the format's suffix, in the current folder.
        imgsz: Side of the input, or height and width, in pixels; None takes the size the model was trained at.
        dynamic: Whether the file takes any number of images of any size, rather than one of this size.
        half: Whether to store and, but for OpenVINO and ncnn, compute in float16.
        calib: What to quantise to int8 by: a dataset, whose training part is taken, a folder, glob or list of
            images, or inputs ``(1, 3, H, W)``; None stores floats.
        decode: Whether to give a detector's boxes and scores instead of its raw tensors.
        nms: The suppression to add inside the graph, whose output is then detections alone; None adds none. A detector
            of two stages has one inside in any case: None takes what it is scored with, for up to 300 objects.
        in_float: Names of layers, of :func:`layers_by_harm`, that int8 leaves in float.

    Returns:
        What was written.

    Raises:
        ConfigError: The format is unknown or has no such option, a size does not fit, or a package is not installed.
        DataError: There are no images to quantise by, or the file cannot be written.
        ExportError: The network cannot be written in this format, or float32 outputs differ by more than 1e-4 of the
            largest, detections of a second stage by more than 1e-3: then nothing is left behind.
    """
    start_time = time.perf_counter()
    path = target(name, format, out)
    kind = formats()[format]
    asked: dict[ExportOption, object] = {"dynamic": dynamic, "half": half, "decode": decode, "nms": nms, "int8": calib}
    _check_options(format, model, {option for option, given in asked.items() if given not in (False, None)})
    planned = plan(
        model,
        name,
        imgsz=imgsz,
        dynamic=dynamic,
        half=half and kind.half_inside,
        decode=decode or nms is not None,
        fused=kind.fused,
        nms=nms,
    )
    _check_header(planned.header)
    whole = planned.header.outputs == "instances"
    recipe = Recipe(planned, half, _calibration(calib, planned.header), None if whole else nms, tuple(in_float))
    with (whole_folder if kind.graph else whole_file)(path) as temporary:
        header = _written(recipe, format, kind, temporary)
        difference = None if recipe.nms else _difference(planned, _outputs(kind, temporary, header, planned.images))
        exact = not (half or recipe.calibration)
        tolerance = INSTANCES_TOLERANCE if whole else TOLERANCE
        if exact and difference is not None and not difference <= tolerance:
            raise ExportError(f"{name} as {format} computes something else: outputs differ by {difference:.1e}")
    files = path.iterdir() if kind.graph else (path, *(path.with_suffix(suffix) for suffix in kind.beside))
    remarks = remarks_on(recipe.calibration)
    if isinstance(model, Detector):
        remarks += remarks_on_objects(model, recipe.calibration)
    spent = time.perf_counter() - start_time
    return Exported(path, tuple(filter(Path.is_file, files)), header, difference, spent, remarks)


def target(name: str, format: str, out: str | Path | None = None) -> Path:
    """Return where a model is written to: ``out``, or its name with the format's suffix.

    Raises:
        ConfigError: The format is unknown, or ``out`` ends otherwise than its files.
    """
    kind = formats().get(format)
    if kind is None:
        raise ConfigError(f"format {format!r} is unknown; {one_of(format, formats())}")
    path = Path(out) if out else Path(name.replace("/", "_").replace(":", "_") + kind.suffix)
    if not kind.graph and path.suffix not in (kind.suffix, *kind.also):
        raise ConfigError(f"{path}: expected a name that ends with {' or '.join((kind.suffix, *kind.also))}")
    return path


def layers_by_harm(
    model: Detector | Classifier,
    name: str,
    format: str,
    *,
    calib: str | Path | Sequence[Tensor],
    imgsz: int | tuple[int, int] | None = None,
    dynamic: bool = False,
    decode: bool = False,
    nms: NMS | None = None,
) -> list[str]:
    """Return the names of the layers that int8 rounds, those first that lose most by it.

    Args:
        model: The model.
        name: Its name.
        format: The format that it is to be written in.
        calib: What to quantise by, as for :func:`export`.
        imgsz: Side of the input, or height and width, in pixels.
        dynamic: Whether the file takes images of any size.
        decode: Whether it decodes.
        nms: The suppression inside of it.

    Raises:
        ConfigError: The format holds no int8.
        DataError: There are no images to quantise by.
    """
    kind = formats()[format]
    if kind.layers is None:
        raise ConfigError(f"{format} files hold no int8 whose layers can stay in float")
    decoded = decode or nms is not None
    planned = plan(model, name, imgsz=imgsz, dynamic=dynamic, decode=decoded, fused=kind.fused, nms=nms)
    return kind.layers(Recipe(planned, False, _calibration(calib, planned.header), nms))


def _check_header(header: ExportHeader) -> None:
    """Refuse what a file could hold and nobody could read back.

    Raises:
        ExportError: The head's row or its outputs do not go into a file.
    """
    if INPUT in header.output_names:
        raise ExportError(f"{header.name} has an output {INPUT!r}, which is the input's name; rename the raw tensor")
    try:
        ExportHeader.from_json(header.to_json(), header.name)
    except (WeightsError, TypeError, ValueError) as error:
        raise ExportError(f"{header.name} cannot be described in a file: {error}") from None


def _check_options(format: str, model: Detector | Classifier, wanted: set[ExportOption]) -> None:
    if refused := wanted - formats()[format].options:
        able = [name for name, kind in formats().items() if refused <= kind.options]
        options = " and ".join(f"--{option}" for option in sorted(refused))
        raise ConfigError(f"{format} files do not take {options}; {' and '.join(able)} files do")
    if getattr(getattr(model, "head", None), "second_stage", False):
        _check_second_stage(format, wanted)
    if isinstance(model, Classifier) and wanted & {"decode", "nms"}:
        raise ConfigError("a classifier has no boxes; decode and nms are for detectors")
    if {"half", "int8"} <= wanted:
        raise ConfigError("half and int8 exclude each other")


def _check_second_stage(format: str, wanted: set[ExportOption]) -> None:
    """Refuse what the file of a detector of two stages cannot be.

    Raises:
        ConfigError: The format holds no second stage, or an option is for others.
    """
    kind = formats()[format]
    if not kind.second_stage:
        able = " and ".join(name for name, other in formats().items() if other.second_stage)
        raise ConfigError(
            f"{format} files hold no second stage, whose boxes differ in number from image to image; {able} files do"
        )
    if "decode" in wanted:
        raise ConfigError("the detector's second stage decodes: its files give detections; expected no --decode")
    if "int8" in wanted or ("half" in wanted and kind.half_inside):
        raise ConfigError(f"{format} files hold a second stage in float32 alone; expected neither --half nor --int8")


def _calibration(calib: str | Path | Sequence[Tensor] | None, header: ExportHeader) -> Sequence[Tensor]:
    """Return the inputs to quantise by; none for floats."""
    if not isinstance(calib, (str, Path)):
        return calib or ()
    if header.preprocessing is None:
        raise ConfigError("the classifier has no preprocessing, as before training; int8 needs it for images")
    return calibration_inputs(calib, header.preprocessing)


def _written(recipe: Recipe, format: str, kind: FileFormat, path: Path) -> ExportHeader:
    try:
        return kind.write(recipe, path)
    except CrossStageError:
        raise
    except ImportError as error:
        install = BACKENDS[format].install
        raise ConfigError(f"{format} needs {error.name}; try: pip install '{install}'") from None
    except Exception as error:  # exporters have errors of their own, without a common base
        raise ExportError(f"{recipe.plan.header.name} cannot be written as {format}: {error}") from error


def _outputs(kind: FileFormat, path: Path, header: ExportHeader, images: Tensor) -> list[Floats]:
    """Return what was written computes, by the format's own check or the first installed runtime that reads it."""
    if kind.check:
        return kind.check(path, header, images)
    file = kind.graph_file(path)
    return start(file, first_installed(file), header.output_names)(images.numpy())


def _difference(planned: ExportPlan, outputs: list[Floats]) -> float:
    """Return the largest relative difference to what PyTorch computes, unfused and in float32."""
    with torch.inference_mode():
        expected = planned.reference()
    if planned.header.outputs == "instances":
        worst, both = instances.difference([torch.from_numpy(output) for output in outputs], expected)
        return worst if both >= LEAST_SHARED else 1.0
    return max(
        float(np.abs(found.reshape(wanted.shape) - wanted).max() / max(FLOOR, np.abs(wanted).max()))
        for found, wanted in zip(outputs, (tensor.numpy() for tensor in expected), strict=True)
    )
