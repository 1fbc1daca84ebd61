"""The verb that labels images by a model, for a person to correct: label."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say
from crossstage.cli.opening import declare_opening, open_given
from crossstage.cli.predict import MOST_DETECTIONS, declare_suppression, declare_tiles, nms_of, tiling_of
from crossstage.cli.verb import FOUND_FAULTS, Verb
from crossstage.errors import ConfigError


def declare(parser: Parser) -> None:
    """Declare the arguments of label."""
    parser.positional("source", "An image, folder, glob or .txt list.")
    declare_opening(parser)
    parser.option("format", "The format of the labels.", default="yolo", choices=names.label_formats())
    parser.option("out", "The folder for images and labels; nothing may be in it.", default="labels")
    parser.option("conf", "Objects that score more than this are labelled.", float, 0.4)
    declare_suppression(parser, MOST_DETECTIONS)
    declare_tiles(parser)
    parser.several("classes", "Names or ids of the classes to label, apart or with commas; by default all.")
    parser.flag("link", "Link images instead of copying them: no space is taken, and changes show in both.")


def run(given: Namespace) -> int:
    """Label images, and say what was found."""
    from crossstage.data.prelabels import label_images
    from crossstage.data.writing import check_target
    from crossstage.inference.tiles import predictor_for

    check_target(Path(given.out), given.format)  # refused before a model is opened
    opened = open_given(given)
    if not opened.detector:
        raise ConfigError(f"{given.model} is a classifier; label needs a detector")
    how = {"imgsz": given.imgsz, "batch": given.batch}
    predictor = predictor_for(opened.detector, nms_of(given, opened.detector), tiling_of(given), **how)
    found = label_images(
        predictor, given.source, Path(given.out), given.format, link=given.link, progress=not given.quiet
    )
    for entry in found.unreadable:
        console(stderr=True).print(entry.reason, markup=False, highlight=False, soft_wrap=True)
    objects, images = len(found.scores), len(found.data)
    empty = images - int(found.data.labelled.sum())
    say(f"{given.out}: {given.format}; {objects} objects in {images} images, {empty} of them without any")
    return FOUND_FAULTS if found.unreadable else 0


VERB = Verb("Label images by a model, for a label tool to correct and for training.", declare, run)
