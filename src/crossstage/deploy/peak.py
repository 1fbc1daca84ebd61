"""How fast this machine convolves at best: the roof that a network's rate is measured against.

A roof from a data sheet is of little use, as nobody knows the clock of a shared core; so it is measured, in the same
run as the networks, as the best rate at which any installed library computes any of a few large convolutions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from crossstage.analysis.roof import CONVOLUTIONS
from crossstage.deploy.rows import Number
from crossstage.errors import CrossStageError
from crossstage.export.int8 import quantise_onnx
from crossstage.export.onnx import OPSET, write_onnx
from crossstage.runtimes import RUNTIMES, start

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Convolution:
    """A convolution in a library.

    Attributes:
        name: Library and size.
        precision: Of the arithmetic.
        gflops: Two for each multiply-add, in billions.
        run: Computes it.
    """

    name: str
    precision: Number
    gflops: float
    run: Callable[[], object]


def convolutions(threads: int) -> list[Convolution]:
    """What to take the best of, in each installed library and precision.

    Args:
        threads: For each library.
    """
    found = []
    for channels, kernel, side in CONVOLUTIONS:
        size = f"{channels} channels, {kernel} x {kernel}, at {side} x {side}"
        gflops = 2 * channels**2 * kernel**2 * side**2 / 1e9
        images = torch.rand(1, channels, side, side)
        weight = torch.randn(channels, channels, kernel, kernel) / (channels**0.5 * kernel)
        for library, precision, run in (*_torch(images, weight), *_others(images, weight, threads)):
            found.append(Convolution(f"{library}: {size}", precision, gflops, run))
    return found


def _torch(images: torch.Tensor, weight: torch.Tensor) -> Iterator[tuple[str, Number, Callable[[], object]]]:
    precisions: dict[Number, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for precision, dtype in precisions.items():
        x, w = (tensor.to(dtype=dtype, memory_format=torch.channels_last) for tensor in (images, weight))
        yield "torch", precision, lambda x=x, w=w: F.conv2d(x, w, padding=w.shape[2] // 2)


def _others(
    images: torch.Tensor, weight: torch.Tensor, threads: int
) -> Iterator[tuple[str, Number, Callable[[], object]]]:
    """Those that can; one that is not installed, or lacks a precision, sets no roof."""
    with tempfile.TemporaryDirectory(prefix="crossstage-") as folder:
        files: dict[Number, Path] = {"fp32": Path(folder) / "float.onnx", "int8": Path(folder) / "int8.onnx"}
        graph = _graph(images, weight)
        write_onnx(graph, files["fp32"])
        write_onnx(quantise_onnx(graph, [], [images]), files["int8"])
        for runtime in RUNTIMES:
            for precision in ("fp32", "bf16", "int8"):
                try:
                    file = files["int8" if precision == "int8" else "fp32"]
                    arithmetic = "bf16" if precision == "bf16" else "fp32"
                    session = start(file, runtime, ["result"], threads=threads, precision=arithmetic)
                except CrossStageError:
                    continue
                yield runtime, precision, lambda session=session: session(images.numpy())


def _graph(images: torch.Tensor, weight: torch.Tensor) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    shape = list(images.shape)
    node = helper.make_node(
        "Conv", ["images", "weight"], ["result"], name="convolution", pads=[weight.shape[2] // 2] * 4
    )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "result")]
    constants = [numpy_helper.from_array(weight.numpy(), "weight")]
    graph = helper.make_graph([node], "convolution", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
