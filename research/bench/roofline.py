"""The least time that a network can take on a device: what its layers compute and move, over what the device can do."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

import torch
from torch import nn

from crossstage.analysis import operations

BYTES = 2  # of a value in bfloat16
COUNTED = ("convolution", "linear", "pooling", "maxout", "upsampling")


@dataclass(frozen=True)
class Ceilings:
    """What the device does at best.

    Attributes:
        flops: Floating-point operations a second, in bfloat16 matrix products.
        bandwidth: Bytes a second, read and written, in a copy.
    """

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Work:
    """What a layer has to do: floating-point operations, and bytes that it reads and writes once."""

    flops: float
    moved: float


def bound_ms(layers: Iterable[Work], ceilings: Ceilings) -> float:
    """Milliseconds of layers that run one after the other, each as fast as computing or moving allows."""
    return 1e3 * sum(max(layer.flops / ceilings.flops, layer.moved / ceilings.bandwidth) for layer in layers)


def layers_of(model: nn.Module, input_shape: Sequence[int]) -> list[Work]:
    """Convolutions, linear layers and poolings of a model on the meta device.

    Norms, activations, sums and concatenations count as done on the way, for nothing: what follows can read the parts
    of a concatenation where they lie.
    """
    return [
        Work(operation.flops, BYTES * (operation.read + operation.written + operation.weights))
        for operation in operations(model, input_shape)
        if operation.kind in COUNTED
    ]


def measure_ceilings() -> Ceilings:
    """Of this GPU: a product of two 8192 x 8192 matrices, and a copy of 4 GiB."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = device_ms(lambda: a @ b)
    source = torch.randint(0, 255, (1 << 32,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copied = device_ms(lambda: target.copy_(source))
    return Ceilings(2 * side**3 / product * 1e3, 2 * source.numel() / copied * 1e3)


def device_ms(run: Callable[[], object], seconds: float = 0.4) -> float:
    """Median milliseconds of a function on the GPU, between events, over about so many seconds."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    began = perf_counter()
    run()
    torch.cuda.synchronize()
    rounds = max(5, min(300, int(seconds / (perf_counter() - began))))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return statistics.median(one.elapsed_time(other) for one, other in pairwise(events))


def replayed_ms(run: Callable[[], object], repeats: int = 5, seconds: float = 0.15) -> float:
    """The same without the gaps between launches: repeats of the function are recorded and replayed."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            run()
    return device_ms(graph.replay, seconds) / repeats
