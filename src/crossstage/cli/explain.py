"""The verb that shows what an answer rests on: explain."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from crossstage.cli import names
from crossstage.cli.arguments import Parser
from crossstage.cli.console import say
from crossstage.cli.opening import MODEL
from crossstage.cli.verb import FOUND_FAULTS, Verb
from crossstage.errors import ConfigError


def declare(parser: Parser) -> None:
    """Declare the arguments of explain."""
    parser.positional("source", "An image, folder, glob or .txt list.")
    parser.option("model", MODEL, default=names.DEFAULT_MODEL)
    parser.option("save", "The folder for copies with the map over them.", required=True)
    parser.option("class", "Name or id of the class; by default the likeliest, and all that a detector finds.")
    parser.option("layer", "Name of the module whose output is looked at.", default="backbone")
    parser.option("conf", "Detections that score more than this are looked at.", float, 0.25)
    parser.option("device", "Where to run, such as cpu or cuda:1; by default a GPU if there is one.")


def run(given: Namespace) -> int:
    """Work out the maps, and print and write them."""
    from crossstage.inference.class_names import class_ids_of
    from crossstage.inference.explaining import explain, laid_over
    from crossstage.inference.outputs import Inputs
    from crossstage.inference.sources import Source, Unreadable
    from crossstage.inference.writing import AnnotatedCopies
    from crossstage.ops.nms import changed
    from crossstage.weights.loading import load_on

    images = Source(given.source)
    if images.live:
        raise ConfigError(f"{given.source} is a camera or stream; expected images")
    model: Any = load_on(given.model, given.device)
    wanted = vars(given)["class"]
    ids = class_ids_of(wanted, model.class_names) if wanted is not None else None
    nms = changed(model.nms, score=given.conf) if hasattr(model, "detect") else None
    copies, unreadable = AnnotatedCopies(Path(given.save), Inputs(images.files)), 0
    for image in images:
        if isinstance(image, Unreadable):
            unreadable += 1
            say(f"skipped {image.reason}")
            continue
        heat, score = explain(model, image.pixels, class_id=ids[0] if ids else None, layer=given.layer, nms=nms)
        copies.write(image, laid_over(image.pixels, heat))
        say(
            f"{image.name}: {'scores' if nms else 'probability'} {score:.2f}"
            if score
            else f"{image.name}: nothing found"
        )
    copies.close()
    say(f"written: {given.save}")
    return FOUND_FAULTS if unreadable else 0


VERB = Verb("Show which parts of images a classification, or what was found, rests on.", declare, run)
