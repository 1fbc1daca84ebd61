"""Networks and runtimes side by side: latency, rate, memory, and how near they come to what the machine can do."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from crossstage.deploy.cached import versions
from crossstage.deploy.memory import peak_mib
from crossstage.deploy.peak import convolutions
from crossstage.deploy.peers import peers_of
from crossstage.deploy.rows import WAYS, Number, Run, billions
from crossstage.deploy.timing import in_turns
from crossstage.detectors import Detector
from crossstage.errors import ConfigError, CrossStageError
from crossstage.export.graph import plan, sample
from crossstage.files import write_text
from crossstage.heads import Classifier
from crossstage.machine import cores, processor
from crossstage.zoo import create_model, load
from crossstage.zoo.pretrained import PRETRAINED
from crossstage.zoo.registry import REGISTRY, Model

if TYPE_CHECKING:
    from rich.console import Console

PEAK_ROUNDS = 12
BURST, PAUSE = 3, 0.02


@dataclass(frozen=True)
class BenchmarkRow:
    """One way to run one network.

    Attributes:
        model: Its name.
        runtime: What runs it, for people.
        precision: Of the arithmetic.
        size: Side of the input in pixels.
        gflops: Of a pass, two for each multiply-add, in billions; None if nobody counted.
        milliseconds: Of each timed pass, with one picture; empty if it does not run.
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


@dataclass(frozen=True)
class Benchmark:
    """What was measured.

    Attributes:
        machine: The processor.
        threads: Of each runtime.
        rows: In the order they were asked for.
        peak: Best rate of a convolution in each precision, in GFLOP/s.
        best: Which convolution that was.
        versions: Of the packages that ran.
    """

    machine: str
    threads: int
    rows: tuple[BenchmarkRow, ...]
    peak: Mapping[Number, float]
    best: Mapping[Number, str]
    versions: Mapping[str, str] = field(default_factory=versions)

    def save(self, path: Path) -> None:
        """Write all of it as JSON.

        Raises:
            DataError: The file cannot be written.
        """
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")


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
    progress: Callable[[str], object] = lambda _: None,
) -> Benchmark:
    """Time networks, one picture at a time, in turns: every way to run every network takes its turn in each round.

    Args:
        models: Names, with or without weights, or files: see :func:`crossstage.load`.
        imgsz: Side of the input in pixels; None for each network's own.
        runtimes: Some of :data:`~crossstage.deploy.rows.WAYS`; None takes all but compiled PyTorch.
        peers: Add what users would otherwise run: OpenCV's DNN module on Darknet files of the same network, timm's same
            network, and, if it is installed, ultralytics' nano models at the same size.
        rounds: Timed passes of each.
        threads: For each runtime; None takes all cores.
        memory: Measure peak memory, too, each row in a process of its own.
        progress: Told of each step.

    Raises:
        ConfigError: A name, a runtime or a size does not fit.
        WeightsError: A file is damaged.
    """
    if rounds < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"rounds={rounds}, threads={threads}; expected at least 1")
    chosen = list(runtimes) if runtimes else [name for name in WAYS if name != "torch-compiled"]
    if unknown := [name for name in chosen if name not in WAYS]:
        raise ConfigError(f"runtime {unknown[0]!r} is unknown; expected some of {', '.join(WAYS)}")
    threads = threads or cores()
    torch.set_num_threads(threads)
    rows: list[BenchmarkRow | _Entry] = []
    with torch.inference_mode():
        for name in models:
            rows += _network(name, imgsz, chosen, threads, peers=peers, progress=progress)
        peaks = convolutions(threads)
        progress("timing")
        running = {f"row {index}": entry.run for index, entry in enumerate(rows) if isinstance(entry, _Entry)}
        times = in_turns(running, rounds, burst=BURST, pause=PAUSE)
        rates = in_turns(
            {peak.name + peak.precision: peak.run for peak in peaks}, PEAK_ROUNDS, burst=BURST, pause=PAUSE
        )
    finished = []
    for index, entry in enumerate(rows):
        if isinstance(entry, BenchmarkRow):
            finished.append(entry)
            continue
        progress(f"memory of {entry.row.model}, {entry.row.runtime} {entry.row.precision}")
        used = entry.memory() if memory else None
        finished.append(replace(entry.row, milliseconds=tuple(times[f"row {index}"]), memory=used))
    peak: dict[Number, float] = {}
    best: dict[Number, str] = {}
    for convolution in peaks:
        rate = convolution.gflops / statistics.median(rates[convolution.name + convolution.precision]) * 1e3
        if rate > peak.get(convolution.precision, 0.0):
            peak[convolution.precision], best[convolution.precision] = rate, convolution.name
    return Benchmark(processor(), threads, tuple(finished), peak, best)


