"""The ways to run a network that a benchmark compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from crossstage.analysis import count_flops
from crossstage.deploy.backends.pytorch import fast
from crossstage.deploy.backends.sessions import Runtime, start
from crossstage.deploy.cache import exported_file
from crossstage.deploy.header import read_header
from crossstage.models.registry import Model

Number = Literal["fp32", "bf16", "int8"]
Run = Callable[[Tensor], object]


@dataclass(frozen=True)
class Way:
    """A way to run a network.

    Attributes:
        told: What runs it, for people.
        precision: Of the arithmetic.
        runtime: What runs its exported file; None for PyTorch.
        fused: Whether PyTorch runs a fused copy.
        compiled: Whether PyTorch compiles it.
    """

    told: str
    precision: Number = "fp32"
    runtime: Runtime | None = None
    fused: bool = True
    compiled: bool = False

    def file(self, model: Model, size: int, calibration: Sequence[Tensor]) -> Path | None:
        """The exported file that it runs, in the cache; None for PyTorch.

        Args:
            model: With its weights.
            size: Side of the input in pixels.
            calibration: Inputs to quantise by.

        Raises:
            CrossStageError: The model cannot be exported.
        """
        if self.runtime is None:
            return None
        inputs = calibration if self.precision == "int8" else ()
        return exported_file(model, "benchmark", self.runtime, imgsz=size, calibration=inputs)

    def open(self, source: Model | Path, threads: int) -> Run:
        """Make a model, or its exported file, run.

        Raises:
            CrossStageError: The runtime is not installed, lacks the precision or cannot run it.
        """
        if isinstance(source, Path):
            assert self.runtime is not None
            arithmetic = "bf16" if self.precision == "bf16" else "fp32"
            names = read_header(source).output_names
            session = start(source, self.runtime, names, threads=threads, precision=arithmetic)
            return lambda images: session(images.numpy())
        torch.set_num_threads(threads)
        assert self.precision != "int8"
        return fast(source, precision=self.precision, compiled=self.compiled) if self.fused else source


WAYS: dict[str, Way] = {
    "torch-eager": Way("torch eager", fused=False),
    "torch": Way("torch fused"),
    "torch-compiled": Way("torch compiled", compiled=True),
    "torch-bf16": Way("torch fused", "bf16"),
    "onnxruntime": Way("ONNX Runtime", runtime="onnxruntime"),
    "onnxruntime-int8": Way("ONNX Runtime", "int8", "onnxruntime"),
    "openvino": Way("OpenVINO", runtime="openvino"),
    "openvino-bf16": Way("OpenVINO", "bf16", "openvino"),
    "openvino-int8": Way("OpenVINO", "int8", "openvino"),
    "ncnn": Way("ncnn", runtime="ncnn"),
    "ncnn-bf16": Way("ncnn", "bf16", "ncnn"),
    "opencv": Way("OpenCV DNN", runtime="opencv"),
}


def billions(model: torch.nn.Module, size: int) -> float:
    """GFLOPs of a pass with one image, two for each multiply-add."""
    return count_flops(model, (1, 3, size, size)) / 1e9
