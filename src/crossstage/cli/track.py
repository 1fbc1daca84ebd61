"""The verb that follows objects through videos: track."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console
from crossstage.cli.opening import declare_opening, open_given
from crossstage.cli.predict import MOST_DETECTIONS, declare_live, declare_suppression, live_view, nms_of
from crossstage.cli.verb import FOUND_FAULTS, SIGNALLED, Verb
from crossstage.errors import ConfigError


def declare(parser: Parser) -> None:
    """Declare the arguments of track."""
    parser.positional(
        "source",
        "A video, a folder of videos or of frames in their order, a glob, a camera's number, or a stream's address.",
    )
    declare_opening(parser)
    parser.option("tracker", "How objects are followed.", default="bytetrack", choices=names.trackers())
    parser.option("conf", "Detections that score more than this begin a track; weaker ones continue it.", float, 0.25)
    declare_suppression(parser, MOST_DETECTIONS)
    parser.several("classes", "Names or ids of the classes to follow, apart or with commas; by default all.")
    parser.option("fps", "Frames per second of a folder of frames; a video tells its own.", float)
    parser.several("line", "Lines to count at, each as x,y,x,y in pixels.", commas=False)
    parser.several("zone", "Zones to count in, each as x,y,x,y,x,y and so on in pixels.", commas=False)
    parser.option("save", "The folder for copies with boxes, traces and counts.")
    parser.option("json", "The file for one JSON object for each frame, with a track_id for each object.")
    parser.option("csv", "The file for a table with a line for each object of each frame.")
    declare_live(parser)
    parser.option("mot", "The folder for a file of each video in the MOT challenge's format.")


def run(given: Namespace) -> int:
    """Follow objects, and print and write what was found."""
    from crossstage.inference.counting import counts_of
    from crossstage.inference.predictor import Predictor
    from crossstage.inference.tracking import Tracker, weak
    from crossstage.inference.tracking_run import TrackOutputs, print_tracks, track_to_files

    counts = counts_of(given.line or (), given.zone or ())
    if given.fps is not None and not 0 < given.fps <= 1000:
        raise ConfigError(f"fps={given.fps}; expected frames per second, above 0")
    Tracker(given.tracker, conf=given.conf)  # refused before a model is opened
    opened = open_given(given)
    if not opened.detector:
        raise ConfigError(f"{given.model} is a classifier; tracking needs a detector")
    predictor = Predictor(opened.detector, weak(nms_of(given, opened.detector)), imgsz=given.imgsz, batch=given.batch)
    files = {key: Path(path) for key in ("save", "json", "csv", "mot") if (path := getattr(given, key))}
    with live_view(given) as live:
        summary = track_to_files(
            predictor,
            given.source,
            TrackOutputs(**files, live=live),
            kind=given.tracker,
            conf=given.conf,
            frame_rate=given.fps,
            counts=counts,
            progress=not given.quiet,
        )
    print_tracks(summary, console())
    if summary.signal:
        return SIGNALLED + summary.signal
    return FOUND_FAULTS if summary.unreadable else 0


VERB = Verb("Follow objects through videos, and count those that cross lines or are in zones.", declare, run)
