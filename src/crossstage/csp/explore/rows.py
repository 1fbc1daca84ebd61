"""A network of an exploration with its figures, and the measures that networks are compared by."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from crossstage.nn import Partial


@dataclass(frozen=True)
class Costs:
    """What a network costs by count, with one image.

    Attributes:
        parameters: Number of learned values.
        bflops: Billions of floating-point operations, two for each multiply-add of a convolution or linear layer.
        traffic: Bytes that move between memory and processor in float32 if no layer finds its input in a cache.
        peak_memory: The most bytes that maps take at any time in float32.
        bottleneck: Operations of the largest layer over the mean of all.
    """

    parameters: int
    bflops: float
    traffic: int
    peak_memory: int
    bottleneck: float


@dataclass(frozen=True)
class ExplorationRow:
    """One network of an exploration.

    Attributes:
        partial: How the network's stages are made partial; None for the plain network.
        costs: The network's costs by count; None if it cannot be built.
        milliseconds: The time of each timed pass with one image, by the name of the runtime.
        accuracy: Best score of the network's training, in [0, 1]; None if there was none.
        missing: The reason why a figure is missing, by "network", the name of a runtime or "accuracy".
    """

    partial: Partial | None
    costs: Costs | None = None
    milliseconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    accuracy: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The network's name, such as "gamma 0.25, first, project"."""
        if self.partial is None:
            return "plain"
        return f"gamma {self.partial.gamma:g}, {self.partial.fusion}, {self.partial.split}"

    @property
    def slug(self) -> str:
        """The name as a folder may be called."""
        return self.name.replace(", ", "-").replace(" ", "")


@dataclass(frozen=True)
class Measure:
    """Something that networks are compared by.

    Attributes:
        key: The measure's name in files.
        title: The measure's name for people, with its unit.
        of: Function from a row to its value; None if the row has none.
        decimals: Number of digits after the point that are worth printing.
        more: Whether more is better.
        spread: Function from a row to its quartiles, for a measure that is taken several times.
    """

    key: str
    title: str
    of: Callable[[ExplorationRow], float | None]
    decimals: int = 1
    more: bool = False
    spread: Callable[[ExplorationRow], tuple[float, float]] | None = None


def _cost(key: str, title: str, value: Callable[[Costs], float], decimals: int) -> Measure:
    return Measure(key, title, lambda row: None if row.costs is None else value(row.costs), decimals)


PARAMETERS = _cost("parameters", "parameters, M", lambda costs: costs.parameters / 1e6, 3)
BFLOPS = _cost("bflops", "BFLOPs", lambda costs: costs.bflops, 3)
TRAFFIC = _cost("traffic", "traffic, MiB", lambda costs: costs.traffic / 2**20, 1)
PEAK_MEMORY = _cost("peak_memory", "peak memory, MiB", lambda costs: costs.peak_memory / 2**20, 2)
BOTTLENECK = _cost("bottleneck", "max/mean FLOPs", lambda costs: costs.bottleneck, 1)


def latency(runtime: str) -> Measure:
    """Return the measure that is the median milliseconds of a pass in a runtime."""

    def median(row: ExplorationRow) -> float | None:
        return statistics.median(row.milliseconds[runtime]) if runtime in row.milliseconds else None

    def quartiles(row: ExplorationRow) -> tuple[float, float]:
        lower, _, upper = statistics.quantiles([*row.milliseconds[runtime]] * 2, method="inclusive")
        return lower, upper

    return Measure(f"milliseconds_{runtime}", f"{runtime}, ms", median, spread=quartiles)


@dataclass(frozen=True)
class TradeOff:
    """Two measures, and the rows that no other row beats in both.

    Attributes:
        first: The measure that the front is ordered by.
        second: The other measure.
        front: The rows on the Pareto front.
    """

    first: Measure
    second: Measure
    front: tuple[ExplorationRow, ...]
