"""Every combination of gamma, fusion and split of a network: built, counted and timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crossstage.analysis import profile_module
from crossstage.csp.explore.exploration import Exploration
from crossstage.csp.explore.rows import Costs, ExplorationRow
from crossstage.deploy.benchmark.running import file_for, open_way
from crossstage.deploy.benchmark.timing import BURST, PAUSE, in_turns
from crossstage.deploy.benchmark.ways import ways
from crossstage.deploy.graph import sample
from crossstage.deploy.sessions import first_line
from crossstage.errors import ConfigError
from crossstage.machine import cores, processor
from crossstage.models.classifier import Classifier
from crossstage.models.detector import Detector
from crossstage.models.registry import Model, find
from crossstage.nn import Partial
from crossstage.nn.partial import Fusion, SplitKind
from crossstage.weights.loading import create_model
from crossstage.weights.ref import parse

GAMMAS = (0.25, 0.5, 0.75)
FUSIONS: tuple[Fusion, ...] = ("first", "last", "both")
SPLITS: tuple[SplitKind, ...] = ("project",)
WARM_UP = 3

ProgressCallback = Callable[[str, int, int], object]
"""A function that is called with what is being done, how much of it is done, and out of how much."""


@dataclass
class _Candidate:
    """A row in the making, and functions that run its network, by the names of runtimes."""

    row: ExplorationRow
    runs: dict[str, Callable[[], object]]


def explore(
    backbone: str,
    *,
    gammas: Sequence[float] = GAMMAS,
    fusions: Sequence[Fusion] = FUSIONS,
    splits: Sequence[SplitKind] = SPLITS,
    num_classes: int | None = None,
    imgsz: int | None = None,
    runtimes: Sequence[str] = ("torch",),
    rounds: int = 30,
    threads: int | None = None,
    progress: ProgressCallback = lambda *_: None,
) -> Exploration:
    """Count and time a network, plain and with each combination of gamma, fusion and split.

    Counting allocates nothing. Latency is that of one image on this machine's processor, with random weights; every
    network in every runtime takes its turn in each round. A combination that the network does not allow, or that a
    runtime cannot run, is a row that says why.

    Args:
        backbone: Name of a classifier of :func:`crossstage.list_models`, or of a detector, whose backbone is varied.
        gammas: Shares of the channels that are carried past the blocks, in (0, 1).
        fusions: Places where the two parts are fused, see :mod:`crossstage.nn.partial`.
        splits: Ways in which the parts are taken, ``"slice"`` or ``"project"``.
        num_classes: Number of classes of the head; None takes the published model's.
        imgsz: Side of the input in pixels; None takes the published one.
        runtimes: Some of :func:`crossstage.deploy.benchmark.ways.ways`; with none of them networks are counted alone.
        rounds: Number of timed passes of each network in each runtime.
        threads: Number of threads of each runtime; None takes all cores.
        progress: Function that is called before each step.

    Raises:
        ConfigError: A name, a runtime, a size or a setting does not fit.

    Example:
        >>> found = explore("csppeleenet", fusions=["both"], runtimes=())
        >>> [round(row.costs.bflops, 3) for row in found.rows]
        [0.811, 0.985, 0.887, 0.799]
    """
    if rounds < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"rounds={rounds}, threads={threads}; expected at least 1")
    if unknown := [name for name in runtimes if name not in ways()]:
        raise ConfigError(f"runtime {unknown[0]!r} is unknown; expected some of {', '.join(ways())}")
    combinations = [Partial(gamma, fusion, split) for split in splits for fusion in fusions for gamma in gammas]
    backbone = parse(backbone, ("model",)).name
    entry, threads = find(backbone), threads or cores()
    size, classes = imgsz or entry.input_size[0], num_classes or entry.num_classes
    torch.set_num_threads(threads)
    entries: list[_Candidate] = []
    partials = [None, *dict.fromkeys(combinations)]
    for index, partial in enumerate(partials):
        row = ExplorationRow(partial)
        progress(f"{backbone}, {row.name}", index, len(partials))
        entries.append(_prepared(row, backbone, classes, size, runtimes, threads))
    rows = _timed(entries, rounds, lambda done: progress("timing in turns", done, rounds + WARM_UP))
    metric = "top-1" if entry.task == "classify" else "AP"
    return Exploration(backbone, size, classes, metric, tuple(runtimes), processor(), threads, tuple(rows))


def _prepared(
    row: ExplorationRow, name: str, classes: int, size: int, runtimes: Sequence[str], threads: int
) -> _Candidate:
    """Count a row's network and make it ready to run in each runtime that can."""
    try:
        with torch.device("meta"):
            counted = _built(name, classes, row.partial)
    except ConfigError as error:
        return _Candidate(replace(row, missing={"network": str(error)}), {})
    images = sample(counted, size, 1)
    costs = _costs(counted, images)
    model = _built(name, classes, row.partial) if runtimes else counted
    runs: dict[str, Callable[[], object]] = {}
    missing: dict[str, str] = {}
    for runtime in runtimes:
        try:
            runs[runtime] = _opened(runtime, model, images, threads)
        except Exception as error:  # libraries and compilers have errors of their own, without a common base
            missing[runtime] = first_line(error)
    return _Candidate(replace(row, costs=costs, missing=missing), runs)


def _built(name: str, classes: int, partial: Partial | None) -> Model:
    """Build a network with the same random weights each time, so that what was exported of it is found again."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = create_model(name, classes, partial=partial)
    assert isinstance(model, (Detector, Classifier))
    return model.eval()


def _costs(model: Model, images: Tensor) -> Costs:
    profile = profile_module(model, images.shape)
    return Costs(
        profile.parameters,
        profile.bflops,
        profile.dram_bytes(),
        profile.peak_activation_bytes(),
        profile.bottleneck.max_over_mean,
    )


@torch.inference_mode()
def _opened(runtime: str, model: Model, images: Tensor, threads: int) -> Callable[[], object]:
    """Return a function that runs a pass in a runtime, and has succeeded once.

    Raises:
        Exception: The runtime is not installed, or cannot run it.
    """
    way = ways()[runtime]
    run = open_way(way, file_for(way, model, images.shape[-1], [images]) or model, threads)
    run(images)
    return lambda: run(images)


@torch.inference_mode()
def _timed(entries: Sequence[_Candidate], rounds: int, progress: Callable[[int], object]) -> list[ExplorationRow]:
    """Time all networks in turns and return the rows with their latencies."""
    runs = {(index, name): run for index, entry in enumerate(entries) for name, run in entry.runs.items()}
    times = in_turns(runs, rounds, warm_up=WARM_UP, burst=BURST, pause=PAUSE, progress=progress)
    return [
        replace(entry.row, milliseconds={name: tuple(times[index, name]) for name in entry.runs})
        for index, entry in enumerate(entries)
    ]
