"""A network made to run in one of the ways that a benchmark compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from crossstage.deploy.backends import BACKENDS
from crossstage.deploy.benchmark.ways import Way
from crossstage.deploy.cache import exported_file
from crossstage.deploy.reading import read_header
from crossstage.deploy.sessions import start
from crossstage.models.registry import Model

Run = Callable[[Tensor], object]
"""A pass with images ``(N, 3, H, W)``."""


def file_for(way: Way, model: Model, size: int, calibration: Sequence[Tensor]) -> Path | None:
    """Return the exported file that a way runs, in the cache; None if it runs the model itself.

    Args:
        way: The way.
        model: The model with its weights.
        size: Side of the input in pixels.
        calibration: Inputs to quantise by.

    Raises:
        CrossStageError: The model cannot be exported.
    """
    if not way.exported:
        return None
    inputs = calibration if way.precision == "int8" else ()
    return exported_file(model, "benchmark", way.backend, imgsz=size, calibration=inputs)


def open_way(way: Way, source: Model | Path, threads: int) -> Run:
    """Make a model, or its exported file, run.

    Args:
        way: The way.
        source: The model, or what :func:`file_for` returned.
        threads: Number of threads to use.

    Raises:
        CrossStageError: The runtime is not installed, lacks the precision or cannot run it.
    """
    if isinstance(source, Path):
        arithmetic = "bf16" if way.precision == "bf16" else "fp32"
        names = read_header(source).output_names
        session = start(source, way.backend, names, threads=threads, precision=arithmetic)
        return lambda images: session(images.numpy())
    torch.set_num_threads(threads)
    prepare = BACKENDS[way.backend].prepare
    assert way.precision != "int8" and prepare is not None
    return prepare(source, way.precision, way.compiled) if way.prepared else source
