"""What an exploration found: a row for each network, its figures, and the rows that no other row beats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossstage.csp.explore.front import pareto_front
from crossstage.csp.explore.plot import ACROSS, plot
from crossstage.csp.explore.rows import (
    BFLOPS,
    BOTTLENECK,
    PARAMETERS,
    PEAK_MEMORY,
    TRAFFIC,
    ExplorationRow,
    Measure,
    TradeOff,
    latency,
)
from crossstage.deploy.cache import versions
from crossstage.errors import ConfigError
from crossstage.evaluation.plots import save
from crossstage.files import write_text

SUFFIXES = (".json", ".csv", ".png")


@dataclass(frozen=True)
class Exploration:
    """Networks that differ in how their stages are made partial.

    Attributes:
        backbone: The network's name.
        size: Side of the square input in pixels.
        classes: Number of classes of the head.
        metric: The measure of accuracy: "top-1" of a classifier, "AP" of a detector.
        runtimes: Names of the runtimes that ran the networks.
        machine: Name of the processor.
        threads: Number of threads of each runtime.
        rows: The networks, the plain one first.
        training: A description of what the trainings have in common; empty if there were none.
        versions: Versions of the packages that ran, by their names.
    """

    backbone: str
    size: int
    classes: int
    metric: str
    runtimes: tuple[str, ...]
    machine: str
    threads: int
    rows: tuple[ExplorationRow, ...]
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
        """All measures that the rows are compared by."""
        costs = [PARAMETERS, BFLOPS, TRAFFIC, PEAK_MEMORY, BOTTLENECK]
        return [*costs, *map(latency, self.runtimes), *([self.accuracy] if self.trained else [])]

    @property
    def trade_offs(self) -> list[tuple[Measure, Measure]]:
        """Pairs of measures worth a front: accuracy against time and operations; untrained, time against both costs."""
        times = [latency(runtime) for runtime in self.runtimes]
        if self.trained:
            return [(cost, self.accuracy) for cost in (*times, BFLOPS)]
        return [*((BFLOPS, time) for time in times), *((TRAFFIC, time) for time in times)] or [(BFLOPS, TRAFFIC)]

    def front(self, first: Measure, second: Measure) -> list[ExplorationRow]:
        """Return the rows that no other row beats in two measures, ordered by the first of them."""
        known = [(row, first.of(row), second.of(row)) for row in self.rows]
        points = [
            (row, (-x if first.more else x, -y if second.more else y))
            for row, x, y in known
            if x is not None and y is not None
        ]
        return [points[index][0] for index in pareto_front([point for _, point in points])]

    def ratio(self, row: ExplorationRow, measure: Measure) -> float | None:
        """Return a row's value over the plain network's; None if either is unknown."""
        plain, value = measure.of(self.rows[0]), measure.of(row)
        return None if not plain or value is None else value / plain

    def to_dict(self) -> dict[str, Any]:
        """Return the whole exploration as values that JSON holds."""
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

    def _row(self, row: ExplorationRow) -> dict[str, Any]:
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

        Args:
            path: The file; its suffix says which of these.

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
            save(self._plot(), path)

    def _plot(self) -> Any:
        """Draw each trade-off with its front."""
        pairs = self.trade_offs
        beside = len(self.runtimes) if not self.trained and 1 < len(self.runtimes) <= ACROSS else len(pairs)
        best = f"trained on {self.training}; upper left is best" if self.trained else "lower left is best"
        return plot(
            self.rows,
            [TradeOff(first, second, tuple(self.front(first, second))) for first, second in pairs],
            across=min(ACROSS, beside),
            title=f"{self.backbone} at {self.size} x {self.size}; {best}",
        )

    def save_all(self, folder: Path) -> None:
        """Write explore.json, explore.csv and explore.png.

        Args:
            folder: Where to write them; it is made if it is missing.

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
