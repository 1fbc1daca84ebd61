"""The verb that turns a checkpoint of others into a model file: import."""

from __future__ import annotations

from argparse import Namespace

from crossstage.cli.arguments import Parser
from crossstage.cli.pack import say_digest
from crossstage.cli.verb import Verb


def declare(parser: Parser) -> None:
    """Declare the arguments of import."""
    parser.positional(
        "file", "The checkpoint, as its authors' code wrote it: .pth, .pt or .safetensors. Nothing in it is run."
    )
    parser.option("as", "Our name of its network, such as yolox_tiny.", required=True)
    parser.option("out", "The .safetensors file to write; by default beside the checkpoint, with the same name.")
    parser.several("class_names", "Names of the classes, in order; by default those of the authors' weights, if known.")
    parser.option("source", "What was trained and by whom, for the file's header.")
    parser.option("licence", "The licence of the weights, for the file's header.")
    parser.option("trained_on", "The training data, for the file's header.")
    parser.flag("half", "Store float16, which halves the file.")


def run(given: Namespace) -> int:
    """Write the file, and print its digest."""
    from crossstage.weights.from_authors import import_checkpoint

    origin = {name: getattr(given, name) for name in ("source", "licence", "trained_on")}
    written = import_checkpoint(
        given.file, vars(given)["as"], given.out, class_names=given.class_names, half=given.half, **origin
    )
    say_digest(str(written))
    return 0


VERB = Verb("Turn a checkpoint of its authors' code, such as YOLOX's .pth, into a model file.", declare, run)
