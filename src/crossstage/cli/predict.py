"""The verb that finds objects in images and videos, or says what images show: predict."""

from __future__ import annotations

from argparse import Namespace
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console
from crossstage.cli.opening import declare_opening, open_given
from crossstage.cli.verb import FOUND_FAULTS, SIGNALLED, Verb
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from crossstage.deploy.open import Opened
    from crossstage.inference.live import LiveView
    from crossstage.inference.model import DetectionModel
    from crossstage.inference.tiles import Tiling
    from crossstage.ops.nms import NMS

MOST_DETECTIONS = 300


def declare(parser: Parser) -> None:
    """Declare the arguments of predict."""
    parser.positional("source", "An image, folder, glob, .txt list, video file, camera number or stream's address.")
    declare_opening(parser)
    parser.option("conf", "Detections that score more than this are kept.", float, 0.25)
    declare_suppression(parser, MOST_DETECTIONS)
    declare_tiles(parser)
    parser.several("classes", "Names or ids of the classes to look for, apart or with commas; by default all.")
    parser.flag("compiled", "torch compiles the model, which takes a minute and pays off on long runs.")
    parser.option("save", "The folder for annotated copies.")
    declare_live(parser)
    parser.option(
        "json",
        "The file for the detections, one JSON object for each image or frame. It appears when the run is over, or is "
        "ended by a signal, with all images that are finished; a pipe or device gets each line at once.",
    )


def declare_live(parser: Parser) -> None:
    """Declare the page on which frames are shown."""
    parser.option(
        "live",
        "The port of a page on this machine that shows what is found while it is found; 0 takes a free one.",
        int,
    )


def live_view(given: Namespace) -> AbstractContextManager[LiveView | None]:
    """Open the page on which frames are shown, and print where it is; without ``--live`` there is none."""
    from crossstage.inference.live import LiveView

    if given.live is None:
        return nullcontext()
    view = LiveView(given.live)
    console(stderr=True).print(f"live: {view.address}", highlight=False)
    return view


def declare_tiles(parser: Parser) -> None:
    """Declare how large images are cut."""
    parser.option(
        "tiles",
        "Look at large images in tiles of this side in pixels, too, so that small objects are not scaled away; the "
        "model's input size shows them at their own scale.",
        int,
    )
    parser.option("overlap", "The least share of a tile that its neighbour covers, too.", float, 0.2)


def tiling_of(given: Namespace) -> Tiling | None:
    """Return how large images are to be cut; None if they are not."""
    from crossstage.inference.tiles import Tiling

    return None if given.tiles is None else Tiling(given.tiles, given.overlap)


def declare_suppression(parser: Parser, most: int) -> None:
    """Declare how overlapping boxes are suppressed, and the most detections of an image."""
    parser.option(
        "iou",
        "Of two boxes of a class that overlap more than this, the weaker is dropped; by default the model's own, 0.45 "
        "of YOLO detectors.",
        float,
    )
    parser.option(
        "nms",
        "How that overlap is measured: by IoU, by distance-IoU, or by IoU whatever the classes are (agnostic); none "
        "drops no box. By default the model's own, iou of nearly all.",
        choices=names.nms_kinds(),
    )
    parser.option("max_detections", "The most detections of an image, the best first.", int, most)


def nms_of(given: Namespace, detector: DetectionModel) -> NMS:
    """Return how a detector's boxes become detections: its own way, less what the options change."""
    from crossstage.inference.class_names import class_ids_of
    from crossstage.ops.nms import changed

    return changed(
        detector.nms,
        score=given.conf,
        iou=given.iou,
        kind=given.nms,
        max_detections=given.max_detections,
        class_ids=class_ids_of(given.classes, detector.class_names),
    )


def run(given: Namespace) -> int:
    """Find objects, or classify images, and print and write what was found."""
    from crossstage.deploy.open import streams_for
    from crossstage.inference.sources import Source

    images = Source(given.source)
    streams = streams_for(given.threads, single=images.single, live=images.live)
    opened = open_given(given, compiled=given.compiled, streams=streams)
    return _classify(given, opened) if opened.classifier else _detect(given, opened)


def _classify(given: Namespace, opened: Opened) -> int:
    from crossstage.inference.classify import ClassPredictor, classify_to_files

    if given.classes or given.nms or given.tiles or given.iou is not None or given.live is not None:
        raise ConfigError(f"{given.model} is a classifier; classes, nms, iou, tiles and live are for detectors")
    assert opened.classifier
    predictor = ClassPredictor(opened.classifier, imgsz=given.imgsz, batch=given.batch, streams=opened.streams)
    save, json = (Path(path) if path else None for path in (given.save, given.json))
    done = classify_to_files(predictor, given.source, console(), json=json, save=save)
    return SIGNALLED + done.signal if done.signal else FOUND_FAULTS if done.unreadable else 0


def _detect(given: Namespace, opened: Opened) -> int:
    from crossstage.inference.run import predict_to_files, print_summary
    from crossstage.inference.tiles import predictor_for

    assert opened.detector
    how = {"imgsz": given.imgsz, "batch": given.batch, "streams": opened.streams}
    predictor = predictor_for(opened.detector, nms_of(given, opened.detector), tiling_of(given), **how)
    save, json = (Path(path) if path else None for path in (given.save, given.json))
    with live_view(given) as live:
        summary = predict_to_files(predictor, given.source, save=save, json=json, live=live, progress=not given.quiet)
    print_summary(summary, console())
    if summary.interrupted:
        return SIGNALLED + summary.signal
    return FOUND_FAULTS if summary.unreadable else 0


VERB = Verb("Find objects in images and videos, or tell what images show.", declare, run)
