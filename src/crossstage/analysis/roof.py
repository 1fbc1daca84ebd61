"""What a machine can do at best, and how near each layer comes to it (the roofline model, Williams et al., 2009)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from crossstage.analysis.cost import operations
from crossstage.analysis.layer import BYTES, Layer
from crossstage.errors import ConfigError
from crossstage.machine import processor

# Channels, kernel, side: what real networks spend their time on, large enough to hide all but the arithmetic.
CONVOLUTIONS = ((256, 3, 52), (512, 3, 26), (1024, 1, 52))

COPIED = 1 << 26  # values, far more than caches hold
ROUNDS, SECONDS = 20, 10.0
LEAST_ROUNDS = 3
PEAK_ROUNDS = 10


@dataclass(frozen=True)
class Roof:
    """Best rates of a machine in float32.

    Attributes:
        machine: Name of the machine's processor.
        flops: Operations a second of the best of a few large convolutions.
        bytes: Bytes a second that a copy of a large tensor reads and writes.
    """

    machine: str
    flops: float
    bytes: float

    @property
    def ridge(self) -> float:
        """Operations for each byte at which both limits meet."""
        return self.flops / self.bytes

    def attainable(self, intensity: float) -> float:
        """Return the most operations a second of a layer with so many operations for each byte."""
        return min(self.flops, intensity * self.bytes)

    def bound(self, layer: Layer) -> Literal["compute", "memory"]:
        """Tell what limits a layer."""
        return "compute" if layer.intensity() > self.ridge else "memory"

    def share(self, layer: Layer) -> float | None:
        """Return the least time that both limits allow, over the time that a layer took; None if it was not timed.

        Above 1 where what it moves comes from a cache.
        """
        least = max(layer.flops / self.flops, layer.moved * BYTES["fp32"] / self.bytes)
        return least / layer.seconds if layer.seconds else None


def measure_roof(device: torch.device) -> Roof:
    """Measure a device's best rates, in some seconds.

    Args:
        device: A CPU or GPU.
    """
    batch = 1 if device.type == "cpu" else 64  # a GPU needs more to fill it
    rates = []
    for channels, kernel, side in CONVOLUTIONS:
        images = torch.rand(batch, channels, side, side, device=device)
        weight = torch.rand(channels, channels, kernel, kernel, device=device)
        x, w = (tensor.to(memory_format=torch.channels_last) for tensor in (images, weight))
        seconds = _best(lambda x=x, w=w: F.conv2d(x, w, padding=w.shape[2] // 2), device)
        rates.append(2 * batch * channels**2 * kernel**2 * side**2 / seconds)
    source = torch.rand(COPIED, device=device)
    target = torch.empty_like(source)
    copied = 2 * COPIED * source.itemsize / _best(lambda: target.copy_(source), device)
    name = processor() if device.type == "cpu" else torch.cuda.get_device_name(device)
    return Roof(name, max(rates), copied)


def measure_layers(model: nn.Module, input_shape: Sequence[int]) -> list[Layer]:
    """Return the operations of a forward pass with the median time of each in up to 20 passes.

    Args:
        model: A model with weights; it runs where they are.
        input_shape: Shape of the input, ``(N, C, H, W)`` or whatever the model takes.

    Raises:
        ConfigError: It cannot run on such an input, or its passes differ.
    """
    passes = [operations(model, input_shape, timed=True)]  # warms up
    end = time.perf_counter() + SECONDS
    while len(passes) <= LEAST_ROUNDS or (len(passes) <= ROUNDS and time.perf_counter() < end):
        passes.append(operations(model, input_shape, timed=True))
    first, *timed = passes
    if any([layer.operator for layer in each] != [layer.operator for layer in first] for each in timed):
        raise ConfigError(
            f"{type(model).__name__} does not compute the same in every pass; it cannot be timed by layer"
        )
    times = zip(*([layer.seconds for layer in each] for each in timed), strict=True)
    return [replace(layer, seconds=statistics.median(taken)) for layer, taken in zip(first, times, strict=True)]


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the fastest of some runs."""
    taken = []
    with torch.inference_mode():
        for _ in range(PEAK_ROUNDS):
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
    return min(taken)
