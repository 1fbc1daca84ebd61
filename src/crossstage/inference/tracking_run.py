"""A whole tracked run: frames in, and copies with traces, JSON lines, CSV and MOT files out, with what was counted."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from signal import SIGINT
from typing import IO, TYPE_CHECKING, Any

from crossstage.files import whole_text
from crossstage.inference.counting import Counts
from crossstage.inference.outputs import Inputs
from crossstage.inference.predictor import Prediction, Predictor
from crossstage.inference.sources import Source, Unreadable, passed_over_text
from crossstage.inference.traces import Traces
from crossstage.inference.tracking import TrackerKind, followed
from crossstage.inference.writing import AnnotatedCopies, JsonLines, as_json
from crossstage.machine import StopRequests
from crossstage.reading.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from crossstage.inference.live import LiveView

CSV_COLUMNS = ("source", "frame", "time_s", "track_id", "class_name", "confidence", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class TrackOutputs:
    """Where a tracked run writes; None writes nothing.

    Attributes:
        save: Folder for copies with boxes, numbers, traces and counts.
        json: File of JSON lines, as ``predict`` writes them, with a ``track_id`` for each object, and the counts.
        csv: File with a line for each object of each frame.
        mot: Folder for a file of each video in the format of the MOT challenge, which counts frames from 1.
        live: The page on which frames are shown with boxes, numbers, traces and counts.
    """

    save: Path | None = None
    json: Path | None = None
    csv: Path | None = None
    mot: Path | None = None
    live: LiveView | None = None


@dataclass
class TrackSummary:
    """What a tracked run did.

    Attributes:
        frames: How many frames were read.
        tracks: How many objects of each class were followed; one that changed its class counts as what it was most.
        counts: What crossed the lines and was in the zones.
        unreadable: What could not be read.
        passed_over: Files that are no images or videos, by their ending or a reason.
        rescued: Lines that an earlier run of the same ``json`` had written before it was killed.
        signal: The number of the signal that ended the run; 0 if none did.
    """

    frames: int = 0
    counts: Counts = field(default_factory=Counts)
    unreadable: list[Unreadable] = field(default_factory=list)
    passed_over: Mapping[str, int] = field(default_factory=dict)
    rescued: Path | None = None
    signal: int = 0
    _classes: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def tracks(self) -> Counter[str]:
        """How many objects of each class were followed."""
        return Counter(names.most_common(1)[0][0] for names in self._classes.values())

    def add(self, prediction: Prediction) -> None:
        """Count a frame."""
        self.frames += 1
        found = prediction.detections
        assert found.tracker_id is not None
        for number, name in zip(found.tracker_id.tolist(), found.data.get("class_name", ()), strict=True):
            self._classes[number][str(name)] += 1
        self.counts.see(found)


def track_to_files(
    predictor: Predictor,
    source: Any,
    outputs: TrackOutputs | None = None,
    *,
    kind: TrackerKind = "bytetrack",
    conf: float = 0.25,
    frame_rate: float | None = None,
    counts: Counts | None = None,
    progress: bool = True,
) -> TrackSummary:
    """Follow the objects of videos, cameras or folders of frames, and write what was asked for.

    Args:
        predictor: A detector and its options, which let weak detections pass, see
            :func:`~crossstage.inference.tracking.weak`.
        source: Anything that :class:`~crossstage.inference.sources.Source` takes; images are frames of one sequence.
        outputs: Where to write.
        kind: The tracker.
        conf: The score from which a detection starts a track.
        frame_rate: Frames per second of a sequence of images; a video tells its own.
        counts: Lines and zones.
        progress: Whether a bar is shown on stderr.

    Raises:
        ConfigError: The tracker is unknown or not installed.
        DataError: Nothing was found at ``source``, or a file cannot be written, or would replace what is read.
    """
    from rich.console import Console
    from rich.progress import track

    outputs = outputs or TrackOutputs()
    images = Source(source)
    summary = TrackSummary(counts=counts or Counts(), passed_over=images.passed_over)
    bar = {"total": images.total, "console": Console(stderr=True), "transient": True, "disable": not progress}
    with ExitStack() as stack:
        # What is live may let a program wait for ever; elsewhere the frame under way is finished.
        stop = None if images.live else stack.enter_context(StopRequests())
        writer = stack.enter_context(closing(_Writer(outputs, Inputs(images.files), summary.counts)))
        summary.rescued = writer.rescued
        found = stack.enter_context(closing(predictor.stream(images)))
        frames = followed(found, kind, conf=conf, frame_rate=frame_rate)
        try:
            for entry in track(frames, "track", **bar):
                if isinstance(entry, Unreadable):
                    summary.unreadable.append(entry)
                else:
                    summary.add(entry)
                    writer.write(entry, summary.frames - 1)
                if stop and stop.received:
                    summary.signal = stop.received
                    break
        except KeyboardInterrupt as error:
            summary.signal = getattr(error, "signal", int(SIGINT))
    return summary


class _Writer:
    """All files of a run."""

    def __init__(self, outputs: TrackOutputs, inputs: Inputs, counts: Counts) -> None:
        self._counts = counts
        for path in filter(None, (outputs.json, outputs.csv)):
            inputs.check(path, "the file of tracks")
        self._mot_folder, self._mot, self._mot_of, self._taken = outputs.mot, None, "", set[str]()
        self._stack = ExitStack()
        with self._stack as stack:  # closed here if one of them cannot be opened
            self._json = JsonLines(outputs.json) if outputs.json else None
            self.rescued = self._json.rescued if self._json else None
            if self._json:
                stack.callback(self._json.close)
            self._csv = csv.writer(stack.enter_context(whole_text(outputs.csv))) if outputs.csv else None
            if self._csv:
                self._csv.writerow(CSV_COLUMNS)
            self._copies = AnnotatedCopies(outputs.save, inputs, outputs.json) if outputs.save else None
            if self._copies:
                stack.callback(self._copies.close)
            self._live = outputs.live
            self._traces = Traces(counts) if outputs.save or outputs.live else None
            self._mot_stack = stack.enter_context(ExitStack())
            self._stack = stack.pop_all()

    def write(self, prediction: Prediction, number: int) -> None:
        """Write a frame, which is the run's ``number``-th, from 0."""
        image, found = prediction.image, prediction.detections
        assert found.tracker_id is not None and found.confidence is not None
        frame = number if image.frame is None else image.frame
        ids = found.tracker_id.tolist()
        if self._json:
            entry = as_json(prediction)
            for one, track_id in zip(entry["detections"], ids, strict=True):
                one["track_id"] = track_id
            self._json.write({**entry, **(self._counts.as_dict() if self._counts.lines or self._counts.zones else {})})
        rows = list(zip(ids, found.data.get("class_name", ()), found.confidence, found.xyxy.tolist(), strict=True))
        if self._csv:
            time_s = "" if image.time_s is None else f"{image.time_s:.6f}"
            for track_id, name, score, box in rows:
                sides = (f"{side:.2f}" for side in box)
                self._csv.writerow((image.name, frame, time_s, track_id, name, f"{score:.4f}", *sides))
        if self._mot_folder:
            file = self._mot_file(_sequence(prediction), image.relative, self._mot_folder)
            for track_id, _, score, (left, top, right, bottom) in rows:
                box = f"{left:.2f},{top:.2f},{right - left:.2f},{bottom - top:.2f}"
                file.write(f"{frame + 1},{track_id},{box},{score:.4f},-1,-1,-1\n")
        if self._traces:
            drawn = self._traces.draw(image, found)  # whoever looks or not: a trace grows with each frame
            if self._copies:
                self._copies.write(image, drawn)
            if self._live:
                self._live.show(lambda: drawn)

    def _mot_file(self, sequence: str, relative: PurePath, folder: Path) -> IO[str]:
        if self._mot is None or sequence != self._mot_of:
            self._mot_stack.close()
            stem = relative.stem if sequence else "frames"
            names = (stem, *(f"{stem}-{number}" for number in range(2, len(self._taken) + 3)))
            name = next(name for name in names if name not in self._taken)
            self._taken.add(name)
            self._mot = self._mot_stack.enter_context(whole_text(folder / f"{name}.txt"))
            self._mot_of = sequence
        return self._mot

    def close(self) -> None:
        """Move all files to their places."""
        self._stack.close()


