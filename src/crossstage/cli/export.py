"""The verb that writes models for other programs: export."""

from __future__ import annotations

from argparse import Namespace

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say, working
from crossstage.cli.opening import MODEL, SIZE
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError


def declare(parser: Parser) -> None:
    """Declare the arguments of export."""
    parser.positional("model", MODEL)
    parser.option("format", "The format of the file.", default="onnx", choices=names.export_formats())
    parser.option(
        "out",
        "The file or folder to write; by default the model's name in the current folder. The weights and names of a "
        "Darknet cfg go beside it.",
    )
    parser.size("imgsz", SIZE)
    parser.flag("dynamic", "The file takes any number of images of any size.")
    parser.flag("half", "Store float16.")
    parser.flag("int8", "Quantise to int8, by the images of calib.")
    parser.option("calib", "Images to quantise by: a dataset, whose training part is taken, or a folder.")
    parser.flag("decode", "The file gives boxes and scores instead of raw maps.")
    parser.flag("nms", "Suppress overlapping boxes inside the graph, which gives detections alone.")
    parser.option("conf", "With nms, detections that score more than this are kept.", float, 0.25)
    parser.option(
        "iou",
        "With nms, of two boxes of a class that overlap more, the weaker is dropped; by default the model's own, 0.45 "
        "of YOLO detectors.",
        float,
    )
    parser.option("max_detections", "With nms, the most detections of an image.", int, 300)


def run(given: Namespace) -> int:
    """Write the file, and print its size and how its outputs differ from PyTorch's."""
    from crossstage.deploy.backends import formats
    from crossstage.deploy.export import export
    from crossstage.ops.nms import NMS, changed
    from crossstage.weights.loading import load_on
    from crossstage.weights.ref import parse

    if given.int8 != (given.calib is not None):
        raise ConfigError("int8 and calib go together; expected --int8 --calib DATA")
    model = load_on(given.model, "cpu")
    own = getattr(model, "nms", NMS())
    suppression = changed(own, score=given.conf, iou=given.iou, max_detections=given.max_detections)
    with working(f"writing {given.format}", given.quiet):
        done = export(
            model,
            parse(given.model).stem,
            given.format,
            given.out,
            imgsz=given.imgsz,
            dynamic=given.dynamic,
            half=given.half,
            calib=given.calib,
            decode=given.decode,
            nms=suppression if given.nms else None,
        )
    size = sum(file.stat().st_size for file in done.files)
    note = formats()[given.format].note
    checked = "" if done.difference is None else f"; its outputs differ from PyTorch's by {done.difference:.1e}"
    for remark in done.remarks:
        console(stderr=True, quiet=given.quiet).print(remark, style="yellow", markup=False, soft_wrap=True)
    say(f"{done.path}: {size / 1e6:.1f} MB{note and f', {note}'}, in {done.seconds:.0f} s{checked}")
    return 0


VERB = Verb("Write a model as a file that other programs run.", declare, run)
