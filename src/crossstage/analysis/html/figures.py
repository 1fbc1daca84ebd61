"""The figures that a report compares networks by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from crossstage.analysis.profile import Profile


@dataclass(frozen=True)
class Figure:
    """A line of the table.

    Attributes:
        title: The figure's name, for people.
        unit: The unit of its values.
        of: Function from a profile to the value; None where it was not measured.
        digits: Number of digits after the point.
    """

    title: str
    unit: str
    of: Callable[[Profile], float | None]
    digits: int = 2

    def text(self, profile: Profile) -> str:
        """Return a profile's value for people; a dash where there is none."""
        value = self.of(profile)
        return "–" if value is None else f"{value:,.{self.digits}f}"


def _megabytes(count: int) -> float:
    return count / 1e6


BFLOPS = Figure("operations", "BFLOPs", lambda p: p.bflops, 3)
WEIGHTS = Figure("weights of kernels", "M", lambda p: p.weights / 1e6)
TRAFFIC = Figure("DRAM traffic, fp32", "MB", lambda p: _megabytes(p.dram_bytes()), 1)
PEAK = Figure("peak memory, fp32", "MB", lambda p: _megabytes(p.peak_activation_bytes()), 2)
TIME = Figure("time of all operations", "ms", lambda p: p.seconds and p.seconds * 1e3)
HEADLINES = (BFLOPS, WEIGHTS, TRAFFIC, PEAK)

TABLE: Mapping[str, tuple[Figure, ...]] = {
    "size": (
        Figure("parameters, all learned values", "M", lambda p: p.parameters / 1e6),
        WEIGHTS,
    ),
    "computing": (
        BFLOPS,
        Figure("with pooling, as Darknet counts", "BFLOPs", lambda p: p.darknet_bflops, 3),
        Figure("multiply-adds", "G", lambda p: p.macs / 1e9, 3),
    ),
    "bottleneck": (
        Figure("largest layer", "BFLOPs", lambda p: max((x.flops for x in p.layers), default=0) / 1e9, 3),
        Figure("its share of all operations", "%", lambda p: p.bottleneck.share * 100, 1),
        Figure("largest layer over the mean", "×", lambda p: p.bottleneck.max_over_mean, 1),
    ),
    "memory access": (
        Figure("activations", "M values", lambda p: p.activations / 1e6),
        Figure("memory access cost", "M values", lambda p: p.memory_access / 1e6),
        Figure("its lower bound", "M values", lambda p: p.memory_access_bound / 1e6),
        Figure("convolutional input and output (CIO)", "M values", lambda p: p.cio / 1e6),
        Figure("CIO with pooling", "M values", lambda p: p.cio_with_pooling / 1e6),
    ),
    "traffic": (
        TRAFFIC,
        Figure("DRAM traffic, fp16", "MB", lambda p: _megabytes(p.dram_bytes("fp16")), 1),
        Figure("DRAM traffic, int8", "MB", lambda p: _megabytes(p.dram_bytes("int8")), 1),
        Figure("one by one, norms not folded, fp32", "MB", lambda p: _megabytes(p.dram_bytes(folded=False)), 1),
        Figure("arithmetic intensity, fp32", "FLOP/byte", lambda p: p.arithmetic_intensity(), 1),
    ),
    "memory of maps": (
        PEAK,
        Figure("peak memory, fp16", "MB", lambda p: _megabytes(p.peak_activation_bytes("fp16")), 2),
        Figure("peak memory, int8", "MB", lambda p: _megabytes(p.peak_activation_bytes("int8")), 2),
    ),
}
MEASURED = (
    TIME,
    Figure("rate", "GFLOP/s", lambda p: p.seconds and p.flops / p.seconds / 1e9, 1),
    Figure("best rate of this machine", "GFLOP/s", lambda p: p.roof and p.roof.flops / 1e9, 1),
    Figure("best bandwidth of this machine", "GB/s", lambda p: p.roof and p.roof.bytes / 1e9, 1),
)
