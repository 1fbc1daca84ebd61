"""Networks and runtimes side by side: latency, rate, memory, and how near they come to what the machine can do."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossstage.deploy.benchmark.memory import peak_mib
from crossstage.deploy.benchmark.peak import Peak, best, convolutions
from crossstage.deploy.benchmark.peers import DARKNET, peers_of
from crossstage.deploy.benchmark.rows import WAYS, Number, Run, billions
from crossstage.deploy.benchmark.timing import in_turns
from crossstage.deploy.cache import versions
from crossstage.deploy.calibration import calibration_inputs
from crossstage.deploy.graph import plan, sample
from crossstage.errors import ConfigError
from crossstage.files import write_text
from crossstage.machine import cores, processor
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.registry import REGISTRY, Model
from crossstage.weights.loading import create_model, load
from crossstage.weights.shipped import PRETRAINED

if TYPE_CHECKING:
    from rich.console import Console

PEAK_ROUNDS = 12
BURST, PAUSE = 3, 0.02
CALIBRATION = 32  # inputs to quantise by


@dataclass(frozen=True)
class BenchmarkRow:
    """One way to run one network.

    Attributes:
        model: Its name.
        runtime: What runs it, for people.
        precision: Of the arithmetic.
        size: Side of the input in pixels.
        gflops: Of a pass, two for each multiply-add, in billions; None if nobody counted.
        milliseconds: Of each timed pass, with one image; empty if it does not run.
        memory: Peak of the resident memory that the run adds to its process, in MiB; None if not measured.
        why: Why it does not run.
    """

    model: str
    runtime: str
    precision: Number
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
        """Latency in milliseconds that so many of a hundred passes do not exceed."""
        ordered = sorted(self.milliseconds)
        return ordered[round(percent / 100 * (len(ordered) - 1))]

    @property
    def rate(self) -> float | None:
        """Achieved GFLOP/s."""
        return None if self.gflops is None else self.gflops / self.median * 1e3

    def to_dict(self) -> dict[str, Any]:
        """All of it, and what follows from the times, for JSON."""
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
        threads: Of each runtime.
        rows: In the order they were asked for.
        peaks: Best rates of a convolution in each precision.
        calibration: What int8 networks were quantised by, for people.
        versions: Of the packages that ran.
    """

    machine: str
    threads: int
    rows: tuple[BenchmarkRow, ...]
    peaks: tuple[Peak, ...]
    calibration: str
    versions: Mapping[str, str] = field(default_factory=versions)

    def share(self, row: BenchmarkRow, *, winograd: bool) -> float | None:
        """A row's rate over the best rate of a convolution in its precision, from 0 to 1; None if one is not known.

        Args:
            row: One of the rows.
            winograd: Over the best of any algorithm, not of direct ones alone.
        """
        rates = [
            peak.rate for peak in self.peaks if peak.precision == row.precision and (winograd or not peak.winograd)
        ]
        return row.rate / max(rates) if rates and row.milliseconds and row.rate is not None else None

    def baseline(self, row: BenchmarkRow) -> BenchmarkRow | None:
        """OpenCV's DNN module on Darknet's files of a row's network, if that was timed, too."""
        for other in self.rows:
            if (other.model, other.size, other.runtime) == (row.model, row.size, DARKNET) and other.milliseconds:
                return other
        return None

    def to_dict(self) -> dict[str, Any]:
        """All of it, and what follows from the times, for JSON."""
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


@dataclass
class _Entry:
    """A row in the making."""

    row: BenchmarkRow
    run: Callable[[], object]
    memory: Callable[[], float | None]


def benchmark(
    models: Sequence[str],
    *,
    imgsz: int | None = None,
    runtimes: Sequence[str] | None = None,
    peers: bool = False,
    rounds: int = 30,
    threads: int | None = None,
    memory: bool = True,
    calib: str | Path | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> Benchmark:
    """Time networks, one image at a time, in turns: every way to run every network takes its turn in each round.

    Args:
        models: Names, with or without weights, or files: see :func:`crossstage.load`.
        imgsz: Side of the input in pixels; None for each network's own.
        runtimes: Some of :data:`~crossstage.deploy.benchmark.rows.WAYS`; None takes all.
        peers: Add what users would otherwise run: OpenCV's DNN module on Darknet files of the same network, as it comes
            and with a core for each thread; timm's same network; and, if it is installed, ultralytics' nano models at
            the same size.
        rounds: Timed passes of each.
        threads: For each runtime; None takes all cores.
        memory: Measure peak memory, too, each row in a process of its own.
        calib: Images to quantise int8 networks by, as for :func:`~crossstage.deploy.export`; None takes noise, by
            which they are as fast and find little.
        progress: Told of each step.

    Raises:
        ConfigError: A name, a runtime or a size does not fit.
        DataError: There are no images to quantise by.
        WeightsError: A file is damaged.
    """
    if rounds < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"rounds={rounds}, threads={threads}; expected at least 1")
    chosen = list(runtimes) if runtimes else list(WAYS)
    if unknown := [name for name in chosen if name not in WAYS]:
        raise ConfigError(f"runtime {unknown[0]!r} is unknown; expected some of {', '.join(WAYS)}")
    threads = threads or cores()
    torch.set_num_threads(threads)
    rows: list[BenchmarkRow | _Entry] = []
    with torch.inference_mode():
        for name in models:
            rows += _network(name, imgsz, chosen, threads, calib=calib, peers=peers, progress=progress)
        roofs = convolutions(threads)
        progress("timing")
        running = {f"row {index}": entry.run for index, entry in enumerate(rows) if isinstance(entry, _Entry)}
        times = in_turns(running, rounds, burst=BURST, pause=PAUSE)
        rates = in_turns({roof.name: roof.run for roof in roofs}, PEAK_ROUNDS, burst=BURST, pause=PAUSE)
    finished = []
    for index, entry in enumerate(rows):
        if isinstance(entry, BenchmarkRow):
            finished.append(entry)
            continue
        progress(f"memory of {entry.row.model}, {entry.row.runtime} {entry.row.precision}")
        used = entry.memory() if memory else None
        finished.append(replace(entry.row, milliseconds=tuple(times[f"row {index}"]), memory=used))
    peaks = best(roofs, {name: statistics.median(values) for name, values in rates.items()})
    quantised = f"{CALIBRATION} {f'images of {calib}' if calib else 'inputs of noise'}"
    return Benchmark(processor(), threads, tuple(finished), peaks, quantised)