def _sequence(prediction: Prediction) -> str:
    """Return what a frame's track numbers belong to: its video; images are one sequence without a name."""
    return "" if prediction.image.frame is None else prediction.image.name


def print_tracks(summary: TrackSummary, console: Console) -> None:
    """Print how many objects were followed, what was counted, and what could not be read."""
    from rich.table import Table
    from rich.text import Text

    table = Table("class", "tracks", box=None, pad_edge=False)
    for name, count in summary.tracks.most_common():
        table.add_row(Text(visible(name)), str(count))
    console.print(table)
    total = summary.tracks.total()
    console.print(f"\n{total} object{'s' * (total != 1)} followed in {summary.frames} frames", highlight=False)
    for number, line in enumerate(summary.counts.lines, start=1):
        console.print(f"line {number}: {line.crossed_in} in, {line.crossed_out} out", highlight=False)
    for number, zone in enumerate(summary.counts.zones, start=1):
        console.print(f"zone {number}: {len(zone.ids)} in all, at most {zone.most} at once", highlight=False)
    if summary.passed_over:
        console.print(Text(passed_over_text(summary.passed_over)), soft_wrap=True)
    if summary.rescued:
        console.print(Text(f"lines of a run that was killed: {visible(summary.rescued)}"), soft_wrap=True)
    for entry in summary.unreadable:
        console.print(Text(f"could not be read: {visible(entry.reason)}"), soft_wrap=True)
