"""The verb that writes models for other programs: export."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import console, say, table, working
from crossstage.cli.opening import MODEL, SIZE
from crossstage.cli.verb import Verb
from crossstage.errors import ConfigError

if TYPE_CHECKING:
    from crossstage.deploy.export import Exported


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
    parser.option("val", "A dataset; average precision or accuracy on it, before and after, is printed.")
    parser.option(
        "max_loss",
        "The most points of average precision, or of top-1 accuracy, that may be lost on val. Layers of an int8 file "
        "stay in float until it is kept; if it cannot be, nothing is written and the exit code is 1.",
        float,
    )
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
    from crossstage.deploy.export import export
    from crossstage.ops.nms import NMS, changed
    from crossstage.weights.loading import load_on
    from crossstage.weights.ref import parse

    if given.int8 != (given.calib is not None):
        raise ConfigError("int8 and calib go together; expected --int8 --calib DATA")
    if given.max_loss is not None and given.val is None:
        raise ConfigError("max_loss is measured on val; expected --max-loss POINTS --val DATA")
    model = load_on(given.model, "cpu")
    own = getattr(model, "nms", NMS())
    suppression = changed(own, score=given.conf, iou=given.iou, max_detections=given.max_detections)
    options: dict[str, Any] = {
        "imgsz": given.imgsz,
        "dynamic": given.dynamic,
        "half": given.half,
        "calib": given.calib,
        "decode": given.decode,
        "nms": suppression if given.nms else None,
    }
    what = (model, parse(given.model).stem, given.format, given.out)
    if given.val is not None:
        return _measured(given, what, options)
    with working(f"writing {given.format}", given.quiet):
        done = export(*what, **options)
    _say_written(given, done)
    return 0


def _measured(given: Namespace, what: tuple[Any, ...], options: dict[str, Any]) -> int:
    """Write the file and print what it costs; 1 if it costs more than it may."""
    from crossstage.deploy.cost import export_measured

    cost = export_measured(*what, val=given.val, max_loss=given.max_loss, progress=not given.quiet, **options)
    if cost.within:
        _say_written(given, cost.exported)
    say(f"on {given.val}, points of 100:")
    printed = table("", *cost.before, numbers=len(cost.before))
    rows = {"PyTorch": cost.before, f"{given.format} ({cost.runtime})": cost.after}
    rows["loss"] = {name: score - cost.after[name] for name, score in cost.before.items()}
    for label, scores in rows.items():
        printed.add_row(label, *(f"{100 * score:.2f}" for score in scores.values()))
    console().print(printed)
    if cost.in_float:
        say(f"{len(cost.in_float)} layers {'stay' if cost.within else 'stayed'} in float: {', '.join(cost.in_float)}")
    if not cost.within:
        say(f"the loss of {cost.loss:.2f} points is more than --max-loss {given.max_loss:g}; nothing is written")
    return 0 if cost.within else 1


def _say_written(given: Namespace, done: Exported) -> None:
    from crossstage.deploy.backends import formats

    size = sum(file.stat().st_size for file in done.files)
    note = formats()[given.format].note
    checked = "" if done.difference is None else f"; its outputs differ from PyTorch's by {done.difference:.1e}"
    for remark in done.remarks:
        console(stderr=True, quiet=given.quiet).print(remark, style="yellow", markup=False, soft_wrap=True)
    say(f"{done.path}: {size / 1e6:.1f} MB{note and f', {note}'}, in {done.seconds:.0f} s{checked}")


VERB = Verb("Write a model as a file that other programs run.", declare, run)
