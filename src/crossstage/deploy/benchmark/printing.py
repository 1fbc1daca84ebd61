"""A benchmark as a table for people."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from crossstage.deploy.benchmark.results import Benchmark, BenchmarkRow

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("", "", "median ms", "p10", "p90", "images/s", "MiB", "GFLOP/s", "of peak", "of direct", "x OpenCV")


def print_benchmark(result: Benchmark, console: Console) -> None:
    """Print a table: latency, images a second, memory, rate, its shares of the machine's peak, and speed."""
    from rich.table import Table

    for (model, size), rows in by_network(result):
        table = Table(box=None, pad_edge=False, title=f"{model} at {size}", title_justify="left", title_style="bold")
        for position, title in enumerate(COLUMNS):
            table.add_column(title, justify="left" if position < 2 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*cells(result, row))
        console.print(table)
    console.print("\n".join(remarks(result)), markup=False, highlight=False, soft_wrap=True)


def by_network(result: Benchmark) -> list[tuple[tuple[str, int], list[BenchmarkRow]]]:
    """Return rows by name of the network and size of its input."""
    return [(key, list(rows)) for key, rows in groupby(result.rows, lambda row: (row.model, row.size))]


def remarks(result: Benchmark) -> list[str]:
    """Return what a table needs to be understood: what does not run and why, the machine, its peaks, what int8 is."""
    lines = [f"{row.model}, {row.runtime} {row.precision}: {row.why}" for row in result.rows if row.why]
    lines.append(f"{result.machine}, {result.threads} threads; one image at a time, all in turns")
    if any(row.precision == "int8" for row in result.rows):
        lines.append(f"int8: quantised by {result.calibration}")
    for peak in result.peaks:
        kind = ", Winograd" if peak.winograd else ""
        lines.append(f"peak {peak.precision}{kind}: {peak.rate:.0f} GFLOP/s ({peak.name})")
    return lines


def cells(result: Benchmark, row: BenchmarkRow) -> list[str]:
    """Return a row of the table with :data:`COLUMNS`."""
    if row.why:
        return [row.runtime, row.precision, "-"]
    shares = (result.share(row, winograd=winograd) for winograd in (True, False))
    baseline = result.baseline(row)
    return [
        row.runtime,
        row.precision,
        f"{row.median:.1f}",
        f"{row.percentile(10):.1f}",
        f"{row.percentile(90):.1f}",
        f"{1e3 / row.median:.1f}",
        "" if row.memory is None else f"{row.memory:.0f}",
        "" if row.rate is None else f"{row.rate:.0f}",
        *("" if share is None else f"{share:.0%}" for share in shares),
        "" if baseline is None else f"{baseline.median / row.median:.2f}",
    ]
