"""The formats: how each is written, and how what was written is run to check it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crossstage.deploy.backends import darknet
from crossstage.deploy.backends.ncnn import run_ncnn, write_ncnn
from crossstage.deploy.backends.onnx import add_suppression, describe, silent, to_onnx, write_onnx
from crossstage.deploy.backends.sessions import installed, start
from crossstage.deploy.graph import Plan
from crossstage.deploy.header import KEY, Header
from crossstage.deploy.int8 import predictors, quantise_onnx, quantise_openvino
from crossstage.errors import ConfigError

FormatName = Literal["onnx", "openvino", "torchscript", "exported_program", "ncnn", "darknet"]


@dataclass(frozen=True)
class Recipe:
    """A plan, and what is done to its graph.

    Attributes:
        plan: The graph.
        half: Store float16; the plan's graph computes in it, too.
        calibration: Inputs to quantise to int8 by; empty for floats.
        suppression: Score and IoU thresholds of suppression inside the graph.
    """

    plan: Plan
    half: bool = False
    calibration: Sequence[Tensor] = ()
    suppression: tuple[float, float] | None = None


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        suffix: Of the file's name, or the folder's.
        options: What it can do, of dynamic, half, int8, decode, nms.
        folder: Whether it is a folder.
        beside: Suffixes of files that may come with the one of the format's own suffix.
        half_inside: Half precision is the recorded graph's, not the writer's.
        fused: Whether the model is recorded fused. Converters that look for patterns of their own know it as it is.
        write: Writes a recipe to a new file or into an empty folder, and returns the header that it wrote.
        run: Runs what was written: path, header and input to outputs.
    """

    suffix: str
    options: frozenset[str]
    write: Callable[[Recipe, Path], Header]
    run: Callable[[Path, Header, Tensor], list[np.ndarray]]
    folder: bool = False
    beside: tuple[str, ...] = ()
    half_inside: bool = True
    fused: bool = True


def _write_onnx(recipe: Recipe, path: Path) -> Header:
    model, header = _graph(recipe)
    write_onnx(model, path)
    return header


def _graph(recipe: Recipe) -> tuple[Any, Header]:
    """An ONNX graph with all that the recipe wants but half precision, which is the plan's."""
    header = recipe.plan.header
    model = to_onnx(recipe.plan)
    if recipe.calibration:
        model = quantise_onnx(model, predictors(model), recipe.calibration)
        describe(model, header)
    if recipe.suppression:
        score, iou = recipe.suppression
        model, header = add_suppression(model, header, score_threshold=score, iou_threshold=iou)
    return model, header


def _write_openvino(recipe: Recipe, path: Path) -> Header:
    """Converted from ONNX, which OpenVINO's own reader of PyTorch's graphs is slower than and no better."""
    try:
        import openvino
    except ImportError:
        raise ConfigError("openvino is not installed; try: pip install 'crossstage[export]'") from None
    with tempfile.TemporaryDirectory(prefix="crossstage-") as scratch:
        model, header = _graph(Recipe(recipe.plan, suppression=recipe.suppression))
        in_float = predictors(model)
        write_onnx(model, Path(scratch) / "model.onnx")
        converted = openvino.Core().read_model(Path(scratch) / "model.onnx")
        if recipe.calibration:
            converted = quantise_openvino(converted, in_float, recipe.calibration)
        converted.set_rt_info(header.to_json(), KEY)
        openvino.save_model(converted, path / "model.xml", compress_to_fp16=recipe.half)
    return header


def _run_session(path: Path, header: Header, images: Tensor) -> list[np.ndarray]:
    """By the first installed runtime that reads the file."""
    file = path / "model.xml" if path.is_dir() else path
    runtimes = installed(file)
    if not runtimes:
        raise ConfigError(f"{file}: no runtime is installed that reads it; try: pip install openvino")
    return list(start(file, runtimes[0], header.output_names)(images.numpy()))


def _write_torchscript(recipe: Recipe, path: Path) -> Header:
    with silent(), torch.inference_mode():
        traced = torch.jit.trace(recipe.plan.graph, (recipe.plan.images,), check_trace=False)
        extra = {KEY: recipe.plan.header.to_json()}
        torch.jit.save(torch.jit.freeze(traced), str(path), _extra_files=extra)
    return recipe.plan.header


def _run_torchscript(path: Path, _header: Header, images: Tensor) -> list[np.ndarray]:
    with silent(), torch.inference_mode():
        return [output.numpy() for output in torch.jit.load(str(path))(images)]


def _write_program(recipe: Recipe, path: Path) -> Header:
    with silent():
        torch.export.save(recipe.plan.record(), path, extra_files={KEY: recipe.plan.header.to_json()})
    return recipe.plan.header


def _run_program(path: Path, _header: Header, images: Tensor) -> list[np.ndarray]:
    with silent(), torch.inference_mode():
        return [output.numpy() for output in torch.export.load(path).module()(images)]


def _write_ncnn(recipe: Recipe, path: Path) -> Header:
    write_ncnn(recipe.plan, path, half=recipe.half)
    return recipe.plan.header


def _write_darknet(recipe: Recipe, path: Path) -> Header:
    darknet.write(recipe.plan, path)
    return recipe.plan.header


_ALL = frozenset({"dynamic", "half", "int8", "decode", "nms"})
_NCNN = frozenset({"half", "decode"})

FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", _ALL, _write_onnx, _run_session),
    "openvino": Format("_openvino", _ALL, _write_openvino, _run_session, folder=True, half_inside=False),
    "torchscript": Format(".torchscript", frozenset({"half", "decode"}), _write_torchscript, _run_torchscript),
    "exported_program": Format(".pt2", frozenset({"dynamic", "half", "decode"}), _write_program, _run_program),
    "ncnn": Format("_ncnn", _NCNN, _write_ncnn, run_ncnn, folder=True, half_inside=False, fused=False),
    "darknet": Format(".cfg", frozenset(), _write_darknet, darknet.run, beside=(".weights", ".names"), fused=False),
}
