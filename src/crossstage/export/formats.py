"""The formats: how each is written, and how what was written is run to check it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crossstage.errors import ConfigError, ExportError
from crossstage.export.graph import Plan
from crossstage.export.int8 import predictors, quantise_onnx, quantise_openvino
from crossstage.export.onnx import add_suppression, describe, silent, to_onnx, write_onnx
from crossstage.runtimes import Header, installed, start
from crossstage.runtimes.header import KEY

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
        half_inside: Half precision is the recorded graph's, not the writer's.
        write: Writes a recipe to a new file or into an empty folder, and returns the header that it wrote.
        run: Runs what was written: path, header and input to outputs.
    """

    suffix: str
    options: frozenset[str]
    write: Callable[[Recipe, Path], Header]
    run: Callable[[Path, Header, Tensor], list[np.ndarray]]
    folder: bool = False
    half_inside: bool = True


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
    """By pnnx, ncnn's own converter, from TorchScript."""
    try:
        from pnnx import EXEC_PATH
    except ImportError:
        raise ConfigError("ncnn's converter is not installed; try: pip install pnnx ncnn") from None
    plan = recipe.plan
    with tempfile.TemporaryDirectory(prefix="crossstage-") as scratch:
        # A float model: pnnx stores float16 itself, and ncnn computes in what the processor has.
        _write_torchscript(recipe, Path(scratch) / "model.torchscript")
        shape = ",".join(map(str, plan.images.shape))
        byproducts = [f"{kind}={scratch}/{kind}" for kind in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx", "ncnnpy")]
        results = [f"ncnnparam={path}/model.ncnn.param", f"ncnnbin={path}/model.ncnn.bin"]
        command = [EXEC_PATH, f"{scratch}/model.torchscript", f"inputshape=[{shape}]", f"fp16={int(recipe.half)}"]
        done = subprocess.run([*command, *results, *byproducts], capture_output=True, text=True, check=False)
        if done.returncode or not (path / "model.ncnn.param").is_file():
            raise ExportError(f"{path}: pnnx failed: {(done.stderr or done.stdout).strip()[-300:]}")
        content = json.loads(plan.header.to_json()) | {"inputs": ["in0"], "outputs_in_order": _ncnn_outputs(plan)}
        (path / "model.json").write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
    return plan.header


def _ncnn_outputs(plan: Plan) -> list[str]:
    return [f"out{index}" for index in range(len(plan.header.output_names))]


def _run_ncnn(path: Path, header: Header, images: Tensor) -> list[np.ndarray]:
    try:
        ncnn: Any = importlib.import_module("ncnn")  # an import statement's stub lacks all that is used here
    except ImportError:
        raise ConfigError("ncnn is not installed; try: pip install ncnn") from None
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = os.cpu_count() or 1
    if net.load_param(str(path / "model.ncnn.param")) or net.load_model(str(path / "model.ncnn.bin")):
        raise ExportError(f"{path}: ncnn cannot load it")
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(images[0].numpy()))
    results = []
    for index, name in enumerate(header.output_names):
        failed, output = extractor.extract(f"out{index}")
        if failed:
            raise ExportError(f"{path}: ncnn cannot compute {name}")
        results.append(np.array(output)[None])
    return results


_ALL = frozenset({"dynamic", "half", "int8", "decode", "nms"})

FORMATS: dict[FormatName, Format] = {
    "onnx": Format(".onnx", _ALL, _write_onnx, _run_session),
    "openvino": Format("_openvino", _ALL, _write_openvino, _run_session, folder=True, half_inside=False),
    "torchscript": Format(".torchscript", frozenset({"half", "decode"}), _write_torchscript, _run_torchscript),
    "exported_program": Format(".pt2", frozenset({"dynamic", "half", "decode"}), _write_program, _run_program),
    "ncnn": Format("_ncnn", frozenset({"half", "decode"}), _write_ncnn, _run_ncnn, folder=True, half_inside=False),
}