def named_model(name: str) -> Model:
    """A model by name or file, with weights if there are any: speed does not depend on them.

    Raises:
        ConfigError: The name is unknown.
        WeightsError: The file is damaged.
    """
    untrained = name in REGISTRY and not any(tagged.startswith(f"{name}.") for tagged in PRETRAINED)
    if not untrained:
        return load(name)
    model = create_model(name)
    assert isinstance(model, (Detector, Classifier))
    return model.eval()


def _network(
    name: str,
    imgsz: int | None,
    ways: Sequence[str],
    threads: int,
    *,
    peers: bool,
    progress: Callable[[str], object],
) -> list[BenchmarkRow | _Entry]:
    model = named_model(name)
    size = imgsz or _own_size(name, model)
    images = sample(model, size, 1)
    gflops = billions(model, size)
    rows: list[BenchmarkRow | _Entry] = []
    for way_name in ways:
        way = WAYS[way_name]
        progress(f"{name}: {way.told} {way.precision}")
        row = BenchmarkRow(name, way.told, way.precision, size, gflops)
        try:
            file = way.file(model, size)
            run = way.open(file or model, threads)
            run(images)
        except CrossStageError as error:
            rows.append(replace(row, why=str(error)))
            continue
        source = file or name
        rows.append(
            _Entry(row, _bound(run, images), lambda source=source, way=way_name: peak_mib(source, way, size, threads))
        )
    if peers:
        for peer in peers_of(name, model, size, threads):
            progress(f"{name}: {peer.runtime}")
            row = BenchmarkRow(peer.model, peer.runtime, "fp32", size, peer.gflops)
            rows.append(_Entry(row, _bound(peer.run, images), lambda: None))
    return rows


def _bound(run: Run, images: torch.Tensor) -> Callable[[], object]:
    return lambda: run(images)


def _own_size(name: str, model: Model) -> int:
    if model.preprocessing is not None:
        return max(model.preprocessing.size)
    return max(REGISTRY[name].input_size) if name in REGISTRY else plan(model, name).images.shape[2]


def print_benchmark(result: Benchmark, console: Console) -> None:
    """Print a table: latency, pictures a second, memory, rate and share of the machine's peak."""
    from rich.table import Table

    for (model, size), rows in groupby(result.rows, lambda row: (row.model, row.size)):
        table = Table(box=None, pad_edge=False, title=f"{model} at {size}", title_justify="left", title_style="bold")
        for position, title in enumerate(("", "", "median ms", "p10", "p90", "images/s", "MiB", "GFLOP/s", "of peak")):
            table.add_column(title, justify="left" if position < 2 else "right", no_wrap=True)
        for row in rows:
            table.add_row(row.runtime, row.precision, *_cells(row, result.peak.get(row.precision)))
        console.print(table)
    lines = [f"{row.model}, {row.runtime} {row.precision}: {row.why}" for row in result.rows if row.why]
    lines.append(f"{result.machine}, {result.threads} threads; one picture at a time, all in turns")
    lines += [f"peak {name}: {rate:.0f} GFLOP/s ({result.best[name]})" for name, rate in result.peak.items()]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _cells(row: BenchmarkRow, peak: float | None) -> list[str]:
    if row.why:
        return ["-"]
    return [
        f"{row.median:.1f}",
        f"{row.percentile(10):.1f}",
        f"{row.percentile(90):.1f}",
        f"{1e3 / row.median:.1f}",
        "" if row.memory is None else f"{row.memory:.0f}",
        "" if row.rate is None else f"{row.rate:.0f}",
        "" if row.rate is None or not peak else f"{row.rate / peak:.0%}",
    ]
