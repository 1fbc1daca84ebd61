"""Which runtime is the fastest for a model on this machine: measured once, then remembered."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossstage.deploy.backends import BACKENDS
from crossstage.deploy.backends.base import Arithmetic
from crossstage.deploy.benchmark.timing import in_turns
from crossstage.deploy.cache import fingerprint, versions
from crossstage.deploy.graph import sample
from crossstage.errors import CrossStageError, DataError, WeightsError
from crossstage.files import write_text
from crossstage.machine import cache_folder, cores, processor
from crossstage.models.registry import Model

Candidate = Callable[[int], Any]
"""Opens the model in a runtime, to be run from that number of threads at once."""

REFERENCE = "torch"
"""The runtime that is always there, and whose output the others are to reproduce."""

TOLERANCES: dict[Arithmetic, float] = {"fp32": 1e-4, "bf16": 5e-2}
"""Largest difference to PyTorch's float32 output, relative to the largest value, with which a runtime may be chosen."""

ROUNDS, SECONDS = 15, 10.0
MAX_RECORD_BYTES = 1 << 16


@dataclass(frozen=True)
class FastestRuntime:
    """The fastest runtime.

    Attributes:
        model: The model, opened in the runtime.
        runtime: The runtime's name.
        milliseconds: Median of a forward pass in each runtime that reproduces PyTorch's output.
        refused: Why each of the other runtimes was not taken.
        remembered: Whether it was chosen in an earlier run.
    """

    model: Any
    runtime: str
    milliseconds: Mapping[str, float]
    refused: Mapping[str, str]
    remembered: bool

    def __str__(self) -> str:
        """Return one line for people."""
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in sorted(self.milliseconds.items(), key=lambda kv: kv[1]))
        when = "remembered" if self.remembered else "measured now"
        failed = "".join(f"; not {name}: {reason}" for name, reason in self.refused.items())
        return f"runtime {self.runtime} ({when}: {times}{failed})"


def choose(
    model: Model,
    candidates: Mapping[str, Candidate],
    *,
    imgsz: int | tuple[int, int] | None,
    batch: int,
    threads: int | None,
    precision: Arithmetic,
    streams: int = 1,
) -> FastestRuntime:
    """Take the fastest runtime that reproduces PyTorch's output.

    The choice is kept in the user's cache, by the model and its weights, the size, the number of images, threads and
    precision, the processor and the runtimes' versions.

    Args:
        model: The model.
        candidates: What opens the model in each runtime, by the runtime's name; ``"torch"`` is among them.
        imgsz: Side of the input in pixels, or its height and width; None for the size the model was trained at.
        batch: Images of a pass.
        threads: Number of threads that the candidates use; None if that is left to them.
        precision: What the candidates compute in.
        streams: Number of threads that will run the model at once. The choice is made by one.

    Raises:
        CrossStageError: Not even PyTorch can run it.
        WeightsError: Its output is not finite, so that nothing can be compared.
    """
    about = (imgsz, batch, threads, precision, processor(), cores(), sorted(candidates), versions())
    record = cache_folder() / "runtimes" / f"{fingerprint(model, about)}.json"
    if (known := _recall(record)) is not None and known[0] in candidates:
        with suppress(CrossStageError):  # what no longer opens is chosen anew
            return FastestRuntime(candidates[known[0]](streams), known[0], known[1], {}, remembered=True)
    if getattr(getattr(model, "head", None), "second_stage", False):
        why = "a second stage is timed and compared in no other; name the runtime"
        others = {name: why for name in candidates if name != REFERENCE}
        return FastestRuntime(candidates[REFERENCE](streams), REFERENCE, {}, others, remembered=False)
    images = sample(model, imgsz, batch)
    with torch.inference_mode():
        expected = _tensors(model(images))
        if not all(bool(output.isfinite().all()) for output in expected):
            raise WeightsError("the model's output is not finite (NaN or infinity), so that no runtime can be compared")
        opened, refused = _able(candidates, images, expected, TOLERANCES[precision])
        times = in_turns({name: (lambda run=run: run(images)) for name, run in opened.items()}, ROUNDS, seconds=SECONDS)
    medians = {name: statistics.median(values) for name, values in times.items()}
    fastest = min(medians, key=lambda name: medians[name])
    _remember(record, fastest, medians)
    model = opened[fastest] if streams == 1 else candidates[fastest](streams)
    return FastestRuntime(model, fastest, medians, refused, remembered=False)


def _able(
    candidates: Mapping[str, Candidate], images: Tensor, expected: list[Tensor], tolerance: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the runtimes that run the model and reproduce the output, opened, and why the others do not."""
    opened: dict[str, Any] = {}
    refused: dict[str, str] = {}
    for name, candidate in candidates.items():
        try:
            run = candidate(1)
            found = _tensors(run(images))
        except CrossStageError as error:
            if name == REFERENCE:
                raise
            refused[name] = str(error)
            continue
        worst = max(
            float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in zip(found, expected, strict=True)
        )
        if worst <= tolerance:
            opened[name] = run
        elif name != REFERENCE:
            refused[name] = f"its output differs from PyTorch's by {worst:.1e}"
    return opened, refused


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    return list(output.values() if isinstance(output, Mapping) else output)


def _recall(record: Path) -> tuple[str, dict[str, float]] | None:
    """Return the choice and the times in a record; None for what is none, as anybody may have put there."""
    try:
        if record.stat().st_size > MAX_RECORD_BYTES:
            return None
        content = json.loads(record.read_text("utf-8"))
        runtime = str(content["runtime"])
        times = {name: float(ms) for name, ms in content["milliseconds"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None
    good = {*times, runtime} <= set(BACKENDS) and all(0 < ms < math.inf for ms in times.values())
    return (runtime, times) if good else None


def _remember(record: Path, runtime: str, milliseconds: Mapping[str, float]) -> None:
    """Keep the choice; a cache that cannot be written costs time in the next run, and nothing else."""
    try:
        write_text(record, json.dumps({"runtime": runtime, "milliseconds": milliseconds}, indent=1) + "\n")
    except DataError:
        return
