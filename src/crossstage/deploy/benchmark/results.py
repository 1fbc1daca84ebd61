"""What a benchmark measured: rows, and what follows from their times."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from crossstage.deploy.benchmark.peak import Peak
from crossstage.deploy.benchmark.peers import DARKNET
from crossstage.deploy.benchmark.ways import NumberType
from crossstage.deploy.cache import versions
from crossstage.files import write_text


@dataclass(frozen=True)
class BenchmarkRow:
    """One way to run one network.

    Attributes:
        model: The network's name.
        runtime: What runs it, for people.
        precision: The numbers that it is computed in.
        size: Side of the input in pixels.
        gflops: Billions of operations of a pass, two for each multiply-add; None if nobody counted.
        milliseconds: Duration of each timed pass, with one image; empty if the network does not run.
        memory: Peak of the resident memory that the run adds to its process, in MiB; None if not measured.
        why: Why the network does not run; empty if it does.
    """

    model: str
    runtime: str
    precision: NumberType
    size: int
    gflops: float | None
    milliseconds: tuple[float, ...] = ()
    memory: float | None = None
    why: str = ""

    @property
    def median(self) -> float:
        """Median latency in milliseconds."""
        return statistics.median(self.milliseconds)

    def percentile(self, percent: int) -> float:
        """Return the latency in milliseconds that so many of a hundred passes do not exceed."""
        ordered = sorted(self.milliseconds)
        return ordered[round(percent / 100 * (len(ordered) - 1))]

    @property
    def rate(self) -> float | None:
        """Achieved GFLOP/s."""
        return None if self.gflops is None else self.gflops / self.median * 1e3

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, and what follows from the times, for JSON."""
        content = asdict(self)
        if self.milliseconds:
            content |= {"median": self.median, "p10": self.percentile(10), "p90": self.percentile(90)}
            content |= {"images_per_second": 1e3 / self.median, "gflops_per_second": self.rate}
        return content


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        machine: The processor.
        threads: Number of threads of each runtime.
        rows: The rows, in the order they were asked for.
        peaks: Best rates of a convolution in each precision.
        calibration: What int8 networks were quantised by, for people.
        versions: Versions of the packages that ran, by package.
    """

    machine: str
    threads: int
    rows: tuple[BenchmarkRow, ...]
    peaks: tuple[Peak, ...]
    calibration: str
    versions: Mapping[str, str] = field(default_factory=versions)

    def share(self, row: BenchmarkRow, *, winograd: bool) -> float | None:
        """Return a row's rate over the best rate of a convolution in its precision, in [0, 1]; None if one is unknown.

        Args:
            row: One of the rows.
            winograd: Whether convolutions of any algorithm count, rather than direct ones alone.
        """
        rates = [
            peak.rate for peak in self.peaks if peak.precision == row.precision and (winograd or not peak.winograd)
        ]
        return row.rate / max(rates) if rates and row.milliseconds and row.rate is not None else None

    def baseline(self, row: BenchmarkRow) -> BenchmarkRow | None:
        """Return the row of OpenCV's DNN module on Darknet's files of a row's network, None if that was not timed."""
        for other in self.rows:
            if (other.model, other.size, other.runtime) == (row.model, row.size, DARKNET) and other.milliseconds:
                return other
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, and what follows from the times, for JSON."""
        rows = [
            row.to_dict()
            | {"share_of_peak": self.share(row, winograd=True), "share_of_direct_peak": self.share(row, winograd=False)}
            for row in self.rows
        ]
        return asdict(self) | {"rows": rows}

    def save(self, path: Path) -> None:
        """Write :meth:`to_dict` as JSON.

        Raises:
            DataError: The file cannot be written.
        """
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")
