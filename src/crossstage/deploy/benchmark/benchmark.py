"""Networks and runtimes side by side: latency, rate, memory, and how near they come to what the machine can do."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from crossstage.deploy.benchmark.memory import peak_mib
from crossstage.deploy.benchmark.networks import billions, named_model, own_size
from crossstage.deploy.benchmark.peak import best, convolutions
from crossstage.deploy.benchmark.peers import peers_of
from crossstage.deploy.benchmark.results import Benchmark, BenchmarkRow
from crossstage.deploy.benchmark.running import Run, file_for, open_way
from crossstage.deploy.benchmark.timing import BURST, PAUSE, in_turns
from crossstage.deploy.benchmark.ways import ways
from crossstage.deploy.calibration import calibration_inputs
from crossstage.deploy.graph import sample
from crossstage.errors import ConfigError, first_line
from crossstage.machine import cores, processor
from crossstage.models.registry import Model

PEAK_ROUNDS = 12
CALIBRATION = 32  # inputs to quantise by


@dataclass
class _Pending:
    """A row in the making, and what runs its network and measures its memory."""

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
        runtimes: The ways to run them, some of :func:`~crossstage.deploy.benchmark.ways.ways`; None takes all.
        peers: Whether to add what users would otherwise run: OpenCV's DNN module on Darknet files of the same network,
            as it comes and with a core for each thread; timm's same network; and, if it is installed, ultralytics' nano
            models at the same size.
        rounds: Number of timed passes of each.
        threads: Number of threads of each runtime; None takes all cores.
        memory: Whether to measure peak memory, too, each row in a process of its own.
        calib: Images to quantise int8 networks by, as for :func:`~crossstage.deploy.export`; None takes noise, by
            which they are as fast and find little.
        progress: Called with a description of each step.

    Raises:
        ConfigError: A name, a runtime or a size does not fit.
        DataError: There are no images to quantise by.
        WeightsError: A file is damaged.
    """
    if rounds < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"rounds={rounds}, threads={threads}; expected at least 1")
    chosen = list(runtimes) if runtimes else list(ways())
    if unknown := [name for name in chosen if name not in ways()]:
        raise ConfigError(f"runtime {unknown[0]!r} is unknown; expected some of {', '.join(ways())}")
    threads = threads or cores()
    torch.set_num_threads(threads)
    rows: list[BenchmarkRow | _Pending] = []
    with torch.inference_mode():
        for name in models:
            rows += _network(name, imgsz, chosen, threads, calib=calib, peers=peers, progress=progress)
        roofs = convolutions(threads)
        progress("timing")
        running = {f"row {index}": entry.run for index, entry in enumerate(rows) if isinstance(entry, _Pending)}
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


def _network(
    name: str,
    imgsz: int | None,
    chosen: Sequence[str],
    threads: int,
    *,
    calib: str | Path | None,
    peers: bool,
    progress: Callable[[str], object],
) -> list[BenchmarkRow | _Pending]:
    model = named_model(name)
    size = imgsz or own_size(name, model)
    images = sample(model, size, 1)
    gflops = billions(model, size)
    calibration: list[Tensor] = []
    if any(ways()[way].precision == "int8" for way in chosen):
        calibration = _calibration(model, size, calib)
    rows: list[BenchmarkRow | _Pending] = []

    def add(row: BenchmarkRow, opened: Callable[[], Run], memory: Callable[[], float | None]) -> None:
        progress(f"{row.model}: {row.runtime} {row.precision}")
        try:
            run = opened()
            run(images)
        except Exception as error:  # libraries and compilers have errors of their own, without a common base
            rows.append(replace(row, why=first_line(error)))
        else:
            rows.append(_Pending(row, _bound(run, images), memory))

    for way_name in chosen:
        way = ways()[way_name]
        row = BenchmarkRow(name, way.label, way.precision, size, gflops)
        file = partial(file_for, way, model, size, calibration)
        add(
            row,
            lambda way=way, file=file: open_way(way, file() or model, threads),
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


def _bound(run: Run, images: torch.Tensor) -> Callable[[], object]:
    return lambda: run(images)
