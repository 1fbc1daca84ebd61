"""How fast this machine convolves at best: the roof that a network's rate is measured against.

A roof from a data sheet is of little use, as nobody knows the clock of a shared core; so it is measured, in the same
run as the networks, as the best rate at which any installed library computes any of a few large convolutions. Rates
count what a convolution is defined as. OpenCV and ncnn compute 3x3 convolutions in float by Winograd's algorithm, which
multiplies less: their rates can lie above what the processor's multipliers could do, and are told apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossstage.analysis.roof import CONVOLUTIONS
from crossstage.deploy.backends import runtimes
from crossstage.deploy.backends.onnx import OPSET, quantise, save
from crossstage.deploy.benchmark.ways import NumberType
from crossstage.deploy.sessions import start
from crossstage.errors import CrossStageError

if TYPE_CHECKING:
    from onnx import ModelProto

_Pass = tuple[str, NumberType, bool, Callable[[], object]]


@dataclass(frozen=True)
class TimedConvolution:
    """A convolution in a library.

    Attributes:
        name: Library and size.
        precision: The numbers that it is computed in.
        winograd: Whether the library multiplies less than the definition.
        gflops: Billions of operations, two for each multiply-add of the definition.
        run: Computes the convolution once.
    """

    name: str
    precision: NumberType
    winograd: bool
    gflops: float
    run: Callable[[], object]


@dataclass(frozen=True)
class Peak:
    """The best rate of one kind.

    Attributes:
        precision: The numbers that are computed in.
        winograd: Whether the rate was reached by multiplying less than the definition.
        rate: GFLOP/s, two for each multiply-add of the definition.
        name: Library and size of the convolution.
    """

    precision: NumberType
    winograd: bool
    rate: float
    name: str


def best(convolutions: list[TimedConvolution], milliseconds: Mapping[str, float]) -> tuple[Peak, ...]:
    """Return the peak of each precision, with and without Winograd's algorithm.

    Args:
        convolutions: The convolutions that were timed.
        milliseconds: Duration of each, by its name.
    """
    peaks: dict[tuple[NumberType, bool], Peak] = {}
    for one in convolutions:
        peak = Peak(one.precision, one.winograd, one.gflops / milliseconds[one.name] * 1e3, one.name)
        kind = (one.precision, one.winograd)
        if kind not in peaks or peak.rate > peaks[kind].rate:
            peaks[kind] = peak
    return tuple(peaks.values())


def convolutions(threads: int) -> list[TimedConvolution]:
    """Return what to take the best of, in each installed library and precision.

    Args:
        threads: Number of threads of each library.
    """
    found = []
    for channels, kernel, side in CONVOLUTIONS:
        size = f"{channels} channels, {kernel} x {kernel}, at {side} x {side}"
        gflops = 2 * channels**2 * kernel**2 * side**2 / 1e9
        images = torch.rand(1, channels, side, side)
        weight = torch.randn(channels, channels, kernel, kernel) / (channels**0.5 * kernel)
        for library, precision, winograd, run in (*_torch(images, weight), *_others(images, weight, threads)):
            found.append(TimedConvolution(f"{library} {precision}: {size}", precision, winograd, gflops, run))
    return found


def _torch(images: Tensor, weight: Tensor) -> Iterator[_Pass]:
    precisions: dict[NumberType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for precision, dtype in precisions.items():
        x, w = (tensor.to(dtype=dtype, memory_format=torch.channels_last) for tensor in (images, weight))
        yield "torch", precision, False, lambda x=x, w=w: F.conv2d(x, w, padding=w.shape[2] // 2)


def _others(images: Tensor, weight: Tensor, threads: int) -> Iterator[_Pass]:
    """Yield the runtimes that can; one that is not installed, reads other files or lacks a precision sets no roof."""
    with tempfile.TemporaryDirectory(prefix="crossstage-") as scratch:
        folder = Path(scratch)
        graph = _graph(images, weight)
        save(graph, folder / "float.onnx")
        save(quantise(graph, [], [images]), folder / "int8.onnx")
        _write_ncnn(weight, folder / "float.param")
        for name, runtime in runtimes().items():
            for precision in get_args(NumberType):
                stem, arithmetic = ("int8", "fp32") if precision == "int8" else ("float", precision)
                files = (folder / f"{stem}{suffix}" for suffix in runtime.reads)
                if (file := next(filter(Path.is_file, files), None)) is None:
                    continue
                try:
                    session = start(file, name, ["result"], threads=threads, precision=arithmetic)
                except CrossStageError:
                    continue
                winograd = runtime.winograd and weight.shape[2] == 3 and precision != "int8"
                yield name, precision, winograd, lambda session=session: session(images.numpy())


def _graph(images: Tensor, weight: Tensor) -> ModelProto:
    from onnx import TensorProto, helper, numpy_helper

    shape = list(images.shape)
    node = helper.make_node(
        "Conv", ["images", "weight"], ["result"], name="convolution", pads=[weight.shape[2] // 2] * 4
    )
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("images", "result")]
    constants = [numpy_helper.from_array(weight.numpy(), "weight")]
    graph = helper.make_graph([node], "convolution", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _write_ncnn(weight: Tensor, path: Path) -> None:
    """Write ncnn's files: a line for each layer with its numbered options; tensors, each after a word for its type."""
    channels, kernel = weight.shape[0], weight.shape[2]
    options = f"0={channels} 1={kernel} 4={kernel // 2} 6={weight.numel()}"
    path.write_text(f"7767517\n2 2\nInput in0 0 1 in0\nConvolution result 1 1 in0 out0 {options}\n")
    path.with_suffix(".bin").write_bytes(np.zeros(1, np.uint32).tobytes() + weight.numpy().tobytes())
