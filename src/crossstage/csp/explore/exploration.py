"""What an exploration found: a row for each network, its figures, and the rows that no other row beats."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossstage.csp.explore.front import pareto_front
from crossstage.deploy.cache import versions
from crossstage.errors import ConfigError
from crossstage.files import write_text
from crossstage.nn import Partial

SUFFIXES = (".json", ".csv", ".png")


@dataclass(frozen=True)
class Costs:
    """What a network costs by count, with one image.

    Attributes:
        parameters: Learned values.
        bflops: Billions of floating-point operations, two for each multiply-add of a convolution or linear layer.
        traffic: Bytes that move between memory and processor in float32 if no layer finds its input in a cache.
        peak_memory: Most bytes that maps take at any time in float32.
        bottleneck: Operations of the largest layer over the mean of all.
    """

    parameters: int
    bflops: float
    traffic: int
    peak_memory: int
    bottleneck: float


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        partial: How its stages are made partial; None for the plain network.
        costs: What it costs by count; None if it cannot be built.
        milliseconds: Of each timed pass with one image, by what ran it.
        accuracy: Best score of its training.
        missing: Why there is no such thing: "network", the name of what should have run it, or "accuracy".
    """

    partial: Partial | None
    costs: Costs | None = None
    milliseconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    accuracy: float | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Such as "gamma 0.25, first, project"."""
        if self.partial is None:
            return "plain"
        return f"gamma {self.partial.gamma:g}, {self.partial.fusion}, {self.partial.split}"

    @property
    def slug(self) -> str:
        """The name, as a folder is called."""
        return self.name.replace(", ", "-").replace(" ", "")


@dataclass(frozen=True)
class Measure:
    """Something that networks are compared by.

    Attributes:
        key: Its name in files.
        title: Its name for people, with its unit.
        of: A row's value; None if the row has none.
        decimals: That are worth printing.
        more: Whether more is better.
        spread: A row's quartiles, of a measure that was taken several times.
    """

    key: str
    title: str
    of: Callable[[Row], float | None]
    decimals: int = 1
    more: bool = False
    spread: Callable[[Row], tuple[float, float]] | None = None


def _cost(key: str, title: str, value: Callable[[Costs], float], decimals: int) -> Measure:
    return Measure(key, title, lambda row: None if row.costs is None else value(row.costs), decimals)


PARAMETERS = _cost("parameters", "parameters, M", lambda costs: costs.parameters / 1e6, 3)
BFLOPS = _cost("bflops", "BFLOPs", lambda costs: costs.bflops, 3)
TRAFFIC = _cost("traffic", "traffic, MiB", lambda costs: costs.traffic / 2**20, 1)
PEAK_MEMORY = _cost("peak_memory", "peak memory, MiB", lambda costs: costs.peak_memory / 2**20, 2)
BOTTLENECK = _cost("bottleneck", "max/mean FLOPs", lambda costs: costs.bottleneck, 1)


def latency(runtime: str) -> Measure:
    """Median milliseconds of a pass in a runtime."""

    def median(row: Row) -> float | None:
        return statistics.median(row.milliseconds[runtime]) if runtime in row.milliseconds else None

    def quartiles(row: Row) -> tuple[float, float]:
        lower, _, upper = statistics.quantiles([*row.milliseconds[runtime]] * 2, method="inclusive")
        return lower, upper

    return Measure(f"milliseconds_{runtime}", f"{runtime}, ms", median, spread=quartiles)


@dataclass(frozen=True)
class Exploration:
    """Networks that differ in how their stages are made partial.

    Attributes:
        backbone: The network's name.
        size: Side of the input in pixels.
        classes: Of the head.
        metric: What accuracy means: "top-1" of a classifier, "AP" of a detector.
        runtimes: What ran the networks.
        machine: The processor.
        threads: Of each runtime.
        rows: The plain network first.
        training: What the trainings have in common, if there were any.
        versions: Of the packages that ran.
    """

    backbone: str
    size: int
    classes: int
    metric: str
    runtimes: tuple[str, ...]
    machine: str
    threads: int
    rows: tuple[Row, ...]
    training: str = ""
    versions: Mapping[str, str] = field(default_factory=versions)

    @property
    def accuracy(self) -> Measure:
        """Best score of a row's training, in percent."""
        return Measure(
            "accuracy", f"{self.metric}, %", lambda row: None if row.accuracy is None else 100 * row.accuracy, 1, True
        )

    @property
    def trained(self) -> bool:
        """Whether a row has an accuracy."""
        return any(row.accuracy is not None for row in self.rows)

    @property
    def measures(self) -> list[Measure]:
        """All that the rows are compared by."""
        costs = [PARAMETERS, BFLOPS, TRAFFIC, PEAK_MEMORY, BOTTLENECK]
        return [*costs, *map(latency, self.runtimes), *([self.accuracy] if self.trained else [])]

    @property
    def trade_offs(self) -> list[tuple[Measure, Measure]]:
        """Pairs of measures worth a front: accuracy against time and operations; untrained, time against both costs."""
        times = [latency(runtime) for runtime in self.runtimes]
        if self.trained:
            return [(cost, self.accuracy) for cost in (*times, BFLOPS)]
        return [*((BFLOPS, time) for time in times), *((TRAFFIC, time) for time in times)] or [(BFLOPS, TRAFFIC)]

    def front(self, first: Measure, second: Measure) -> list[Row]:
        """The rows that no other row beats in two measures, by the first of them."""
        known = [(row, first.of(row), second.of(row)) for row in self.rows]
        points = [
            (row, (-x if first.more else x, -y if second.more else y))
            for row, x, y in known
            if x is not None and y is not None
        ]
        return [points[index][0] for index in pareto_front([point for _, point in points])]

    def ratio(self, row: Row, measure: Measure) -> float | None:
        """A row's value over the plain network's; None if either is unknown."""
        plain, value = measure.of(self.rows[0]), measure.of(row)
        return None if not plain or value is None else value / plain

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        own = {name: value for name, value in vars(self).items() if name not in ("rows", "runtimes", "versions")}
        return {
            **own,
            "runtimes": list(self.runtimes),
            "versions": dict(self.versions),
            "rows": [self._row(row) for row in self.rows],
            "fronts": [
                {"measures": [first.key, second.key], "rows": [row.name for row in self.front(first, second)]}
                for first, second in self.trade_offs
            ],
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "name": row.name,
            "partial": asdict(row.partial) if row.partial else None,
            "costs": asdict(row.costs) if row.costs else None,
            "milliseconds": {name: list(times) for name, times in row.milliseconds.items()},
            "accuracy": row.accuracy,
            "of_plain": {measure.key: self.ratio(row, measure) for measure in self.measures},
            "missing": dict(row.missing),
        }

    def save(self, path: str | Path) -> None:
        """Write all of it (.json), a table (.csv) or the trade-offs with their fronts (.png).

        Raises:
            ConfigError: The file's name ends otherwise.
            DataError: The file cannot be written.
        """
        path = Path(path)
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
        if path.suffix == ".json":
            write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")
        elif path.suffix == ".csv":
            write_text(path, self._csv())
        else:
            from crossstage.csp.explore.plot import plot
            from crossstage.evaluation.plots import save

            save(plot(self), path)

    def save_all(self, folder: Path) -> None:
        """Write explore.json, explore.csv and explore.png.

        Raises:
            DataError: A file cannot be written.
        """
        for suffix in SUFFIXES:
            self.save(folder / f"explore{suffix}")

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        on_front = self.front(*self.trade_offs[0])
        writer.writerow(["network", *(measure.title for measure in self.measures), "on the front", "missing"])
        for row in self.rows:
            values = ["" if (value := measure.of(row)) is None else f"{value:.6g}" for measure in self.measures]
            why = "; ".join(f"{what}: {reason}" for what, reason in row.missing.items())
            writer.writerow([row.name, *values, "yes" if row in on_front else "no", why])
        return text.getvalue()