def named_model(name: str) -> Model:
    """A model by name or file, with weights if there are any: speed does not depend on them.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: The file is damaged.
    """
    untrained = name in REGISTRY and not any(tagged.startswith(f"{name}.") for tagged in PRETRAINED)
    if not untrained:
        return load(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # exported files of an earlier run serve again
        model = create_model(name)
    assert isinstance(model, (Detector, Classifier))
    return model.eval()


def _network(
    name: str,
    imgsz: int | None,
    ways: Sequence[str],
    threads: int,
    *,
    calib: str | Path | None,
    peers: bool,
    progress: Callable[[str], object],
) -> list[BenchmarkRow | _Entry]:
    model = named_model(name)
    size = imgsz or _own_size(name, model)
    images = sample(model, size, 1)
    gflops = billions(model, size)
    calibration: list[Tensor] = []
    if any(WAYS[way].precision == "int8" for way in ways):
        calibration = _calibration(model, size, calib)
    rows: list[BenchmarkRow | _Entry] = []

    def add(row: BenchmarkRow, opened: Callable[[], Run], memory: Callable[[], float | None]) -> None:
        progress(f"{row.model}: {row.runtime} {row.precision}")
        try:
            run = opened()
            run(images)
        except Exception as error:  # libraries and compilers have errors of their own, without a common base
            rows.append(replace(row, why=one_line(error)))
        else:
            rows.append(_Entry(row, _bound(run, images), memory))

    for way_name in ways:
        way = WAYS[way_name]
        row = BenchmarkRow(name, way.told, way.precision, size, gflops)
        file = partial(way.file, model, size, calibration)
        add(
            row,
            lambda way=way, file=file: way.open(file() or model, threads),
            lambda way_name=way_name, file=file: peak_mib(file() or name, way_name, size, threads),
        )
    for peer in peers_of(name, model, size, threads) if peers else ():
        row = BenchmarkRow(peer.model, peer.runtime, "fp32", size, peer.gflops)
        add(row, peer.open, lambda peer=peer: peak_mib(name, peer.label, size, threads))
    return rows


def _calibration(model: Model, size: int, calib: str | Path | None) -> list[Tensor]:
    if calib is None or model.preprocessing is None:
        return [sample(model, size, 1, seed=seed) for seed in range(CALIBRATION)]
    images = calibration_inputs(calib, replace(model.preprocessing, size=(size, size)))
    return images[:: max(1, len(images) // CALIBRATION)][:CALIBRATION]


def one_line(error: Exception) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _bound(run: Run, images: torch.Tensor) -> Callable[[], object]:
    return lambda: run(images)


def _own_size(name: str, model: Model) -> int:
    if model.preprocessing is not None:
        return max(model.preprocessing.size)
    return max(REGISTRY[name].input_size) if name in REGISTRY else plan(model, name).images.shape[2]


COLUMNS = ("", "", "median ms", "p10", "p90", "images/s", "MiB", "GFLOP/s", "of peak", "of direct", "x OpenCV")


def print_benchmark(result: Benchmark, console: Console) -> None:
    """Print a table: latency, images a second, memory, rate, its shares of the machine's peak, and speed."""
    from rich.table import Table

    for (model, size), rows in networks(result):
        table = Table(box=None, pad_edge=False, title=f"{model} at {size}", title_justify="left", title_style="bold")
        for position, title in enumerate(COLUMNS):
            table.add_column(title, justify="left" if position < 2 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*cells(result, row))
        console.print(table)
    console.print("\n".join(remarks(result)), markup=False, highlight=False, soft_wrap=True)


def networks(result: Benchmark) -> list[tuple[tuple[str, int], list[BenchmarkRow]]]:
    """Rows by name of the network and size of its input."""
    return [(key, list(rows)) for key, rows in groupby(result.rows, lambda row: (row.model, row.size))]


def remarks(result: Benchmark) -> list[str]:
    """What a table needs to be understood: what does not run and why, the machine, its peaks, what int8 is."""
    lines = [f"{row.model}, {row.runtime} {row.precision}: {row.why}" for row in result.rows if row.why]
    lines.append(f"{result.machine}, {result.threads} threads; one image at a time, all in turns")
    if any(row.precision == "int8" for row in result.rows):
        lines.append(f"int8: quantised by {result.calibration}")
    for peak in result.peaks:
        kind = ", Winograd" if peak.winograd else ""
        lines.append(f"peak {peak.precision}{kind}: {peak.rate:.0f} GFLOP/s ({peak.name})")
    return lines


def cells(result: Benchmark, row: BenchmarkRow) -> list[str]:
    """A row of the table with :data:`COLUMNS`."""
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
