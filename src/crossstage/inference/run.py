"""A whole run over a source: progress, files, and a summary that people like to read."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from signal import SIGINT
from typing import TYPE_CHECKING, Any

from crossstage.inference.drawing import draw
from crossstage.inference.outputs import Inputs
from crossstage.inference.pipeline import Behind
from crossstage.inference.predictor import Prediction, Predictor, StageTimes
from crossstage.inference.sources import Source, Unreadable, passed_over_text
from crossstage.inference.writing import AnnotatedCopies, JsonLines, as_json
from crossstage.machine import StopRequests
from crossstage.reading.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from crossstage.inference.live import LiveView

LISTED_IMAGES = 20  # longer runs print totals alone


class RunningMedian:
    """The median of milliseconds to within 1 %, in memory that does not grow with their number."""

    _STEP = math.log(1.02)  # width of a histogram's bins

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, milliseconds: float) -> None:
        """Count one; below a millionth all are equal."""
        self._bins[round(math.log(max(milliseconds, 1e-6)) / self._STEP)] += 1

    @property
    def value(self) -> float:
        """The median; 0 of nothing."""
        below, half = 0, self._bins.total() / 2
        for place, count in sorted(self._bins.items()):
            below += count
            if below >= half:
                return math.exp(place * self._STEP)
        return 0.0


@dataclass
class Summary:
    """What a run did.

    Attributes:
        images: Images and frames that were read.
        objects: How many of each class were found.
        listed: Name, size and finds of the first images.
        unreadable: Files that were skipped.
        interrupted: Whether Ctrl-C or another signal ended the run before its source.
        signal: The number of that signal; 0 if there was none.
        cut: Images in which as many objects were found as an image may have, so that more may be there.
        not_finite: Images whose numbers overflowed, so that some or all of what is there was not found.
        passed_over: Files that are no images or videos, by their ending or a reason, see
            :class:`~crossstage.inference.sources.Source`.
        rescued: Lines that an earlier run of the same ``json`` had written before it was killed.
        medians: The median milliseconds of each stage, so far.
        seconds: How long the run took, in which stages overlap.
        save: Folder of the annotated copies.
        json: File of the detections.
    """

    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    listed: list[tuple[str, str, str]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    interrupted: bool = False
    signal: int = 0
    cut: int = 0
    not_finite: int = 0
    passed_over: Counter[str] = field(default_factory=Counter)
    rescued: Path | None = None
    medians: dict[str, RunningMedian] = field(
        default_factory=lambda: {stage.name: RunningMedian() for stage in fields(StageTimes)}
    )
    seconds: float = 0.0
    save: Path | None = None
    json: Path | None = None

    @property
    def median_times(self) -> StageTimes | None:
        """Median milliseconds of each stage; None if nothing was read."""
        return StageTimes(**{name: median.value for name, median in self.medians.items()}) if self.images else None

    @property
    def images_per_second(self) -> float:
        """Images per second of the whole run, in which stages overlap."""
        return self.images / self.seconds if self.seconds else 0.0

    def add(self, prediction: Prediction) -> None:
        """Count one image."""
        self.images += 1
        self.cut += prediction.cut
        self.not_finite += not prediction.finite
        names = [str(name) for name in prediction.detections.data["class_name"]]
        self.objects.update(names)
        for name, median in self.medians.items():
            median.add(getattr(prediction.milliseconds, name))
        if len(self.listed) <= LISTED_IMAGES:
            height, width = prediction.image.size
            self.listed.append((prediction.image.name, f"{width} x {height}", _finds(prediction)))


def predict_to_files(
    predictor: Predictor,
    source: Any,
    *,
    save: Path | None = None,
    json: Path | None = None,
    live: LiveView | None = None,
    progress: bool = True,
) -> Summary:
    """Find objects in every image of a source, with a progress bar on stderr, and write what was asked for.

    Other threads read images ahead of the network, and draw and write behind it. When nothing is drawn, large
    JPEGs are read at a reduced scale, see :meth:`~crossstage.inference.predictor.Predictor.stream`.

    Args:
        predictor: A detector and its options.
        source: Anything that :class:`~crossstage.inference.sources.Source` takes.
        save: Folder for annotated copies.
        json: File for JSON lines, see :func:`~crossstage.inference.writing.as_json`.
        live: The page on which images are shown with boxes, as they are finished.
        progress: Whether to show the bar.

    Returns:
        What was done, the files that could not be read included. Ctrl-C ends the run early.

    Raises:
        DataError: Nothing was found at ``source``, or a file cannot be written, or would replace an image that is read.
            What is complete is kept, then as well.
    """
    images = Source(source)
    with StopRequests() if not images.live else nullcontext() as stop:  # what is live may let a program wait for ever
        return _predicted(predictor, images, stop, save=save, json=json, live=live, progress=progress)


def _predicted(
    predictor: Predictor,
    images: Source,
    stop: StopRequests | None,
    *,
    save: Path | None,
    json: Path | None,
    live: LiveView | None,
    progress: bool,
) -> Summary:
    """See :func:`predict_to_files`; between two images, a request to stop is heeded."""
    from rich.console import Console
    from rich.progress import track

    summary = Summary(save=save, json=json, passed_over=images.passed_over)
    inputs = Inputs(images.files)
    if json:
        inputs.check(json, "the file of detections")
    copies = AnnotatedCopies(save, inputs, json) if save else None
    lines = JsonLines(json) if json else None
    summary.rescued = lines.rescued if lines else None

    def write(prediction: Prediction) -> None:
        if lines:
            lines.write(as_json(prediction))
        if copies:
            copies.write(prediction.image, draw(prediction.image.pixels, prediction.detections))
        if live:
            live.show(lambda: draw(prediction.image.pixels, prediction.detections))

    def finish() -> None:
        try:
            if copies:
                copies.close()
        finally:
            if lines:
                lines.close()

    start = time.perf_counter()
    bar = {
        "total": images.total,
        "console": Console(stderr=True),
        "transient": True,
        "disable": images.single or not progress,
    }
    with Behind(write, finish) as files, closing(predictor.stream(images, whole=bool(save or live))) as found:
        try:
            for entry in track(found, "predict", **bar):
                if isinstance(entry, Unreadable):
                    summary.unreadable.append(entry)
                else:
                    files.put(entry)
                    summary.add(entry)
                if stop and stop.received:
                    summary.interrupted, summary.signal = True, stop.received
                    break
        except KeyboardInterrupt as error:
            summary.interrupted, summary.signal = True, getattr(error, "signal", int(SIGINT))
    summary.seconds = time.perf_counter() - start
    return summary


def print_summary(summary: Summary, console: Console) -> None:
    """Print what a run found, how long each stage took, where files are, and what could not be read."""
    from rich.table import Table
    from rich.text import Text

    if summary.images <= LISTED_IMAGES:
        table = Table("image", "size", "found", box=None, pad_edge=False)
        for name, size, finds in summary.listed:
            table.add_row(Text(visible(name), overflow="fold"), size, Text(visible(finds) or "nothing"))
    else:
        table = Table("class", "objects", box=None, pad_edge=False)
        for name, count in summary.objects.most_common():
            table.add_row(Text(visible(name)), str(count))
    console.print(table)
    console.print(
        f"\n{_counted(summary.objects.total(), 'object')} in {_counted(summary.images, 'image')}, "
        f"{summary.seconds:.1f} s{', interrupted' if summary.interrupted else ''}",
        highlight=False,
    )
    if times := summary.median_times:
        stages = ", ".join(f"{stage.name} {getattr(times, stage.name):.1f}" for stage in fields(times))
        console.print(f"median ms: {stages}; {summary.images_per_second:.1f} images/s", highlight=False)
    kept = " (up to the last image that was finished)" if summary.interrupted else ""
    killed = "lines of a run that was killed"
    for label, path in (("annotated copies", summary.save), ("detections", summary.json), (killed, summary.rescued)):
        if path:
            console.print(Text(f"{label}: {path}{kept if path == summary.json else ''}"), soft_wrap=True)
    for remark in _remarks(summary):
        console.print(Text(remark), style="yellow", soft_wrap=True)
    if summary.unreadable:
        console.print(f"\n{len(summary.unreadable)} could not be read:", style="bold red", highlight=False)
        for entry in summary.unreadable:
            console.print(Text(f"  {visible(entry.reason)}"), soft_wrap=True)


def _remarks(summary: Summary) -> list[str]:
    """Return what people should know of what was not found."""
    remarks = [passed_over_text(summary.passed_over)] if summary.passed_over else []
    if summary.cut:
        of = _counted(summary.cut, "image")
        remarks.append(f"{of} had as many objects as an image may have here; --max-detections allows more")
    if summary.not_finite:
        of = _counted(summary.not_finite, "image")
        remarks.append(
            f"{of} made the network's numbers overflow (NaN), so that objects were missed; is the model damaged, or "
            "its precision too low?"
        )
    return remarks


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _finds(prediction: Prediction) -> str:
    """Return how many there are of each class and the best confidence: 2 person 0.98, dog 0.71."""
    found = prediction.detections
    best: dict[str, float] = {}
    counts: Counter[str] = Counter()
    for name, confidence in zip(
        found.data["class_name"], found.confidence if found.confidence is not None else (), strict=True
    ):
        counts[str(name)] += 1
        best[str(name)] = max(best.get(str(name), 0.0), float(confidence))
    return ", ".join(f"{f'{counts[name]} ' if counts[name] > 1 else ''}{name} {best[name]:.2f}" for name in best)
